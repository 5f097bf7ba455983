"""Draw the pictures of the demonstration web: one subject before a textured scene, from a seed.

Every texture comes from the picture's own seed. Sharing a tile of noise between pictures would be faster, but
then unrelated pictures would hold identical patches, and a near-duplicate search would rightly find them.
"""

import io
import random
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

from pipeline.demo.subjects import SUBJECTS, Pen, shade

RGB = tuple[int, int, int]

CLASSES: Final[tuple[str, ...]] = tuple(SUBJECTS)
COLOURS: Final[dict[str, RGB]] = {
    "red": (205, 40, 40),
    "orange": (240, 135, 25),
    "yellow": (245, 210, 50),
    "green": (50, 150, 65),
    "blue": (45, 90, 205),
    "purple": (130, 60, 165),
    "white": (240, 240, 235),
    "black": (40, 40, 45),
}
SIZES: Final[tuple[tuple[int, int], ...]] = (
    (320, 240), (240, 320), (360, 240), (640, 480), (480, 640), (1200, 900),
)  # fmt: skip
"""Width and height in pixels; `SIZE_WEIGHTS` keeps the large ones few: they cost ten times the small ones."""
SIZE_WEIGHTS: Final = (50, 17, 20, 9, 3, 1)
_OCTAVE: Final = 16
"""Amplitude, in grey levels, of each octave of the texture that lies over a picture."""
_SUPERSAMPLE: Final = 2  # subjects are drawn at twice the size and averaged down: smooth edges


class Scene(NamedTuple):
    """Describe a backdrop: an upper part and, below a horizon, perhaps a ground."""

    top: tuple[RGB, RGB]
    """Colours from the top down."""
    top_cells: tuple[int, int]
    """Blobs of light and shade in the upper part, across and down."""
    roughness: int
    """Amplitude of the blobs in grey levels."""
    bottom: tuple[RGB, RGB] | None = None
    bottom_cells: tuple[int, int] = (1, 1)
    hills: RGB | None = None


SCENES: Final[dict[str, Scene]] = {
    "meadow": Scene(
        top=((110, 165, 225), (200, 225, 240)), top_cells=(5, 3), roughness=34,
        bottom=((120, 165, 75), (60, 115, 45)), bottom_cells=(40, 24), hills=(95, 135, 105),
    ),
    "lake": Scene(
        top=((165, 180, 195), (220, 220, 215)), top_cells=(5, 3), roughness=36,
        bottom=((130, 150, 165), (70, 95, 115)), bottom_cells=(7, 42), hills=(90, 105, 110),
    ),
    "beach": Scene(
        top=((95, 170, 225), (185, 220, 235)), top_cells=(4, 3), roughness=28,
        bottom=((225, 200, 150), (190, 160, 110)), bottom_cells=(48, 30), hills=(60, 125, 165),
    ),
    "snow": Scene(
        top=((175, 190, 210), (225, 230, 238)), top_cells=(4, 3), roughness=26,
        bottom=((235, 238, 245), (200, 208, 222)), bottom_cells=(9, 5), hills=(150, 165, 185),
    ),
    "street": Scene(
        top=((160, 180, 205), (215, 220, 225)), top_cells=(5, 3), roughness=26,
        bottom=((125, 125, 130), (80, 80, 85)), bottom_cells=(60, 40),
    ),
    "table": Scene(
        top=((205, 195, 175), (225, 215, 200)), top_cells=(4, 3), roughness=38,
        bottom=((165, 115, 70), (120, 75, 40)), bottom_cells=(5, 46),
    ),
    "wall": Scene(top=((165, 85, 65), (140, 70, 55)), top_cells=(7, 5), roughness=30),
    "water": Scene(top=((60, 150, 185), (15, 50, 95)), top_cells=(12, 5), roughness=42),
    "sky": Scene(top=((75, 135, 215), (205, 225, 240)), top_cells=(6, 4), roughness=60),
    "night": Scene(
        top=((15, 20, 50), (45, 50, 85)), top_cells=(5, 3), roughness=14,
        bottom=((42, 50, 58), (22, 28, 36)), bottom_cells=(40, 24), hills=(25, 30, 45),
    ),
}  # fmt: skip
CLASS_SCENES: Final[dict[str, tuple[str, ...]]] = {
    "ball": ("meadow", "beach", "table", "street"),
    "boat": ("lake", "beach", "night"),
    "car": ("street", "meadow", "snow", "night"),
    "cup": ("table", "wall", "meadow"),
    "fish": ("water", "table", "lake"),
    "flower": ("meadow", "table", "wall", "snow"),
    "house": ("meadow", "snow", "lake", "night"),
    "star": ("night", "sky", "wall", "snow"),
    "tree": ("meadow", "snow", "lake", "night"),
    "umbrella": ("beach", "street", "snow", "sky"),
}
"""Where a class may stand. Each scene serves several classes, so that no backdrop gives a class away."""


