"""Score images and captions, by a scorer of openwit's or of the user's own.

`--scorer` names it (`scorer_names`). Its columns are added to every row, and `--keep-if "score_clip >= 0.28"`
decides on them. A class of one's own follows `Scorer`; `Sharpness` is a small example.
"""

import hashlib
import importlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, cast, runtime_checkable

import cv2
import numpy as np
import numpy.typing as npt
import simplejpeg

from pipeline.images.decode import Pixels
from pipeline.images.process import encode_jpeg
from pipeline.score.names import BUILT_IN, files_of

PREFIX: Final = "score_"


class Scorer(Protocol):
    """The interface of a scorer: made once per worker, given images as stored in the order of the shard."""

    columns: tuple[str, ...]
    """Names of the columns that `score` returns; each begins with `score_`. A scorer made of files has a
    `fingerprint` besides, a string that follows from all that its values depend on."""

    def score(
        self, images: list[Pixels], captions: list[list[str]]
    ) -> Mapping[str, npt.NDArray[np.floating]]:
        """Return a float array [n] for each column.

        `images` are n uint8 RGB arrays [height, width, 3] of different sizes, `captions` those of each.
        """
        ...


@runtime_checkable
class Editor(Protocol):
    """An optional interface of a scorer: to change images before they are stored, such as to blur faces."""

    def edit(self, images: list[Pixels]) -> Sequence[Pixels]:
        """Return the images to store; the same object where nothing changes. Called after `score`."""
        ...


@runtime_checkable
class Finder(Protocol):
    """An optional interface of a scorer: boxes of its detections, for the column faces."""

    def boxes(self) -> list[list[list[int]]]:
        """Return the boxes in each of the images that were scored last: left, top, width, height, pixels."""
        ...


class Scored(NamedTuple):
    """Hold the outcome of scoring; fields only."""

    columns: dict[str, npt.NDArray[np.float32]]
    """Scores in the order given, float32 [n] for each column."""
    replacements: dict[int, bytes]
    """The JPEG to store instead, by position, where the scorer changed an image."""
    boxes: list[list[list[int]]] | None = None
    """The boxes that a `Finder` found in each image; None without a `Finder`."""


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


class Several:
    """Several scorers as a single scorer: the columns of all, and their edits in turn."""

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        """Take scorers of different columns; ValueError for a column that two of them have."""
        self._scorers = scorers
        self.columns = tuple(name for scorer in scorers for name in scorer.columns)
        twice = [name for name in self.columns if self.columns.count(name) > 1]
        if twice:
            raise ValueError(f"two scorers have the column {twice[0]}")

    def score(
        self, images: list[Pixels], captions: list[list[str]]
    ) -> Mapping[str, npt.NDArray[np.floating]]:
        """Return the columns of all."""
        found: dict[str, npt.NDArray[np.floating]] = {}
        for scorer in self._scorers:
            found |= scorer.score(images, captions)
        return found

    def edit(self, images: list[Pixels]) -> Sequence[Pixels]:
        """Return the images as the scorers that edit leave them."""
        edited: Sequence[Pixels] = images
        for scorer in self._scorers:
            if isinstance(scorer, Editor):
                edited = scorer.edit(list(edited))
        return edited

    def boxes(self) -> list[list[list[int]]] | None:
        """Return the boxes of the scorer that finds some, None if there is no such scorer."""
        finders = [scorer for scorer in self._scorers if isinstance(scorer, Finder)]
        return finders[0].boxes() if finders else None


def load(*specs: str) -> Scorer:
    """Return the scorer that "NAME=FILES" names; of several, their union; ValueError says how to mend it."""
    scorers = [_load(spec) for spec in specs]
    return scorers[0] if len(scorers) == 1 else Several(scorers)


def identity(spec: str) -> str:
    """Return the identity of a scorer's values: its name, and the contents of its files, not their place.

    ValueError as `load`.
    """
    fingerprint = getattr(_load(spec), "fingerprint", "")
    return f"{spec.partition('=')[0]} {fingerprint}".rstrip()


def fingerprint_of(*parts: object) -> str:
    """Return a fingerprint, hex, from all that a scorer's values depend on."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]


def _load(spec: str) -> Scorer:
    given = spec.partition("=")[0]
    module_name, _, class_name = BUILT_IN.get(given, given).partition(":")
    if not module_name or not class_name:
        known = ", ".join(BUILT_IN)
        raise ValueError(f"give a scorer as module:Class, or one of {known}; not {spec!r}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        if given in BUILT_IN:
            raise  # of an extra, named by the code that catches it
        raise ValueError(f"the scorer's module {module_name!r} cannot be imported: {error}") from error
    kind = getattr(module, class_name, None)
    if not isinstance(kind, type):
        raise ValueError(f"the module {module_name!r} has no class {class_name!r}")
    try:
        scorer = kind(*files_of(spec))
    except Exception as error:
        if given in BUILT_IN and isinstance(error, ImportError):
            raise  # as above
        if given in BUILT_IN and isinstance(error, ValueError | OSError):
            raise ValueError(f"--scorer {given}: {error}") from error
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
    boxes: list[list[list[int]]] = []
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
        if isinstance(scorer, Finder):
            boxes += scorer.boxes() or []
        if isinstance(scorer, Editor):
            edited = _edited(scorer, images)
            replacements |= {start + i: encode_jpeg(image, quality) for i, image in edited.items()}
        start += len(batch)
    columns = {name: np.concatenate(column or [np.zeros(0, np.float32)]) for name, column in parts.items()}
    return Scored(columns, replacements, boxes if len(boxes) == start else None)


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
