"""Draw the evaluation sets of the demonstration beside the clean set: labelled drawings, and renditions.

Probes are fitted on the labelled drawings. The renditions are the shift that the model never saw: the same
kind of drawing in pencil, as a negative and in four tones; each with its caption, and its rendition as group.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageFilter, ImageOps

from pipeline.demo.captions import phrase
from pipeline.demo.draw import CLASSES, COLOURS, draw, encode, random_spec

LABELLED_PER_CLASS: Final = 24  # a fifth chooses the probes' C: 19 are left, enough for 16 shots
PER_RENDITION: Final = 4  # of each class
_DIMENSIONS: Final = (240, 180)


def _pencil(image: Image.Image) -> Image.Image:
    """Keep dark outlines on white."""
    smooth = image.convert("L").filter(ImageFilter.GaussianBlur(1.5))
    return ImageOps.autocontrast(smooth.filter(ImageFilter.CONTOUR)).convert("RGB")


RENDITIONS: Final[dict[str, Callable[[Image.Image], Image.Image]]] = {
    "pencil": _pencil,
    "negative": ImageOps.invert,
    "four tones": lambda image: ImageOps.posterize(image.convert("L").convert("RGB"), 2),
}
SOME_COLOURS: Final = tuple(COLOURS)[:4]
OTHER_COLOURS: Final = tuple(COLOURS)[4:]
"""For the bias probe: which colours are assigned to whom, and the change when the others are added."""


def write_labelled(folder: Path, seed: int) -> Path:
    """Write drawings in class folders and return the folder; existing files are left."""
    for label in CLASSES:
        rng = random.Random(f"{seed}/labelled/{label}")
        (folder / label).mkdir(parents=True, exist_ok=True)
        for number in range(LABELLED_PER_CLASS):
            image = draw(random_spec(rng, label, _DIMENSIONS))
            _once(folder / label / f"{number:03d}.png", encode(image, "PNG", compress_level=1))
    return folder


def write_renditions(path: Path, seed: int) -> Path:
    """Write a Parquet file with image, label, caption and group, and return its path."""
    rows = []
    for label in CLASSES:
        for rendition, change in RENDITIONS.items():
            rng = random.Random(f"{seed}/renditions/{rendition}/{label}")
            for _ in range(PER_RENDITION):
                spec = random_spec(rng, label, _DIMENSIONS)
                words, image = phrase(spec), encode(change(draw(spec)), "PNG", compress_level=1)
                caption = f"{words.a} {words.place}"
                rows.append({"image": image, "label": label, "caption": caption, "group": rendition})
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    _once(path, sink.getvalue().to_pybytes())
    return path


def write_lists(folder: Path) -> tuple[Path, Path]:
    """Write the bias probe's two lists of classes and return their paths."""
    paths = folder / "colours.txt", folder / "other-colours.txt"
    for path, words in zip(paths, (SOME_COLOURS, OTHER_COLOURS), strict=True):
        _once(path, "".join(f"{word}\n" for word in words).encode())
    return paths


def _once(path: Path, data: bytes) -> None:
    """Write a file whose content differs: a later demonstration finds its features by the files' times."""
    if not path.exists() or path.read_bytes() != data:
        path.write_bytes(data)