@dataclass(frozen=True, kw_only=True)
class PictureSpec:
    """Say all that decides a picture's pixels."""

    label: str
    """One of CLASSES."""
    colour: str
    """One of COLOURS."""
    scene: str
    """One of SCENES."""
    width: int
    """Pixels."""
    height: int
    """Pixels."""
    size: float
    """The subject's extent as a share of the shorter side."""
    x: float
    """The subject's centre across, 0 to 1."""
    y: float
    """The subject's centre down, 0 to 1."""
    angle: float
    """The subject's rotation in degrees."""
    horizon: float
    """Where the ground begins, as a share of the height; scenes without a ground ignore it."""
    seed: int
    """Seeds texture, hills and small variations of colour."""

    def __post_init__(self) -> None:
        for value, known in ((self.label, CLASSES), (self.colour, COLOURS), (self.scene, SCENES)):
            if value not in known:
                raise ValueError(f"cannot draw {value!r}: choose one of {', '.join(known)}")
        if min(self.width, self.height) < 16:
            raise ValueError("a picture needs at least 16 pixels a side")


def random_spec(
    rng: random.Random, label: str | None = None, dimensions: tuple[int, int] | None = None
) -> PictureSpec:
    """Return a random picture, of the class `label` and of `dimensions` (width, height) where given."""
    label = label or rng.choice(CLASSES)
    width, height = dimensions or rng.choices(SIZES, SIZE_WEIGHTS)[0]
    size = rng.uniform(0.42, 0.85)
    short = min(width, height)
    x, y = (0.5 + (rng.random() - 0.5) * (1 - size) * short / side for side in (width, height))
    foot = y + 0.45 * size * short / height
    return PictureSpec(
        label=label,
        colour=rng.choice(tuple(COLOURS)),
        scene=rng.choice(CLASS_SCENES[label]),
        width=width,
        height=height,
        size=size,
        x=x,
        y=y,
        angle=rng.uniform(-16, 16),
        horizon=max(0.2, foot - rng.uniform(0.06, 0.4)),  # it stands on the ground
        seed=rng.getrandbits(32),
    )


def draw(spec: PictureSpec) -> Image.Image:
    """Return the RGB picture; the same pixels for the same spec."""
    rng = np.random.default_rng(spec.seed)
    image = _backdrop(spec, rng)
    _place_subject(image, spec, rng)
    noise = Image.fromarray(_texture(rng, spec.width, spec.height))
    return ImageChops.add(image, Image.merge("RGB", (noise, noise, noise)), offset=-128)


