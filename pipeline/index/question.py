"""A filter as parts of a statement of SQL, whose full-text part finds as much as it can."""

import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple

from pipeline.index.cuts import Cuts

_WORD: Final = re.compile(r'-?"[^"]*"|\S+')
_TOKEN: Final = re.compile(r"[^\W_]+")
_TOGETHER: Final = 32  # parts of a column that are asked for at once, an eighth of the set


@dataclass(frozen=True, kw_only=True)
class Filter:
    """Say which samples, or which rejected rows, are wanted."""

    text: str = ""
    """Words that caption or URL must have; "several words" in a row; -word must not be there."""
    query: int | None = None
    """Number of a query that the caption matches."""
    facets: Mapping[str, str] = field(default_factory=dict)
    """Value by kind, such as site: example.com."""
    least: Mapping[str, float] = field(default_factory=dict)
    """Least value by numeric column."""
    most: Mapping[str, float] = field(default_factory=dict)
    sort: str = ""
    """A numeric column, with "-" before it for the largest first; else in the order of the set."""


def match_expression(text: str, tags: Sequence[str] = ()) -> str:
    """Return words and tags as an expression of FTS5, in which nothing that people type has a meaning of its
    own; an empty one if none of them is wanted.

    Example: `dog "on a beach" -cat` asks for captions or URLs with the word and the phrase, without the last.
    """
    wanted = [*(f"tags : {tag}" for tag in tags), *_of_words(text, are_refused=False)]
    refused = _of_words(text, are_refused=True) if wanted else []
    return " AND ".join(f"({part})" for part in wanted) + "".join(f" NOT ({part})" for part in refused)


def _of_words(text: str, *, are_refused: bool) -> list[str]:
    return [
        f'{{caption url}} : "{inner}"' for is_refused, inner in phrases(text) if is_refused == are_refused
    ]


def phrases(text: str) -> Iterator[tuple[bool, str]]:
    """Yield each word, or words in a row, of what people type, and whether it must not be there."""
    for word in _WORD.findall(text):
        inner = word.removeprefix("-").strip('"').translate({0: " ", ord('"'): " "})
        if any(letter.isalnum() for letter in inner):
            yield word.startswith("-"), inner


class Last(NamedTuple):
    """The sample after which a page begins: its id, and its value in the column to sort by."""

    id: int
    value: Any


class Question(NamedTuple):
    """A filter as parts of a statement."""

    table: str
    match: str
    """For the full-text table; empty: all."""
    bounds: tuple[str, ...]
    values: tuple[Any, ...]
    has_phrase: bool = False
    """Whether several words have to stand in a row, as those of "on a beach" or "don't"."""
    tags: tuple[str, ...] = ()
    """Of the facets and the query."""
    wanted: Filter = Filter()
    """The filter, without bounds that every sample passes."""

    @property
    def text(self) -> str:
        """Return the condition on the full-text table."""
        return f"{self.table}_text MATCH ?"

    @property
    def all_values(self) -> list[Any]:
        """Return the values of `source`."""
        return [self.match, *self.values] if self.match else [*self.values]

    @property
    def source(self) -> str:
        """Return the SQL after FROM: the posting lists lead where there are words or tags."""
        if not self.match:
            return f"{self.table} WHERE {' AND '.join(self.bounds)}" if self.bounds else self.table
        joined = f"{self.table}_text CROSS JOIN {self.table} ON {self.table}.id = {self.table}_text.rowid"
        return f"{joined} WHERE {' AND '.join((self.text, *self.bounds))}"

    def after(self, sort: str, last: Last | None) -> "Question":
        """Return the question for what follows a sample in the order of a column, or this one."""
        if last is None:
            return self
        column, falls = f'{self.table}."{sort.removeprefix("-")}"', sort.startswith("-")
        one, values = f"{self.table}.id", (last.id,) if last.value is None else (last.value, last.id)
        if last.value is None:  # such rows are first, or last from the largest on
            bound = f"{column} IS NULL AND {one} < ?" if falls else f"({column} IS NOT NULL OR {one} > ?)"
        elif falls:
            bound = f"(({column}, {one}) < (?, ?) OR {column} IS NULL)"
        else:
            bound = f"({column}, {one}) > (?, ?)"
        return self._replace(bounds=(*self.bounds, bound), values=(*self.values, *values))


