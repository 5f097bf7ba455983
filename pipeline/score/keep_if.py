"""Conditions on columns of numbers, such as "score_nsfw < 0.5 and top(score_clip, 0.3)".

They are parsed, never executed: comparisons with numbers, joined by `and`, `or` and parentheses. `top` takes
the rows with the largest values, a share of all; who knows all values says from which one on, by `resolve`.
"""

import ast
import math
import operator
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, NamedTuple, Self

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

_MAX_EXPRESSION: Final = 1000
_TOO_LARGE: Final = 1e300  # an integer of more digits than a float holds
_TOP: Final = "top"
_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


class Top(NamedTuple):
    """Name the share of all rows that has the largest values of a column; fields only."""

    column: str
    share: float


def least_of(values: npt.NDArray[np.floating], share: float) -> float:
    """Return the smallest of the largest values, a share of all rounded up; infinity where there are none.

    Rows without a value (NaN) do not count. All that equal the smallest are among the largest.
    """
    known = values[~np.isnan(values)]
    if not len(known):
        return math.inf
    place = len(known) - max(1, math.ceil(share * len(known)))
    return float(np.partition(known, place)[place])


@dataclass(frozen=True, kw_only=True)
class KeepIf:
    """A condition on a row: comparisons of columns with numbers, joined by and, or and parentheses."""

    text: str
    """The condition as written."""
    names: tuple[str, ...]
    """The columns that it reads, sorted."""
    tops: tuple[Top, ...]
    """The shares that it takes, in the order written."""
    least: Mapping[Top, float] = field(default_factory=dict)
    """From which value on a row is among a share, as far as that is known."""
    _tree: ast.expr = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the condition that `text` states, such as "score_nsfw < 0.5 and (width > 9 or height > 9)".

        ValueError names the part that is not understood. Nothing in the text is ever executed.
        """
        if len(text) > _MAX_EXPRESSION:
            raise ValueError(f"a condition of {len(text)} characters; at most {_MAX_EXPRESSION} are read")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"the condition {text!r} is not understood: {error}") from error
        found = list(_check(tree, text))
        tops = tuple(dict.fromkeys(one for one in found if isinstance(one, Top)))
        names = {one.column if isinstance(one, Top) else one for one in found}
        return cls(text=text, names=tuple(sorted(names)), tops=tops, _tree=tree)

    def require(self, columns: Collection[str]) -> None:
        """Raise ValueError if the condition reads a column that is not among `columns`."""
        unknown = [name for name in self.names if name not in columns]
        if unknown:
            raise ValueError(
                f"the condition {self.text!r} reads {', '.join(unknown)}; "
                f"the columns are {', '.join(sorted(columns))}"
            )

    def refuse_shares(self) -> None:
        """Raise ValueError if the condition takes a share of all rows, for callers that see rows in turn."""
        for top in self.tops:
            raise ValueError(
                f"top({top.column}, {top.share:g}) takes a share of all samples, which are not known before "
                "the run is finished: cut by it afterwards, with `openwit train --keep-if`"
            )

    def resolve(self, values: Mapping[str, npt.NDArray[np.floating]]) -> Self:
        """Return the condition with the thresholds of its shares, from all values of their columns."""
        return replace(self, least={top: least_of(values[top.column], top.share) for top in self.tops})

    def check(self, row: Mapping[str, object]) -> bool:
        """Return whether a row satisfies the condition.

        A missing value (None or NaN) satisfies no comparison, not even !=. ValueError for a column that the
        row does not have or that holds no number.
        """
        self.require(row.keys())
        return bool(_holds(self._tree, {name: _number(name, row[name]) for name in self.names}, self.least))

    def mask(self, columns: Mapping[str, npt.NDArray[Any]]) -> Mask:
        """Return which rows satisfy the condition, bool [n], as `check`; columns: [n], missing values NaN."""
        self.require(columns.keys())
        values = {name: np.asarray(columns[name], np.float64) for name in self.names}
        rows = len(next(iter(columns.values())))
        return np.broadcast_to(np.asarray(_holds(self._tree, values, self.least), bool), (rows,))


def _check(tree: ast.expr, text: str) -> Iterable[str | Top]:
    """Yield the names and shares in a condition; ValueError for anything that a condition may not hold."""
    match tree:
        case ast.BoolOp(values=values):
            for value in values:
                yield from _check(value, text)
        case ast.Call() if (top := _top(tree)) is not None:
            yield top
        case ast.Compare(left=left, ops=operators, comparators=others) if all(
            type(kind) in _COMPARISONS for kind in operators
        ):
            for term in (left, *others):
                yield from _check_term(term, text)
        case _:
            raise _not_understood(tree, text)


def _check_term(term: ast.expr, text: str) -> Iterable[str]:
    match term:
        case ast.Name(id=name):
            yield name
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=ast.Constant() as number):
            yield from _check_term(number, text)
        case ast.Constant(value=int() | float() as number) if (
            not isinstance(number, bool) and abs(number) < _TOO_LARGE
        ):
            return
        case _:
            raise _not_understood(term, text)


def _top(tree: ast.expr) -> Top | None:
    """Return the share that a call of `top` names, None for anything else."""
    match tree:
        case ast.Call(
            func=ast.Name(id=function), args=[ast.Name(id=name), ast.Constant(value=share)], keywords=[]
        ) if function == _TOP and type(share) in (int, float) and 0 < share <= 1:  # type: ignore[operator]
            return Top(name, float(share))  # type: ignore[arg-type]
        case _:
            return None


def _not_understood(tree: ast.expr, text: str) -> ValueError:
    part = ast.get_source_segment(text.strip(), tree)
    return ValueError(
        f"{part!r} in the condition {text!r} is not understood: it may hold comparisons (< <= > >= == !=) of "
        "columns and numbers, and top(COLUMN, SHARE) with a share up to 1, joined by `and`, `or` and "
        "parentheses"
    )


def _holds(tree: ast.expr, row: Mapping[str, Any], least: Mapping[Top, float]) -> Any:
    """Return whether a row, or each row of arrays, satisfies a condition."""
    if isinstance(tree, ast.BoolOp):
        results = [_holds(value, row, least) for value in tree.values]
        join = np.logical_and if isinstance(tree.op, ast.And) else np.logical_or
        return join.reduce(np.broadcast_arrays(*results))
    if (top := _top(tree)) is not None:
        return row[top.column] >= least[top]
    assert isinstance(tree, ast.Compare)
    values = [_value(term, row) for term in (tree.left, *tree.comparators)]
    result: Any = True
    for kind, left, right in zip(tree.ops, values[:-1], values[1:], strict=True):
        known = np.logical_not(np.logical_or(np.isnan(left), np.isnan(right)))
        result = np.logical_and(result, np.logical_and(known, _COMPARISONS[type(kind)](left, right)))
    return result


def _value(term: ast.expr, row: Mapping[str, Any]) -> Any:
    return row[term.id] if isinstance(term, ast.Name) else float(ast.literal_eval(term))


def _number(name: str, value: object) -> float:
    if value is None:
        return math.nan
    if not isinstance(value, (int, float, np.number)):
        raise ValueError(f"the column {name} holds {type(value).__name__}, not a number")
    return float(value)
