"""WAT records searched in C; `wat_links.py` does without where it is not built."""

from pipeline.sources.wat_links import Link

def links(
    data: bytes, site: str, longest_url: int, longest_text: int, alt: str, title: str, /
) -> list[Link | int]:
    """Return the image links of a record, as `wat_links.links` does; `longest_url` is at most 4096."""

def words(data: bytes, stop: int, words: tuple[bytes, ...], /) -> list[bytes]:
    """Return those of at most 32 words in small letters that stand in data[:stop], in any case."""

def has(data: bytes, word: bytes, /) -> bool:
    """Return whether a word stands in `data`."""