def _texture(rng: np.random.Generator, width: int, height: int) -> NDArray[np.uint8]:
    """Return uint8 [height, width] around 128: light and shade at every scale, and grain.

    Octaves of equal strength, as photographs have them (Field 1987, "Relations between the statistics of
    natural images"). Without it two drawings of a subject would agree in all but their soft backdrops.
    """
    total = rng.integers(120, 137, (height, width)).astype(np.int16)  # 128 +- 8 grey levels
    for cells in (6, 12, 24, 48):
        across = cells * max(1, round(width / height)), cells * max(1, round(height / width))
        total += _blobs(rng, width, height, across, _OCTAVE)[:, :, 0]
    return np.clip(total, 0, 255).astype(np.uint8)


def encode(image: Image.Image, image_format: str, **options: object) -> bytes:
    """Return `image` as the bytes of a file in a Pillow format such as JPEG, PNG or WEBP."""
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def placeholder(width: int = 320, height: int = 240) -> Image.Image:
    """Return the placeholder that careless sites show for a missing picture."""
    image = Image.new("RGB", (width, height), (226, 226, 226))
    pen = ImageDraw.Draw(image)
    pen.rectangle((8, 8, width - 9, height - 9), outline=(170, 170, 170), width=3)
    pen.line((8, 8, width - 9, height - 9), fill=(190, 190, 190), width=2)
    pen.line((8, height - 9, width - 9, 8), fill=(190, 190, 190), width=2)
    pen.text((width // 2, height // 2), "image not available", fill=(90, 90, 90), anchor="mm", font_size=24)
    return image


def _jitter(colour: RGB, rng: np.random.Generator, amount: int) -> RGB:
    red, green, blue = np.clip(np.array(colour) + rng.integers(-amount, amount + 1, 3), 0, 255).tolist()
    return red, green, blue


def _gradient(colours: tuple[RGB, RGB], rows: int) -> NDArray[np.int16]:
    """Return int16 [rows, 1, 3], from the first colour to the second."""
    steps = np.linspace(0, 1, max(rows, 1))[:rows, None]
    return (np.array(colours[0]) * (1 - steps) + np.array(colours[1]) * steps).astype(np.int16)[:, None, :]


def _blobs(
    rng: np.random.Generator, width: int, height: int, cells: tuple[int, int], amplitude: int
) -> NDArray[np.int16]:
    """Return int16 [height, width, 1]: smooth noise of about `cells` blobs across and down, around 0."""
    coarse = rng.integers(128 - amplitude, 129 + amplitude, (cells[1], cells[0]), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return (np.asarray(smooth).astype(np.int16) - 128)[:, :, None]


def _backdrop(spec: PictureSpec, rng: np.random.Generator) -> Image.Image:
    """Return the scene, painted at half size and enlarged: a quarter of the work, and out of focus."""
    scene = SCENES[spec.scene]
    width, height = (spec.width + 1) // 2, (spec.height + 1) // 2
    horizon = int(height * spec.horizon) if scene.bottom else height
    top = (_jitter(scene.top[0], rng, 16), _jitter(scene.top[1], rng, 16))
    canvas = np.empty((height, width, 3), dtype=np.int16)
    canvas[:horizon] = _gradient(top, horizon) + _blobs(rng, width, horizon, scene.top_cells, scene.roughness)
    if scene.bottom:
        bottom = (_jitter(scene.bottom[0], rng, 16), _jitter(scene.bottom[1], rng, 16))
        rough = _blobs(rng, width, height - horizon, scene.bottom_cells, scene.roughness)
        canvas[horizon:] = _gradient(bottom, height - horizon) + rough
    # Light falls in unevenly: a broad patch of light and shade, different in each picture.
    canvas += _blobs(rng, width, height, (3, 3), 34)
    image = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    if scene.hills:
        _hills(image, rng, horizon, scene.hills)
    if spec.scene == "street":
        _buildings(image, rng, horizon)
    if spec.scene == "wall":
        _mortar(image, rng)
    if spec.scene == "night":
        _stars(image, rng, horizon)
    return image.resize((spec.width, spec.height), Image.Resampling.BILINEAR)


def _hills(image: Image.Image, rng: np.random.Generator, horizon: int, colour: RGB) -> None:
    ridge = rng.integers(0, max(2, image.height // 6), 9)
    points = [(image.width * i / 8, horizon - float(y)) for i, y in enumerate(ridge)]
    outline = [(0.0, float(horizon)), *points, (float(image.width), float(horizon))]
    ImageDraw.Draw(image).polygon(outline, fill=_jitter(colour, rng, 14))


def _buildings(image: Image.Image, rng: np.random.Generator, horizon: int) -> None:
    pen = ImageDraw.Draw(image)
    left = -int(rng.integers(image.width // 6))
    while left < image.width:
        wide = int(rng.integers(image.width // 9, image.width // 4))
        roof = horizon - int(rng.integers(horizon // 3, horizon))
        wall = shade(_jitter((175, 160, 148), rng, 12), rng.uniform(0.6, 1.2))
        pen.rectangle((left, roof, left + wide, horizon - 1), fill=wall)
        step = max(6, image.height // 14)
        for x in range(left + step // 2, left + wide - step // 2, step):
            for y in range(roof + step // 2, horizon - step, step):
                pen.rectangle((x, y, x + step // 3, y + step // 2), fill=shade(wall, 0.72))
        left += wide


def _mortar(image: Image.Image, rng: np.random.Generator) -> None:
    pen = ImageDraw.Draw(image)
    brick = int(image.height * rng.uniform(0.07, 0.13))
    colour = _jitter((190, 175, 160), rng, 14)
    for row, y in enumerate(range(int(rng.integers(brick)), image.height, brick)):
        pen.line((0, y, image.width, y), fill=colour, width=max(1, brick // 10))
        for x in range(-brick * 2 + row % 2 * brick, image.width, brick * 2):
            pen.line((x, y, x, y + brick), fill=colour, width=max(1, brick // 10))


def _stars(image: Image.Image, rng: np.random.Generator, horizon: int) -> None:
    pen = ImageDraw.Draw(image)
    for x, y in rng.random((30, 2)):
        pen.point((x * image.width, y * horizon), fill=(215, 215, 200))


def _place_subject(image: Image.Image, spec: PictureSpec, rng: np.random.Generator) -> None:
    radius = spec.size * min(image.size) / 2
    centre_x, centre_y = spec.x * image.width, spec.y * image.height
    reach = int(radius * 1.22) + 2  # no subject has a point further out than 1.14
    left, top = int(centre_x) - reach, int(centre_y) - reach
    box = (max(left, 0), max(top, 0), min(left + 2 * reach, image.width), min(top + 2 * reach, image.height))
    tile = image.crop(box)
    if SCENES[spec.scene].bottom:
        _shadow(tile, (centre_x - box[0], centre_y - box[1] + radius * 0.92), radius)
    large = tile.resize((tile.width * _SUPERSAMPLE, tile.height * _SUPERSAMPLE), Image.Resampling.NEAREST)
    pen = Pen(
        large,
        ((centre_x - box[0]) * _SUPERSAMPLE, (centre_y - box[1]) * _SUPERSAMPLE),
        radius * _SUPERSAMPLE,
        spec.angle,
    )
    SUBJECTS[spec.label](pen, _jitter(COLOURS[spec.colour], rng, 15), rng)
    image.paste(large.reduce(_SUPERSAMPLE), box[:2])


def _shadow(tile: Image.Image, centre: tuple[float, float], radius: float) -> None:
    mask = Image.new("L", tile.size, 0)
    pen = ImageDraw.Draw(mask)
    for step in (1.0, 0.85, 0.7):
        wide, high = radius * step, radius * 0.16 * step
        box = (centre[0] - wide, centre[1] - high, centre[0] + wide, centre[1] + high)
        pen.ellipse(box, fill=int(40 / step))
    tile.paste(shade((60, 60, 70), 0.5), (0, 0), mask)
