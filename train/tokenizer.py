"""CLIP's tokenizer: lower-cased byte pairs, each word ending in `</w>` (arXiv:2103.00020, section 2.4).

Ids: 256 bytes, the same 256 ending a word, one for each merge in order, start of text, end of text.
"""

import gzip
import html
import importlib.util
import io
import re
import zlib
from collections.abc import Iterable
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Final

import ftfy
import regex  # type: ignore[import-untyped]

from pipeline import storage

START, END = "<|startoftext|>", "<|endoftext|>"
CLIP_MERGES = 48_894  # 49,408 ids = 2 x 256 bytes + 48,894 merges + 2; its file holds more, unused

_WORD = regex.compile(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
    regex.IGNORECASE,
)
# Neither entities, nor markup, nor control characters: nothing for ftfy or html.unescape to repair.
_PLAIN = re.compile(r"[^&<\x00-\x08\x0b-\x1f\x7f]*").fullmatch
_LARGEST = 16 << 20  # bytes of a vocabulary; CLIP's own file has 3 million
LONGEST = 8_192  # characters of a caption that are looked at, far more than its tokens can spell
PER_TOKEN = 32  # the same for a longer context
_CACHE_LIMIT = 1 << 20  # distinct words; above it the cache is emptied


def _byte_alphabet() -> dict[int, str]:
    """Give each byte a printable character: itself, or if that is unprintable the next free from U+0100."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    alphabet = {byte: chr(byte) for byte in printable}
    rest = [byte for byte in range(256) if byte not in alphabet]
    return alphabet | {byte: chr(256 + index) for index, byte in enumerate(rest)}


BYTES = _byte_alphabet()


def repair(text: str) -> str:
    """Repair encoding and entities, and collapse white space."""
    if not (text.isascii() and _PLAIN(text)):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


def clean(text: str) -> str:
    """Repair encoding and entities, collapse white space, lower-case."""
    return repair(text).lower()


def shorten(text: str, longest: int = LONGEST) -> str:
    """Return a text's first words, up to that many characters: cleaning a megabyte costs seconds, for
    nothing.

    Whatever is shorter stays as it is.
    """
    if len(text) <= longest:
        return text
    text = text.lstrip()[:longest]
    return text.rpartition(" ")[0] or text


def words(text: str) -> list[str]:
    """Split cleaned text as CLIP does: letters, single digits, runs of symbols, English contractions."""
    return _WORD.findall(text)  # type: ignore[no-any-return]


class Tokenizer:
    """Turn captions into ids, remembering every word seen."""

    file: Final = "bpe_vocab.txt.gz"
    """The name of its file beside a checkpoint's weights."""

    def __init__(self, merges: list[tuple[str, str]]) -> None:
        self.merges = merges
        self._ids = self.vocabulary()
        self.start, self.end = self._ids[START], self._ids[END]
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._special = {START: (self.start,), END: (self.end,)}
        self._cache: dict[str, tuple[int, ...]] = {}

    @property
    def vocab_size(self) -> int:
        """Return the number of ids."""
        return self.end + 1

    @cached_property
    def is_clips(self) -> bool:
        """Return whether this is CLIP's own vocabulary, by its size and last merge."""
        return len(self.merges) == CLIP_MERGES and self.merges[-1] == ("jeky", "ll</w>")

    def vocabulary(self) -> dict[str, int]:
        """Return every token's id."""
        tokens = [
            *BYTES.values(),
            *(c + "</w>" for c in BYTES.values()),
            *map("".join, self.merges),
            START,
            END,
        ]
        return {token: index for index, token in enumerate(tokens)}

    def encode(self, text: str, context_length: int | None = 77) -> list[int]:
        """Return ids with start and end; longer captions keep their first tokens and the end."""
        if context_length is not None:
            text = shorten(text, max(LONGEST, PER_TOKEN * context_length))
        ids = [self.start]
        cache = self._cache
        # No pattern of `words` crosses a space, so the text between spaces is the unit to remember.
        for chunk in clean(text).split(" "):
            found = cache.get(chunk)
            if found is None:
                found = self._remember(chunk)
            ids += found
        ids.append(self.end)
        if context_length is not None and len(ids) > context_length:
            ids[context_length - 1 :] = [self.end]
        return ids

    def caption(self, text: str, context_length: int = 77) -> list[int]:
        """Return ids up to the first end: CLIP reads a caption's features there, whatever follows."""
        ids = self.encode(text, context_length)
        return ids[: ids.index(self.end) + 1]

    def decode(self, ids: Iterable[int]) -> str:
        """Return the text of ids, spaces after words, special tokens left out."""
        tokens = {index: token for token, index in self._ids.items()}
        text = "".join(tokens[i] for i in ids if i not in (self.start, self.end))
        raw = {character: byte for byte, character in BYTES.items()}
        parts = [bytes(raw[c] for c in part).decode("utf-8", "replace") for part in text.split("</w>")]
        return " ".join(parts).strip()

    def _remember(self, chunk: str) -> tuple[int, ...]:
        if len(self._cache) >= _CACHE_LIMIT:
            self._cache.clear()
        ids = tuple(i for word in words(chunk) for i in self._special.get(word) or self._merge(word))
        self._cache[chunk] = ids
        return ids

    def _merge(self, word: str) -> tuple[int, ...]:
        parts = [BYTES[byte] for byte in word.encode("utf-8")]
        parts[-1] += "</w>"
        while len(parts) > 1:
            ranks = [self._ranks.get(pair, len(self.merges)) for pair in pairwise(parts)]
            best = min(ranks)
            if best == len(self.merges):
                break
            left, right = self.merges[best]
            merged: list[str] = []
            for part in parts:
                if merged and merged[-1] == left and part == right:
                    merged[-1] = left + right
                else:
                    merged.append(part)
            parts = merged
        return tuple(self._ids[part] for part in parts)

    def save(self, path: Path) -> None:
        """Write the merges as CLIP's own file has them; the same merges give the same bytes.

        No newline ends the last line: open_clip would take the empty line after it for a merge.
        """
        path.write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """Return the file that `save` writes."""
        lines = ["#version: 0.2", *(f"{left} {right}" for left, right in self.merges)]
        return gzip.compress("\n".join(lines).encode(), mtime=0)

    @classmethod
    def load(cls, path: Path | str) -> "Tokenizer":
        """Read a merges file, gzipped or not; of CLIP's own file the lines that CLIP uses; ValueError."""
        lines = _read_text(str(path)).split("\n")[1:]  # the first names the version
        pairs = [tuple(line.split()) for line in lines[:CLIP_MERGES] if line]
        bad = next((pair for pair in pairs if len(pair) != 2), None)
        if bad is not None:
            raise ValueError(
                f"{path} is not a file of merges: expected two tokens per line, found {' '.join(bad)!r}"
            )
        return cls([(left, right) for left, right in pairs])


def _read_text(path: str) -> str:
    """Return a vocabulary's text, of which no more is unpacked than any vocabulary has; ValueError."""
    if not storage.exists(path):
        raise ValueError(f"{path}: there is no such vocabulary")
    try:
        with storage.open_input(path) as file:
            data = file.read(_LARGEST + 1)
            if data[:2] == b"\x1f\x8b":
                with gzip.GzipFile(fileobj=io.BytesIO(data)) as unpacked:
                    data = unpacked.read(_LARGEST + 1)
        if len(data) > _LARGEST:
            raise ValueError(f"it holds more than {_LARGEST:,} bytes")
        return data.decode("utf-8")
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is no vocabulary, a file of merges: {error}") from error


def installed_vocabulary() -> Path | None:
    """Return CLIP's vocabulary inside an installed open_clip_torch, found without importing it."""
    spec = importlib.util.find_spec("open_clip")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "bpe_simple_vocab_16e6.txt.gz"
    return path if path.exists() else None
