"""The index over queries in C; `match.py` does without where it is not built."""

class Index:
    """Queries, each as its tokens joined by spaces."""

    def __init__(self, queries: list[str], /) -> None: ...
    def match(self, text: str, /) -> list[int]:
        """Return the ids of the queries that occur in a text, ascending; beyond ASCII it has to be folded."""
