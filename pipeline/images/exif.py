"""Read Exif from untrusted images: the orientation that pixels need, and the tags as JSON on request.

Broken Exif is common and no reason to lose an image: it counts as none.
"""

import json
import warnings
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

Pixels = npt.NDArray[np.uint8]

_ORIENTATION: Final = 0x0112
_MAX_VALUE: Final = 1000  # characters kept of one tag


def parse(payload: bytes) -> Image.Exif:
    """Return the tags of an Exif segment, with or without its prefix."""
    exif = Image.Exif()
    if payload:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                exif.load(payload)
                exif.get(_ORIENTATION)  # parsed only on the first access
            except Exception:  # noqa: BLE001 - untrusted bytes; struct, Syntax, Key and other errors occur
                return Image.Exif()
    return exif


def orientation(exif: Image.Exif) -> int:
    """Return 1 to 8 (Exif 2.3, tag 0x0112); anything else that the tag may hold counts as 1, upright."""
    value = exif.get(_ORIENTATION)
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def upright(rgb: Pixels, orientation: int) -> Pixels:
    """Turn stored pixels, uint8 [height, width, ...], the way they are meant to be seen."""
    if orientation >= 5:  # 5 to 8 are transposed, then as 1 to 4
        rgb = rgb.swapaxes(0, 1)
        orientation -= 4
    if orientation >= 2:  # 2 mirrors left and right, 3 both ways, 4 top and bottom
        rgb = {2: rgb[:, ::-1], 3: rgb[::-1, ::-1], 4: rgb[::-1]}[orientation]
    return np.ascontiguousarray(rgb)


_TURN = Image.Transpose
TURNS: Final = (
    None, None, _TURN.FLIP_LEFT_RIGHT, _TURN.ROTATE_180, _TURN.FLIP_TOP_BOTTOM, _TURN.TRANSPOSE,
    _TURN.ROTATE_270, _TURN.TRANSVERSE, _TURN.ROTATE_90,
)  # fmt: skip
"""How Pillow does the same, by orientation."""


def as_json(exif: Image.Exif) -> str:
    """Return the readable tags of the main, Exif and GPS directories as one JSON object, or nothing."""
    found: dict[str, str] = {}
    directories: list[tuple[Mapping[int, object], dict[int, str]]] = [(dict(exif), ExifTags.TAGS)]
    for directory, names in ((ExifTags.IFD.Exif, ExifTags.TAGS), (ExifTags.IFD.GPSInfo, ExifTags.GPSTAGS)):
        try:
            directories.append((exif.get_ifd(directory), names))
        except Exception:  # noqa: BLE001, S112 - as in `parse`
            continue
    for tags, names in directories:
        for tag, value in tags.items():
            if tag in names and not isinstance(value, (bytes, dict)):
                found[names[tag]] = str(value)[:_MAX_VALUE]
    return json.dumps(found, sort_keys=True) if found else ""
