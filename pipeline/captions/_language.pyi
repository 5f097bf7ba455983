"""The language model in C; `language.py` does without where it is not built."""

from collections.abc import Set

class Model: ...

def load(data: bytes, /) -> Model:
    """Return a model from the bytes of its file; ValueError for another kind of model."""

def predict(model: Model, line: str, k: int, /) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the k likeliest labels of a line, 16 at most, and their probabilities."""

def tell(
    model: Model,
    text: str,
    letters: int,
    not_latin: Set[str] | None,
    certainty: float,
    known: dict[str, float],
    unknown: float,
    wanted: str,
    /,
) -> tuple[str, float, float] | None:
    """Return the language of a text, its probability and that of the wanted one; None without a letter.

    letters: how many the text has, -1 to count them and to lower-case the text, which is ASCII.
    not_latin: of a text without a Latin letter, the languages that need none.
    known, unknown: the prior.
    """
