"""Plain captions in C; `text.py` does without where it is not built."""

from collections.abc import Set

def plain(text: str, template_words: Set[str], max_repetition: float, /) -> int:
    """Return how many words a caption has that no rule is about, 0 for any other text.

    The number is negative where the text is clean and without contact data, but `text.check` has to read it.
    """
