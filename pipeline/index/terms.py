"""The terms of a sample as numbers: its words, two and three of them in a row, its tags.

A term is a hash of 63 bits: even for a word or a tag, odd for two or three words in a row. Words are those of
FTS5, so that every sample that FTS5 finds by a word has that word's term.
"""

import itertools
import re
import sqlite3
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import xxhash

Keys = npt.NDArray[np.uint64]
Ids = npt.NDArray[np.uint32]
_PLAIN: Final = re.compile(r"[a-z0-9]+", re.ASCII)
_MOST: Final = 500_000  # words whose terms are remembered
_ONE, _TWO, _THREE = np.array([0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0xD6E8FEB86659FD93], np.uint64)


def words(texts: Sequence[str]) -> list[list[str]]:
    """Return the words of texts as FTS5 sees them: those of plain ASCII at once, others by asking it."""
    found = [_PLAIN.findall(text.lower()) if text.isascii() else [] for text in texts]
    others = [n for n, text in enumerate(texts) if not text.isascii()]
    if others:
        db = sqlite3.connect(":memory:")
        db.execute("CREATE VIRTUAL TABLE t USING fts5 (text)")
        db.execute("CREATE VIRTUAL TABLE words USING fts5vocab (t, 'instance')")
        db.executemany("INSERT INTO t (rowid, text) VALUES (?, ?)", [(n, texts[n]) for n in others])
        for n, _, word in sorted(db.execute('SELECT doc, "offset", term FROM words')):
            found[n].append(word)
        db.close()
    return found


def word(text: str) -> int:
    """Return the term of a word."""
    return int(xxhash.xxh3_64_intdigest(text.encode("utf-8", "surrogatepass"))) >> 2 << 1


def tag(text: str) -> int:
    """Return the term of a tag."""
    return word(f"\0{text}")


def pairs(first: Keys, second: Keys) -> Keys:
    """Return the terms of words, or pairs of them, uint64 [n], that stand before other words, uint64 [n]."""
    mixed = first * _ONE + (second ^ (second >> np.uint64(29))) * _TWO
    mixed ^= mixed >> np.uint64(32)
    mixed *= _THREE
    mixed ^= mixed >> np.uint64(29)
    found: Keys = (mixed >> np.uint64(1)) | np.uint64(1)
    return found


class _Known(dict[str, int]):
    """Terms by word, worked out when they are asked for."""

    def __missing__(self, text: str) -> int:
        found = self[text] = word(text)
        return found


class _KnownTags(_Known):
    def __missing__(self, text: str) -> int:
        found = self[text] = tag(text)
        return found


class Terms:
    """Find the terms of rows."""

    def __init__(self) -> None:
        self._words, self._tags = _Known(), _KnownTags()

    def of(self, rows: Sequence[tuple[Any, ...]]) -> tuple[Keys, Ids]:
        """Return the terms of rows (id, caption, url, tags) in no order, and the id of each: [n], [n]."""
        for known in (self._words, self._tags):
            if len(known) > _MOST:
                known.clear()
        ids = np.array([row[0] for row in rows], np.uint32)
        found = words([row[column] or "" for column in (1, 2) for row in rows])
        keys, text = _flat(found, self._words)
        follows, owner = text[1:] == text[:-1], text % max(len(rows), 1)
        two, third = pairs(keys[:-1], keys[1:]), follows[1:] & follows[:-1]
        three = pairs(two[:-1], keys[2:])[third]
        tagged, of = _flat([[one for one in row[3].split() if one[0] != "r"] for row in rows], self._tags)
        owner = np.concatenate([owner, owner[1:][follows], owner[2:][third], of])
        return np.concatenate([keys, two[follows], three, tagged]), ids[owner]


def _flat(texts: Sequence[Sequence[str]], known: _Known) -> tuple[Keys, npt.NDArray[np.int64]]:
    """Return the terms of all words of texts, and the number of the text of each."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    every = map(known.__getitem__, itertools.chain.from_iterable(texts))
    return np.fromiter(every, np.uint64, int(lengths.sum())), np.repeat(np.arange(len(texts)), lengths)
