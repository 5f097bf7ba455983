"""Encode plain text as streams of token ids, in blocks of bounded size.

The words of a Wikipedia are looked at once. The next steps work on numbers: a block is its own vocabulary and
the text as ids in it, 0 standing wherever two words do not follow each other in a sentence (a line end, a
punctuation mark, a symbol). From blocks, words are counted by adding vocabularies, and bigrams once the
frequent words are known.
"""

from array import array
from collections.abc import Iterator
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.captions.match import tokens

U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]

BLOCK_TOKENS: Final = 8_000_000
"""Words of a block: its text takes 32 MB as ids, the strings about 200 MB while it is encoded."""

_LINE_END: Final = "\0"  # cannot occur in XML, and is not white space
# Frequent, and never part of a word: a space around them changes no token, and makes one chunk of "word",
# "word," and "(word".
_MARKS: Final = ',.()";:'
_BATCH_CHARACTERS: Final = 1 << 18  # so that NumPy's cost per call is spread over many pages


class TokenBlock(NamedTuple):
    """Hold encoded text: word i+1 of `stream` is words[i], which occurs counts[i] times; 0 is a break."""

    words: list[str]
    counts: I64
    stream: U32


def is_word(token: str) -> bool:
    """Return whether a token of the normaliser is a word: it has a letter or a digit."""
    return token.isalnum() or any(map(str.isalnum, token))


class TokenEncoder:
    """Collect texts into blocks.

    The normaliser never joins texts across white space, so a text's tokens are those of its chunks between
    white space; and few chunks are new. A chunk met before costs one look-up, whatever its characters.
    """

    def __init__(self, block_tokens: int = BLOCK_TOKENS) -> None:
        self._block_tokens = block_tokens
        self._reset()

    def _reset(self) -> None:
        self._word_ids: dict[str, int] = {}
        self._chunks = _Chunks(self._word_ids)
        self._pending: list[str] = []
        self._pending_characters = 0
        self._streams: list[U32] = []
        self._tokens = 0

    def add(self, text: str) -> Iterator[TokenBlock]:
        """Add a text; yields a block when it is full."""
        self._pending.append(text)
        self._pending_characters += len(text) + 1
        if self._pending_characters >= _BATCH_CHARACTERS:
            self._encode()
            if self._tokens >= self._block_tokens:
                yield self._take()

    def finish(self) -> Iterator[TokenBlock]:
        """Yield the rest, if there is any."""
        self._encode()
        if self._tokens:
            yield self._take()

    def _encode(self) -> None:
        text = "\n".join(self._pending).replace("\n", f" {_LINE_END} ")
        for mark in _MARKS:
            text = text.replace(mark, f" {mark} ")
        chunks = text.split()
        chunk_ids = np.fromiter(map(self._chunks.__getitem__, chunks), np.int64, len(chunks))
        stream = self._chunks.expand(chunk_ids)
        # Several breaks in a row count as a single break.
        stream = stream[(stream != 0) | (np.concatenate([[1], stream[:-1]]) != 0)]
        self._streams.extend((stream, np.zeros(1, np.uint32)))
        self._tokens += int(np.count_nonzero(stream))
        self._pending, self._pending_characters = [], 0

    def _take(self) -> TokenBlock:
        stream = np.concatenate(self._streams)
        words = list(self._word_ids)
        counts = np.bincount(stream, minlength=len(words) + 1)[1:]
        self._reset()
        return TokenBlock(words, counts, stream)


class _Chunks(dict[str, int]):
    """Map a chunk to its number, learning new ones, and know the word ids of each number."""

    def __init__(self, word_ids: dict[str, int]) -> None:
        super().__init__()
        self._word_ids = word_ids
        self._ids = array("I", [0])
        self._ends = array("Q", [1])
        self[_LINE_END] = 0

    def __missing__(self, chunk: str) -> int:
        ids = self._word_ids
        for token in tokens(chunk):
            known = ids.get(token)
            if known is None:
                known = 0
                if is_word(token):
                    known = ids[token] = len(ids) + 1
            self._ids.append(known)
        number = self[chunk] = len(self._ends)
        self._ends.append(len(self._ids))
        return number

    def expand(self, numbers: I64) -> U32:
        """Return the word ids of a sequence of chunks."""
        flat = np.array(self._ids, np.uint32)
        ends = np.array(self._ends).astype(np.int64)
        lengths = np.diff(ends, prepend=0)[numbers]
        # The position in `flat` of each token of the result: its chunk's first, plus its place in the chunk.
        first = (ends[numbers] - lengths).repeat(lengths)
        place = np.arange(first.size) - (lengths.cumsum() - lengths).repeat(lengths)
        found: U32 = flat[first + place]
        return found