def question(
    db: sqlite3.Connection, wanted: Filter, table: str, numbers: tuple[str, ...], cuts: Mapping[str, Cuts]
) -> Question:
    """Return a filter as parts of a statement; ValueError for a column that is missing."""
    tags = list[str]()
    for kind, value in wanted.facets.items():
        found = db.execute("SELECT id FROM facets WHERE kind = ? AND value = ?", (kind, value)).fetchone()
        tags.append(f"v{found[0]}" if found else "v0")
    if wanted.query is not None:
        tags.append(f"q{wanted.query}")
    if wanted.text.strip() and not tags and not any(phrases(wanted.text)):
        tags.append("v0")  # which none has: words without a letter
    bounds, values = list[str](), list[Any]()
    left: dict[str, dict[str, float]] = {">=": {}, "<=": {}}
    for sign, ends, given in ((">=", "max min", wanted.least), ("<=", "min max", wanted.most)):
        for name, bound in given.items():
            if name not in numbers or table != "samples":
                raise ValueError(f"there is no column {name} to cut at")
            # A column of one value has no lists that say that none is within, or all: it would be read whole.
            some, every = (f'(SELECT {end}("{name}") FROM samples) {sign} ?1' for end in ends.split())
            missing = f'EXISTS (SELECT 1 FROM samples WHERE "{name}" IS NULL)'
            any_passes, all_pass = db.execute(
                f"SELECT {some}, {every} AND NOT {missing}", (bound,)
            ).fetchone()
            tags += [] if any_passes else ["v0"]
            if not all_pass:
                left[sign][name] = bound
                bounds.append(f'{table}."{name}" {sign} ?')
                values.append(bound)
    wanted = replace(wanted, least=left[">="], most=left["<="])
    parts, is_cut = [*tags], wanted.sort.removeprefix("-") in {*wanted.least, *wanted.most}
    if not is_cut or match_expression(wanted.text, tags):
        parts += _narrow(wanted, cuts)  # else the sorted column itself is read from the bound onwards
    match = match_expression(wanted.text, parts)
    if not match and (refused := _of_words(wanted.text, are_refused=True)):
        has_them = f"SELECT 1 FROM {table}_text WHERE {table}_text MATCH ? AND rowid = {table}.id"
        bounds.append(f"NOT EXISTS ({has_them})")
        values.append(" OR ".join(refused))
    has_phrase = any(len(_TOKEN.findall(inner)) > 1 for _, inner in phrases(wanted.text))
    return Question(table, match, tuple(bounds), tuple(values), has_phrase, tuple(tags), wanted)


def _narrow(wanted: Filter, cuts: Mapping[str, Cuts]) -> list[str]:
    """Return the tags of samples within bounds that few are within; the bounds themselves stay."""
    found = list[str]()
    for name in {**wanted.least, **wanted.most}:
        if name in cuts:
            own = cuts[name]
            low, high = own.parts(
                [wanted.least.get(name, float("-inf")), wanted.most.get(name, float("inf"))]
            )
            if high - low < min(_TOGETHER, len(own.starts)):
                either = " OR ".join(own.tag(part) for part in range(low, high + 1))
                found.append(f"({either})" if either else "v0")
    return found


def in_order(sort: str) -> str:
    """Return the SQL that sorts samples by a column, with "-" before it for the largest first, and by id."""
    column, way = sort.removeprefix("-") or "id", "DESC" if sort.startswith("-") else "ASC"
    return f'ORDER BY samples."{column}" {way}, samples.id {way}'
