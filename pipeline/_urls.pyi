"""Plain URLs in C; `urls.py` does without where it is not built."""

def is_plain(url: str, /) -> bool:
    """Return whether resolving leaves a URL as it is; in doubt not."""
