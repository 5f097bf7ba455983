"""Score images and captions with code of the user's own, and keep samples by their scores.

`--scorer module:Class` names a class without constructor arguments that follows `Scorer`; its columns are
added to every row, and `--keep-if "score_sharpness >= 10"` decides on them. `Sharpness` is a small example.
"""

import ast
import importlib
import itertools
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, Self, cast, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from pipeline.images.decode import Pixels
from pipeline.images.process import encode_jpeg

PREFIX: Final = "score_"
_MAX_EXPRESSION: Final = 1000
_TOO_LARGE: Final = 1e300  # an integer of more digits than a float holds


class Scorer(Protocol):
    """What a scorer looks like: made once per worker, given images as stored in the order of the shard."""

    columns: tuple[str, ...]
    """Names of the columns that `score` returns; each begins with `score_`."""

    def score(
        self, images: list[Pixels], captions: list[list[str]]
    ) -> Mapping[str, npt.NDArray[np.floating]]:
        """Return a float array [n] for each column.

        `images` are n uint8 RGB arrays [height, width, 3] of different sizes, `captions` those of each.
        """
        ...


@runtime_checkable
class Editor(Protocol):
    """What a scorer may offer besides: to change images before they are stored, such as to blur faces."""

    def edit(self, images: list[Pixels]) -> Sequence[Pixels]:
        """Return the images to store; the same object where nothing changes. Called after `score`."""
        ...


class Scored(NamedTuple):
    """Hold the outcome of scoring; fields only."""

    columns: dict[str, npt.NDArray[np.float32]]
    """Scores in the order given, float32 [n] for each column."""
    replacements: dict[int, bytes]
    """The JPEG to store instead, by position, where the scorer changed an image."""


class Sharpness:
    """Score sharpness: the variance of the Laplacian of the luma at a shorter side of 256 pixels.

    Blurred and nearly flat images score low. Pech-Pacheco et al., "Diatom autofocusing in brightfield
    microscopy: a comparative study" (ICPR 2000).
    """

    columns = ("score_sharpness",)
    _side = 256

    def score(
        self, images: list[Pixels], captions: list[list[str]]
    ) -> Mapping[str, npt.NDArray[np.floating]]:
        """Return `score_sharpness`."""
        return {"score_sharpness": np.array([self._sharpness(image) for image in images], np.float64)}

    def _sharpness(self, image: Pixels) -> float:
        luma = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        scale = self._side / min(luma.shape)
        if scale != 1:
            method = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            size = max(1, round(luma.shape[1] * scale)), max(1, round(luma.shape[0] * scale))
            luma = cv2.resize(luma, size, interpolation=method)
        return float(cv2.Laplacian(luma, cv2.CV_64F).var())


