"""The ten subjects of the drawings, each from a few shapes in its own coordinates."""

import math
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
Point = tuple[float, float]

_BROWN: Final = (105, 70, 40)
_GLASS: Final = (185, 215, 230)
_DARK: Final = (45, 45, 50)


def shade(colour: RGB, factor: float) -> RGB:
    """Return `colour` darker (factor < 1) or lighter (factor > 1, towards white at 2)."""
    if factor <= 1:
        return int(colour[0] * factor), int(colour[1] * factor), int(colour[2] * factor)
    red, green, blue = (int(c + (255 - c) * (factor - 1)) for c in colour)
    return red, green, blue


class Pen:
    """Draw in a subject's coordinates: x right, y down, within -1..1, turned and scaled onto an image."""

    def __init__(self, image: Image.Image, centre: Point, scale: float, angle: float) -> None:
        """Take the centre and the scale (pixels for 1.0) in pixels, the angle in degrees."""
        self._draw = ImageDraw.Draw(image)
        self._centre, self._scale = centre, scale
        self._cos, self._sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))

    def _pixels(self, points: Iterable[Point]) -> list[Point]:
        cos, sin, scale, (left, top) = self._cos, self._sin, self._scale, self._centre
        return [(left + scale * (x * cos - y * sin), top + scale * (x * sin + y * cos)) for x, y in points]

    def polygon(self, points: Iterable[Point], fill: RGB, *, edge: bool = True) -> None:
        """Fill a polygon, with a darker edge so that it shows on a backdrop of its own colour."""
        width = max(1, int(self._scale * 0.035))
        outline = shade(fill, 0.6) if edge else fill
        self._draw.polygon(self._pixels(points), fill=fill, outline=outline, width=width)

    def disc(
        self, x: float, y: float, rx: float, fill: RGB, ry: float | None = None, *, edge: bool = True
    ) -> None:
        """Fill an ellipse with the half axes `rx` and `ry`."""
        self.polygon(arc(x, y, rx, rx if ry is None else ry, 0, 360), fill, edge=edge)

    def box(self, left: float, top: float, right: float, bottom: float, fill: RGB) -> None:
        """Fill a rectangle."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], fill)

    def line(self, points: Iterable[Point], width: float, fill: RGB) -> None:
        """Draw a bent line, `width` in subject coordinates."""
        pixels = max(1, int(width * self._scale))
        self._draw.line(self._pixels(points), fill=fill, width=pixels, joint="curve")


def arc(x: float, y: float, rx: float, ry: float, start: float, end: float, steps: int = 32) -> list[Point]:
    """Return points of an ellipse from `start` to `end` degrees, clockwise from the right."""
    turns = (math.radians(start + (end - start) * i / steps) for i in range(steps + 1))
    return [(x + rx * math.cos(turn), y + ry * math.sin(turn)) for turn in turns]


def _ball(pen: Pen, colour: RGB, rng: np.random.Generator) -> None:
    pen.disc(0, 0, 0.95, shade(colour, 0.75))
    pen.disc(-0.05, -0.05, 0.86, colour, edge=False)
    band = arc(0, -0.1, 0.95, 0.35, 12, 168) + arc(0, 0.1, 0.93, 0.42, 166, 14)
    pen.polygon(band, shade(colour, 1.7))
    pen.disc(-0.38, -0.45, 0.2, shade(colour, 1.75), 0.14, edge=False)


def _boat(pen: Pen, colour: RGB, rng: np.random.Generator) -> None:
    pen.line([(0.05, 0.4), (0.05, -0.95)], 0.07, _BROWN)
    pen.polygon([(0.12, -0.85), (0.12, 0.28), (0.8, 0.28)], shade(colour, 1.75))
    pen.polygon([(-0.02, -0.65), (-0.02, 0.28), (-0.6, 0.28)], shade(colour, 1.55))
    pen.polygon([(-0.98, 0.38), (0.98, 0.38), (0.65, 0.85), (-0.62, 0.85)], colour)
    pen.line([(-0.86, 0.52), (0.86, 0.52)], 0.06, shade(colour, 1.6))


def _car(pen: Pen, colour: RGB, rng: np.random.Generator) -> None:
    pen.polygon([(-0.55, 0.02), (-0.36, -0.42), (0.3, -0.42), (0.58, 0.02)], shade(colour, 0.85))
    pen.polygon([(-0.42, 0.0), (-0.29, -0.33), (-0.05, -0.33), (-0.05, 0.0)], _GLASS)
    pen.polygon([(0.03, 0.0), (0.03, -0.33), (0.25, -0.33), (0.43, 0.0)], _GLASS)
    body = [(-0.98, 0.08), (-0.9, 0.0), (0.7, 0.0), (0.96, 0.12), (0.98, 0.42), (-0.98, 0.42)]
    pen.polygon(body, colour)
    pen.box(0.86, 0.14, 0.97, 0.25, (250, 240, 180))
    for x in (-0.55, 0.55):
        pen.disc(x, 0.44, 0.25, _DARK)
        pen.disc(x, 0.44, 0.12, (180, 180, 185))


def _cup(pen: Pen, colour: RGB, rng: np.random.Generator) -> None:
    pen.line(arc(0.5, 0.12, 0.38, 0.36, -100, 100), 0.16, shade(colour, 0.75))
    base = arc(-0.1, 0.78, 0.42, 0.12, 0, 180)
    pen.polygon([(0.55, -0.4), *base, (-0.75, -0.4)], colour)
    pen.polygon([(-0.62, -0.3), (-0.45, -0.28), (-0.3, 0.8), (-0.42, 0.76)], shade(colour, 1.4), edge=False)
    pen.disc(-0.1, -0.4, 0.65, shade(colour, 1.5), 0.19)
    pen.disc(-0.1, -0.38, 0.54, (80, 50, 30), 0.13, edge=False)
    for x in (-0.3, 0.1):
        pen.line([(x, -0.62), (x + 0.09, -0.72), (x - 0.04, -0.82), (x + 0.05, -0.94)], 0.05, (225, 225, 225))


def _fish(pen: Pen, colour: RGB, rng: np.random.Generator) -> None:
    pen.polygon([(-0.5, 0.0), (-0.98, -0.45), (-0.86, 0.0), (-0.98, 0.45)], shade(colour, 0.8))
    pen.polygon([(-0.15, -0.35), (0.05, -0.72), (0.4, -0.3)], shade(colour, 0.8))
    pen.polygon([(-0.05, 0.35), (0.05, 0.62), (0.3, 0.3)], shade(colour, 0.8))
    pen.disc(0.15, 0.0, 0.8, colour, 0.46)
    for x in (-0.25, 0.05, 0.35):
        pen.line(arc(x - 0.1, 0.0, 0.16, 0.32, -75, 75), 0.06, shade(colour, 1.5))
    pen.disc(0.66, -0.12, 0.11, (250, 250, 250))
    pen.disc(0.68, -0.12, 0.05, _DARK, edge=False)


def _flower(pen: Pen, colour: RGB, rng: np.random.Generator) -> None:
    pen.line([(0.0, 0.0), (0.06, 0.5), (0.0, 0.98)], 0.09, (60, 125, 50))
    pen.polygon([(0.04, 0.72), (0.3, 0.46), (0.55, 0.5), (0.32, 0.72)], (75, 145, 60))
    petals = int(rng.integers(5, 9))
    for petal in range(petals):
        turn = 2 * math.pi * petal / petals
        petal_colour = shade(colour, 1 + 0.15 * (petal % 2))
        pen.disc(0.4 * math.cos(turn), -0.35 + 0.4 * math.sin(turn), 0.27, petal_colour)
    pen.disc(0.0, -0.35, 0.22, (235, 190, 60) if colour[2] > 80 or colour[1] < 120 else _BROWN)


def _house(pen: Pen, colour: RGB, rng: np.random.Generator) -> None:
    pen.box(0.35, -0.85, 0.55, -0.3, shade(_BROWN, 1.2))
    pen.box(-0.7, -0.15, 0.7, 0.9, colour)
    roof = shade(colour, 0.5) if sum(colour) > 200 else (120, 60, 50)
    pen.polygon([(-0.92, -0.12), (0.0, -0.92), (0.92, -0.12)], roof)
    pen.box(-0.15, 0.35, 0.17, 0.9, _BROWN)
    for x in (-0.55, 0.32):
        pen.box(x, 0.05, x + 0.26, 0.34, _GLASS)
        pen.line([(x + 0.13, 0.05), (x + 0.13, 0.34)], 0.03, (250, 250, 250))


def _star(pen: Pen, colour: RGB, rng: np.random.Generator) -> None:
    corners = [math.radians(-90 + 36 * i) for i in range(10)]
    radii = (1.0, 0.42)
    points = [(radii[i % 2] * math.cos(a), radii[i % 2] * math.sin(a)) for i, a in enumerate(corners)]
    pen.polygon(points, colour)
    for i in range(0, 10, 2):  # one half of each ray in the light
        pen.polygon([(0.0, 0.0), points[i], points[i + 1]], shade(colour, 1.35), edge=False)


def _tree(pen: Pen, colour: RGB, rng: np.random.Generator) -> None:
    pen.polygon([(-0.12, 0.3), (0.12, 0.3), (0.17, 0.98), (-0.17, 0.98)], _BROWN)
    if rng.integers(2):
        for top, bottom, wide in ((-0.1, 0.58, 0.68), (-0.5, 0.2, 0.55), (-0.95, -0.2, 0.4)):
            pen.polygon([(0.0, top), (wide, bottom), (-wide, bottom)], shade(colour, 1 - 0.15 * (bottom > 0)))
        return
    crown = ((-0.38, 0.0, 0.4), (0.38, 0.02, 0.4), (0.0, -0.1, 0.45), (-0.2, -0.45, 0.4), (0.25, -0.48, 0.38))
    for x, y, r in crown:
        pen.disc(x, y, r, shade(colour, 1 - y * 0.35), edge=y > -0.1)


def _umbrella(pen: Pen, colour: RGB, rng: np.random.Generator) -> None:
    hook = arc(0.14, 0.78, 0.14, 0.16, 180, 0, 12)
    pen.line([(0.0, -0.9), (0.0, 0.78)], 0.07, _BROWN)
    pen.line(hook, 0.07, _BROWN)
    pen.polygon(
        [
            *arc(0, 0.05, 0.98, 0.85, 180, 360),
            *arc(0.49, 0.05, 0.49, 0.14, 0, -180)[1:],
            *arc(-0.49, 0.05, 0.49, 0.14, 0, -180)[1:],
        ],
        colour,
    )
    for left, right in ((-0.62, -0.22), (0.22, 0.62)):
        pen.polygon([(0.0, -0.8), (right, -0.04), (left, -0.04)], shade(colour, 1.4), edge=False)


SUBJECTS: Final[dict[str, Callable[[Pen, RGB, np.random.Generator], None]]] = {
    "ball": _ball,
    "boat": _boat,
    "car": _car,
    "cup": _cup,
    "fish": _fish,
    "flower": _flower,
    "house": _house,
    "star": _star,
    "tree": _tree,
    "umbrella": _umbrella,
}
