"""Which queries occur in a caption: one normaliser for both sides, and an exact index over the queries.

The rule is MetaCLIP's substring rule (Xu et al. 2023, arXiv 2309.16671, section 3.2): surround both text and
query by spaces, surround punctuation by spaces, and ask whether the text contains the query. Because that
rule is about whole tokens, "the query occurs" means exactly "its tokens follow each other in the text", and a
dict of token n-grams answers it for all queries at once. `_match.c` does that in C, with the same answers;
where it is not built, Python does.

`tokens` is openwit's rule; MetaCLIP's own, case and all, is `Matcher(queries, "metaclip")`.
"""

import logging
import unicodedata
from collections.abc import Sequence
from typing import Final, Literal

try:
    from pipeline.captions import _match
except ImportError:
    _match = None  # type: ignore[assignment]

log = logging.getLogger(__name__)

Rule = Literal["openwit", "metaclip"]
"""How captions and queries are cut into tokens: by `tokens`, or by MetaCLIP's published code."""

_PUBLISHED_MARKS: Final = ",.;:?!`"
# MetaCLIP's seven marks, then the signs that tell names apart: C++ from C, C# from C, AT&T from "at t".
_MARKS: Final = _PUBLISHED_MARKS + "#$%&+=@"
# Part of a word between two of its characters, a boundary at its edges: cat-shaped, file_name, dog's.
_JOINERS: Final = "-_'"

# ASCII in one table: letters lower-cased; letters, digits, marks and joiners kept; all else is a boundary.
_ASCII_WORD: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")
_ASCII_TABLE: Final = bytes(
    ord(c) if (c := chr(i).lower()) in _ASCII_WORD or c in _MARKS + _JOINERS else ord(" ") for i in range(128)
) + bytes(128)
_PLAIN: Final = bytes(i for i in range(256) if chr(i) not in _MARKS + _JOINERS)

# Before NFKC, which would turn these into letters of the word beside them ("Nike™" into "niketm") or into a
# space and a combining accent ("dog´s").
_BEFORE_NFKC: Final = {0x2122: " ", 0x2120: " ", 0x00B4: "'"}
_FOLDED: Final = {
    **dict.fromkeys(map(ord, "‘’‛ʼʹ′՚"), "'"),
    **dict.fromkeys(map(ord, "‐‑֊"), "-"),
    **dict.fromkeys(map(ord, "©®"), " "),
}


class _Table(dict[int, str | int]):
    """A translation table that learns a code point when it meets it, so that importing costs nothing."""

    def __missing__(self, code: int) -> str | int:
        value = self.entry(code)
        if code < 0x20000:  # limits the memory that hostile text can take
            self[code] = value
        return value

    def entry(self, code: int) -> str | int:
        raise NotImplementedError


class _Ignorable(_Table):
    """Delete invisible characters: joiners, soft hyphens, direction marks, variation selectors."""

    def entry(self, code: int) -> str | int:
        if code in _BEFORE_NFKC:
            return _BEFORE_NFKC[code]
        selector = 0xFE00 <= code <= 0xFE0F or 0xE0100 <= code <= 0xE01EF
        return "" if selector or unicodedata.category(chr(code)) == "Cf" else code


class _Boundaries(_Table):
    """Keep word characters, make other punctuation a space, and set symbols apart as tokens."""

    def entry(self, code: int) -> str | int:
        if code < 128:
            return _ASCII_TABLE[code]
        if code in _FOLDED:
            return _FOLDED[code]
        category = unicodedata.category(chr(code))
        if category[0] in "LMN" or category == "Pc":
            return code
        return f" {chr(code)} " if category in ("Sc", "Sm", "So") else " "


class _AsWords(_Table):
    """Map ASCII characters, except white space, a to z and 0 to 9, to private characters, which the indexes
    take for letters: then only spaces part words, and nothing folds. """  # fmt: skip

    def entry(self, code: int) -> str | int:
        if 0xD800 <= code < 0xE000:  # has no UTF-8
            return chr(_PRIVATE + 128)
        char = chr(code)
        if code >= 128 or char in _ASCII_WORD:
            return code
        return " " if char in " \t\n\r" else chr(_PRIVATE + code)


_IGNORABLE: Final = _Ignorable()
_BOUNDARIES: Final = _Boundaries()
_PRIVATE: Final = 0xE000  # cleaned captions hold none of these
_AS_WORDS: Final = _AsWords()
_NOTHING: Final = chr(_PRIVATE + ord(" "))
"""The word between two spaces: "a, b" is `a`, `,`, nothing, `b`."""


def tokens(text: str) -> list[str]:
    """Return the tokens of a caption or a query; never raises, and idempotent over `" ".join`.

    1. Characters that are not seen (format controls, variation selectors) are deleted; then NFKC, full case
       folding, NFKC again.
    2. Each of MetaCLIP's seven marks ``, . ; : ? ! ` `` is a token of its own, so "St. Louis" is
       ``st . louis`` in a query as in a text. So is each of ``# $ % & + = @`` and each symbol outside ASCII
       (currency, mathematics, emoji) except ©, ®, ™ and ℠.
    3. Hyphen, underscore and apostrophe belong to the word inside which they stand ("cat-shaped" holds no
       "cat"; "dog's" is one token) and are dropped at its edges; two in a row are a dash or a quote.
    4. Everything else that is not a letter, mark, number or connector is a boundary and dropped: brackets,
       quotes, slashes, pipes, dashes, bullets, control and private characters.

    MetaCLIP spaces only the text, so that each of its queries with one of the seven marks is dead; it keeps
    case, takes "(cat)" and "cat/dog" for one token each, and leaves Unicode variants apart. Its strictness
    also keeps file names and shouting templates out by accident; here `text.check` does so on purpose.
    """
    if text.isascii():
        raw = text.encode().translate(_ASCII_TABLE)
        spaced = raw.decode()
    else:
        spaced = _folded(text)
        raw = spaced.encode()
    special = raw.translate(None, _PLAIN)
    if not special:
        return spaced.split()
    present = set(special.decode())
    for mark in present.difference(_JOINERS):
        spaced = spaced.replace(mark, f" {mark} ")
    if present.isdisjoint(_JOINERS):
        return spaced.split()
    words = spaced.replace("--", " ").replace("''", " ").split()
    return [word for token in words if (word := token.strip(_JOINERS))]


