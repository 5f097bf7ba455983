"""The language model in C; `language.py` does without where it is not built."""

class Model: ...

def load(data: bytes, /) -> Model:
    """Return a model from the bytes of its file; ValueError for another kind of model."""

def predict(model: Model, line: str, k: int, /) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Return the k likeliest labels of a line, 16 at most, and their probabilities."""
