"""Which images are taken, and how they are stored."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from pipeline.images.headers import FORMATS, WEB_FORMATS
from pipeline.options.fields import decides

ResizeMode = Literal["shorter", "longer", "square", "keep"]
Describe = Literal["now", "later"]

MAX_JPEG_SIDE: Final = 65_500
"""libjpeg's JPEG_MAX_DIMENSION."""
_MAX_PIXELS: Final = 178_000_000  # Pillow itself refuses above 2 * (2**30 / 12) pixels.


@dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """Say which images are taken and how they are stored."""

    image_size: int = 256
    """Side in pixels that --resize-mode refers to; images are never enlarged."""
    resize_mode: ResizeMode = "shorter"
    """shorter: the shorter side becomes --image-size; longer: the longer side; square: as shorter, then the
    centre is cut out; keep: no resizing."""
    min_side: int = 32
    """Shortest side in pixels of the original that is taken."""
    max_aspect: float = 10.0
    """Largest ratio of the longer to the shorter side of the original."""
    min_bytes: int = 0
    """Fewest bytes of the original file."""
    max_pixels: int = 64_000_000
    """Most pixels of the original, judged from its header. Decoding takes up to 16 bytes a pixel."""
    max_scans: int = 100
    """Most scans of a JPEG; encoders write up to 18, and each costs a pass over all the pixels."""
    quality: int = 90
    """JPEG quality of the stored image."""
    describe: Describe = "now"
    """now: store the descriptors that `openwit overlap` compares beside each image; later: leave that to
    overlap, which then decodes every stored image, and save a few percent of the time."""
    formats: tuple[str, ...] = decides("candidates", "fetch", default=WEB_FORMATS)
    """Formats taken, told from the content, never from a name or a header of the server; bmp, tiff and ppm
    can be added."""
    iscc: bool = False
    """Add the column iscc: the International Standard Content Code (ISO 24138) of each image, by which
    registries of rightsholders are searched."""
    keep_exif: bool = False
    """Store the original's Exif as JSON beside the image. It names places, times, devices and people."""
    allow_animated: bool = False
    """Take the first frame of animations instead of refusing them."""

    def __post_init__(self) -> None:
        """Raise ValueError for values out of range."""
        if not 1 <= self.image_size <= MAX_JPEG_SIDE:
            raise ValueError(f"image_size must be from 1 to {MAX_JPEG_SIDE}, not {self.image_size}")
        if self.resize_mode not in get_args(ResizeMode):
            modes = ", ".join(get_args(ResizeMode))
            raise ValueError(f"resize_mode must be one of {modes}, not {self.resize_mode!r}")
        if self.describe not in get_args(Describe):
            raise ValueError(f"describe must be now or later, not {self.describe!r}")
        if self.min_side < 0 or self.min_bytes < 0 or self.max_scans < 1:
            raise ValueError("min_side and min_bytes must not be negative, and max_scans must be positive")
        if not self.max_aspect >= 1:
            raise ValueError(f"max_aspect must be at least 1, not {self.max_aspect}")
        if not 1 <= self.max_pixels <= _MAX_PIXELS:
            raise ValueError(f"max_pixels must be from 1 to {_MAX_PIXELS:,}, not {self.max_pixels:,}")
        if not 1 <= self.quality <= 100:
            raise ValueError(f"quality must be from 1 to 100, not {self.quality}")
        unknown = [name for name in self.formats if name not in FORMATS]
        if unknown or not self.formats:
            raise ValueError(f"formats must be some of {', '.join(FORMATS)}, not {list(self.formats)}")
