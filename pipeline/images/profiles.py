"""Convert colours to sRGB by a picture's ICC profile; an implausible profile counts as none."""

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

Pixels = npt.NDArray[np.uint8]

_CLASSES: Final = (b"mntr", b"scnr", b"prtr", b"spac")
_SPACES: Final = {"RGB": b"RGB ", "L": b"GRAY", "CMYK": b"CMYK"}
_INTENT: Final = ImageCms.Intent.PERCEPTUAL  # as browsers
_ALIKE: Final = 3
"""Levels of 255 within which a profile counts as sRGB. Makers' tables of it differ by as much."""
_LEAST_WHITE, _MOST_BLACK = 160, 96
_LEVELS: Final = np.linspace(0, 255, 9).round().astype(np.uint8)
_ASKED: Final = {
    "RGB": np.stack(np.meshgrid(_LEVELS, _LEVELS, _LEVELS, indexing="ij"), axis=-1).reshape(-1, 3),
    "L": np.arange(256, dtype=np.uint8)[:, None],
    "CMYK": np.array([[0, 0, 0, ink] for ink in _LEVELS[::-1]], np.uint8),
}
"""Colours by which a profile is judged: uint8 [n, channels]."""
_GREYS: Final = {"RGB": slice(None, None, 9**2 + 9 + 1), "L": slice(None), "CMYK": slice(None)}
"""Those of them that are grey, from black to white."""


@dataclass(frozen=True, eq=False)
class Conversion:
    """Convert pixels of one profile to sRGB."""

    mode: str
    """RGB, L or CMYK: the pixels that the profile speaks of."""
    _transform: Any
    _table: Pixels | None = None
    """uint8 [256, 3] for grey."""

    def image(self, image: Image.Image) -> Image.Image:
        """Return an image of `mode` (grey: of RGB with equal channels) in sRGB."""
        if self._table is not None:
            return image.point(self._table.T.ravel().tolist())
        found = ImageCms.applyTransform(image, self._transform)
        assert found is not None, "not converted in place"
        return found

    def pixels(self, rgb: Pixels) -> Pixels:
        """Return uint8 [height, width, 3] in sRGB; `mode` is RGB or L."""
        if self._table is not None:
            return np.asarray(self._table[rgb[..., 0]], np.uint8)
        return np.asarray(self.image(Image.fromarray(np.ascontiguousarray(rgb))))


@lru_cache(maxsize=32)
def conversion(profile: bytes, mode: str) -> Conversion | None:
    """Return the converter of pixels of `mode` (RGB, L, CMYK) to sRGB; None where there is nothing to do.

    That is no profile, one of the many variants of sRGB, or an implausible profile: profiles of other pixels,
    of links or names, broken profiles, and those under which white is not light, black not dark, or a ramp of
    greys not rising.
    """
    if len(profile) < 128 or profile[12:16] not in _CLASSES or profile[16:20] != _SPACES.get(mode):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB", _INTENT)
        asked = Image.frombytes(mode, (len(_ASKED[mode]), 1), _ASKED[mode].tobytes())
        converted = np.asarray(ImageCms.applyTransform(asked, transform))[0]
    except Exception:  # noqa: BLE001 - untrusted bytes: PyCMSError, OSError, ValueError and others occur
        return None
    greys = converted[_GREYS[mode]].mean(axis=1)
    if greys[0] > _MOST_BLACK or greys[-1] < _LEAST_WHITE or (np.diff(greys) < -1).any():
        return None
    if mode == "CMYK":
        return Conversion(mode, transform)
    if np.abs(converted.astype(int) - _ASKED[mode]).max() <= _ALIKE:
        return None
    return Conversion(mode, transform, np.ascontiguousarray(converted) if mode == "L" else None)


def from_lab(image: Image.Image) -> Image.Image:
    """Return an image of CIE L*a*b* in sRGB."""
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    found = ImageCms.profileToProfile(image, lab, srgb, outputMode="RGB")
    assert found is not None, "not converted in place"
    return found
