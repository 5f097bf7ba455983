"""A vocabulary of Hugging Face's, a tokenizer.json, read by their package `tokenizers`.

Texts are repaired as CLIP's are, but for the case, as open_clip does for such a tokenizer. A caption's
features are read at its end token, so a tokenizer that ends no text (GPT-2's) is made to.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Final

from pipeline import storage
from train.tokenizer import LONGEST, PER_TOKEN, Tokenizer, repair, shorten

FILE: Final = "tokenizer.json"
_LARGEST: Final = 64 << 20  # bytes; one of 250,000 tokens has 17 million
_ENDS: Final = (
    "<|endoftext|>",
    "</s>",
    "<eos>",
    "[SEP]",
    "<|end_of_text|>",
)  # of tokenizers that end no text


class HuggingFaceTokenizer:
    """Turn captions into ids as a tokenizer.json says."""

    is_clips: Final = False
    file: Final = FILE

    def __init__(self, data: bytes, name: str = FILE) -> None:
        """Read a tokenizer.json; ValueError, with its name, for anything that is none, or without the
        package."""
        try:
            import tokenizers
            from tokenizers.processors import TemplateProcessing
        except ImportError as error:
            raise ValueError(f"{name} needs the package tokenizers: pip install tokenizers") from error
        try:
            inner = tokenizers.Tokenizer.from_str(data.decode("utf-8"))
        except Exception as error:  # of whatever kind their parser raises
            raise ValueError(f"{name} is no tokenizer.json: {error}") from error
        inner.no_padding()
        inner.no_truncation()
        self._inner = inner
        self.prefix, self.suffix = self._around()
        if not self.suffix:
            found = next((end for end in _ENDS if inner.token_to_id(end) is not None), None)
            if found is None:
                raise ValueError(
                    f"{name} adds no end token, and CLIP reads a caption there: give its "
                    f"post_processor an end token, or add one of {', '.join(_ENDS)}"
                )
            inner.post_processor = TemplateProcessing(
                single=f"$A {found}", special_tokens=[(found, inner.token_to_id(found))]
            )
            self.prefix, self.suffix = self._around()
        self.end = self.suffix[-1]
        self.start = self.prefix[0] if self.prefix else self.end
        self.vocab_size = 1 + max(inner.get_vocab(with_added_tokens=True).values())

    def _around(self) -> tuple[list[int], list[int]]:
        """Return the ids that are put before and after every text."""
        inside = self._inner.encode("a", add_special_tokens=False).ids
        whole = self._inner.encode("a").ids
        places = (at for at in range(len(whole)) if whole[at : at + len(inside)] == inside)
        start = next(places, 0)
        return whole[:start], whole[start + len(inside) :]

    def __reduce__(self) -> tuple[type["HuggingFaceTokenizer"], tuple[bytes]]:
        """Travel to other processes as the file."""
        return HuggingFaceTokenizer, (self.to_bytes(),)

    def encode(self, text: str, context_length: int | None = 77) -> list[int]:
        """Return ids with the special tokens; longer captions keep their first tokens and the end."""
        if context_length is not None:
            text = shorten(text, max(LONGEST, PER_TOKEN * context_length))
        ids = self._inner.encode(repair(text), add_special_tokens=False).ids
        if context_length is not None:
            ids = ids[: max(0, context_length - len(self.prefix) - len(self.suffix))]
        return [*self.prefix, *ids, *self.suffix]

    def caption(self, text: str, context_length: int = 77) -> list[int]:
        """Return ids up to the first end: features are read there, whatever a text has after it."""
        ids = self.encode(text, context_length)
        return ids[: ids.index(self.end, len(self.prefix)) + 1]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, special tokens left out."""
        return str(self._inner.decode(list(ids)))

    def token(self, number: int) -> str:
        """Return the token of an id."""
        return str(self._inner.id_to_token(number))

    def to_bytes(self) -> bytes:
        """Return the tokenizer.json, with the end token that it may have lacked."""
        return str(self._inner.to_str()).encode()


AnyTokenizer = Tokenizer | HuggingFaceTokenizer


def load(path: Path | str) -> AnyTokenizer:
    """Read a vocabulary: a tokenizer.json, or a file of merges; ValueError for anything that is neither."""
    name = str(path)
    if not name.endswith(".json"):
        return Tokenizer.load(path)
    if not storage.exists(name):
        raise ValueError(f"{name}: there is no such vocabulary")
    with storage.open_input(name) as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise ValueError(f"{name} is no tokenizer.json: it holds more than {_LARGEST:,} bytes")
    return HuggingFaceTokenizer(data, name)