def _folded(text: str) -> str:
    """Return a text with its invisible characters deleted, case folded, and boundaries as spaces."""
    visible = text.translate(_IGNORABLE)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", visible).casefold())
    return folded.translate(_BOUNDARIES)


def _published_words(text: str) -> str:
    """Return a text as the words between which MetaCLIP's code has spaces, each parted by one space."""
    spaced = f" {text} ".translate(_AS_WORDS)
    return spaced.replace("  ", f" {_NOTHING} ").replace("  ", f" {_NOTHING} ")[1:-1]


def _published_text(text: str) -> str:
    for mark in _PUBLISHED_MARKS:
        if mark in text:
            text = text.replace(mark, f" {mark} ")
    return _published_words(text)


def _published_query(query: str) -> str:
    """Return a query's words, "" where its marks or white space never stand so in a text as it is spaced."""
    marked = any(len(word) > 1 and not _SET_OF_MARKS.isdisjoint(word) for word in query.split(" "))
    return "" if marked or not _UNSPACED.isdisjoint(query) else _published_words(query) if query else ""


_SET_OF_MARKS: Final = frozenset(_PUBLISHED_MARKS)
_UNSPACED: Final = frozenset("\t\n\r")


def warn_without_module() -> None:
    """Log a line where Python does the work of the C module."""
    if _match is None:
        log.warning(
            "captions are matched in Python, a sixth as fast: openwit was installed without a C compiler"
        )


class MatchAll:
    """Take every text for a match of query 0, where no list of queries is wanted."""

    def match(self, text: str) -> list[int]:
        """Return query 0."""
        return [0]


class Matcher:
    """An exact index over queries: which of them occur in a text as consecutive tokens.

    Under the rule "metaclip" they are those that MetaCLIP's `substr_matching` finds in a cleaned caption:
    case counts, seven marks and white space alone part words, and "St. Louis" as a query matches nothing.

    >>> openwit.Matcher(["dog", "red house", "cat"]).match("A Red House, and a dog!")
    [0, 1]
    """

    dead: list[int]
    """Ids of the queries without any token, or that no text can hold; they match nothing."""

    def __init__(self, queries: Sequence[str], rule: Rule = "openwit") -> None:
        self._published = rule == "metaclip"
        joined = [_published_query(q) if self._published else " ".join(tokens(q)) for q in queries]
        self.dead = [query_id for query_id, words in enumerate(joined) if not words]
        self._index = None if _match is None else _match.Index(joined)
        self._dict = _DictIndex(joined) if self._index is None else None

    def match(self, text: str) -> list[int]:
        """Return the ids of the queries that occur in `text`, ascending, each once.

        >>> openwit.Matcher(["boat", "red boat", "red"]).match("red boats, a boat")
        [0, 2]
        """
        if self._published:
            text = _published_text(text)
        if self._index is not None:
            return self._index.match(text if self._published or text.isascii() else _folded(text))
        assert self._dict is not None
        return self._dict.match(text.split(" ") if self._published else tokens(text))


class _DictIndex:
    """The index in Python.

    A single dict holds every query, as its tokens joined by spaces, and every proper prefix of a query. A
    match is extended by the next token only while it is such a prefix, so nearly all look-ups are of single
    words.
    """

    def __init__(self, queries: list[str]) -> None:
        # The value is id << 1 | is_prefix, and -1 for a mere prefix (-1 >> 1 is no id, -1 & 1 is 1).
        self._codes: dict[str, int] = {}
        # Queries that normalise alike share the id of the first, which leads to the others.
        self._twins: dict[int, list[int]] = {}
        codes = self._codes
        for query_id, query in enumerate(queries):
            if query:
                code = codes.setdefault(query, query_id << 1)
                if code >> 1 != query_id:
                    self._twins.setdefault(code >> 1, []).append(query_id)
        for query in queries:
            end = query.find(" ")
            while end >= 0:
                prefix = query[:end]
                codes[prefix] = codes.get(prefix, -1) | 1
                end = query.find(" ", end + 1)

    def match(self, words: list[str]) -> list[int]:
        """Return the ids of the queries that occur in a text's words, ascending, each once."""
        get = self._codes.get
        hits: list[int] = []
        for start, code in enumerate(map(get, words), 1):
            if code is None:
                continue
            if code >= 0:
                hits.append(code >> 1)
            if code & 1:
                phrase = words[start - 1]
                for word in words[start:]:
                    phrase = f"{phrase} {word}"
                    code = get(phrase)
                    if code is None:
                        break
                    if code >= 0:
                        hits.append(code >> 1)
                    if not code & 1:
                        break
        found = set(hits)
        if self._twins:
            found.update(*filter(None, map(self._twins.get, hits)))
        return sorted(found)