def load(spec: str) -> Scorer:
    """Return an instance of the class that "module:Class" names; ValueError says what is wrong with it."""
    module_name, _, class_name = spec.partition(":")
    if not module_name or not class_name:
        raise ValueError(f"a scorer is given as module:Class, not {spec!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(f"the scorer's module {module_name!r} cannot be imported: {error}") from error
    kind = getattr(module, class_name, None)
    if not isinstance(kind, type):
        raise ValueError(f"the module {module_name!r} has no class {class_name!r}")
    try:
        scorer = kind()
    except Exception as error:
        raise ValueError(f"{spec} cannot be created: {type(error).__name__}: {error}") from error
    columns = getattr(scorer, "columns", None)
    if not callable(getattr(scorer, "score", None)) or not isinstance(columns, tuple) or not columns:
        raise ValueError(f"{spec} needs a method `score` and a tuple of names `columns`")
    wrong = [name for name in columns if not (isinstance(name, str) and name.startswith(PREFIX))]
    if wrong or len(set(columns)) < len(columns):
        raise ValueError(f"the columns of {spec} must be different names that begin with {PREFIX}: {columns}")
    return cast(Scorer, scorer)


def score_batches(
    scorer: Scorer,
    samples: Iterable[tuple[bytes, list[str]]],
    *,
    batch_size: int = 64,
    quality: int = 90,
) -> Scored:
    """Score stored JPEGs with their captions in batches of a fixed size, in the order given.

    Batches depend on nothing but the order, so the same shard gets the same scores. ValueError if the scorer
    returns other columns, lengths or images than it promised.
    """
    parts: dict[str, list[npt.NDArray[np.float32]]] = {name: [] for name in scorer.columns}
    replacements: dict[int, bytes] = {}
    remaining, start = iter(samples), 0
    while batch := list(itertools.islice(remaining, batch_size)):
        images = [cast(Pixels, simplejpeg.decode_jpeg(jpeg, "RGB")) for jpeg, _ in batch]
        scores = scorer.score(images, [captions for _, captions in batch])
        if set(scores) != set(parts):
            raise ValueError(f"the scorer returned columns {sorted(scores)}, not {sorted(parts)}")
        for name, column in parts.items():
            values = np.asarray(scores[name], np.float32)
            if values.shape != (len(batch),):
                raise ValueError(f"the scorer returned {name} of shape {values.shape}, not ({len(batch)},)")
            column.append(values)
        if isinstance(scorer, Editor):
            edited = _edited(scorer, images)
            replacements |= {start + i: encode_jpeg(image, quality) for i, image in edited.items()}
        start += len(batch)
    columns = {name: np.concatenate(column or [np.zeros(0, np.float32)]) for name, column in parts.items()}
    return Scored(columns, replacements)


def _edited(editor: Editor, images: list[Pixels]) -> dict[int, Pixels]:
    """Return the images that the editor changed, by position."""
    edited = editor.edit(list(images))
    if len(edited) != len(images):
        raise ValueError(f"the scorer edited {len(images)} images into {len(edited)}")
    changed = {i: new for i, (old, new) in enumerate(zip(images, edited, strict=True)) if new is not old}
    for i, image in changed.items():
        if image.shape != images[i].shape or image.dtype != np.uint8:
            raise ValueError("an edited image must keep its shape and be uint8")
    return changed


_COMPARISONS: Final[dict[type[ast.cmpop], Callable[[float, float], bool]]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}


@dataclass(frozen=True, kw_only=True)
class KeepIf:
    """A condition on a row: comparisons of columns with numbers, joined by and, or and parentheses."""

    text: str
    """The condition as written."""
    names: tuple[str, ...]
    """The columns that it reads, sorted."""
    _tree: ast.expr = field(repr=False, compare=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the condition that `text` states, such as "score_nsfw < 0.5 and (width > 9 or height > 9)".

        ValueError names what is not understood. Nothing in the text is ever executed.
        """
        if len(text) > _MAX_EXPRESSION:
            raise ValueError(f"a condition of {len(text)} characters; at most {_MAX_EXPRESSION} are read")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ValueError(f"the condition {text!r} is not understood: {error}") from error
        names = sorted(set(_check(tree, text)))
        return cls(text=text, names=tuple(names), _tree=tree)

    def require(self, columns: Collection[str]) -> None:
        """Raise ValueError if the condition reads a column that is not among `columns`."""
        unknown = [name for name in self.names if name not in columns]
        if unknown:
            raise ValueError(
                f"the condition {self.text!r} reads {', '.join(unknown)}; "
                f"the columns are {', '.join(sorted(columns))}"
            )

    def check(self, row: Mapping[str, object]) -> bool:
        """Return whether a row satisfies the condition.

        A missing value (None or NaN) satisfies no comparison, not even !=. ValueError for a column that the
        row does not have or that holds no number.
        """
        self.require(row.keys())
        return _holds(self._tree, row)


def _check(tree: ast.expr, text: str) -> Iterable[str]:
    """Yield the names in a condition; ValueError for anything that a condition may not hold."""
    match tree:
        case ast.BoolOp(values=values):
            for value in values:
                yield from _check(value, text)
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


def _not_understood(tree: ast.expr, text: str) -> ValueError:
    part = ast.get_source_segment(text.strip(), tree)
    return ValueError(
        f"{part!r} in the condition {text!r} is not understood: it may hold comparisons (< <= > >= == !=) of "
        "columns and numbers, joined by `and`, `or` and parentheses"
    )


def _holds(tree: ast.expr, row: Mapping[str, object]) -> bool:
    if isinstance(tree, ast.BoolOp):
        results = (_holds(value, row) for value in tree.values)
        return all(results) if isinstance(tree.op, ast.And) else any(results)
    assert isinstance(tree, ast.Compare)
    values = [_value(term, row) for term in (tree.left, *tree.comparators)]
    if any(value != value for value in values):  # NaN
        return False
    return all(
        _COMPARISONS[type(kind)](left, right)
        for kind, left, right in zip(tree.ops, values[:-1], values[1:], strict=True)
    )


def _value(term: ast.expr, row: Mapping[str, object]) -> float:
    if not isinstance(term, ast.Name):
        return float(ast.literal_eval(term))
    value = row[term.id]
    if value is None:
        return float("nan")
    if not isinstance(value, (int, float, np.number)):
        raise ValueError(f"the column {term.id} holds {type(value).__name__}, not a number")
    return float(value)
