"""ICC profiles made of their own numbers (ICC.1:2001-04), for tests."""

import itertools
import struct

import numpy as np

D50 = (0.9642, 1.0, 0.8249)
# Primaries and white as chromaticities x, y; all of D65 but ProPhoto's.
SRGB = ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), (0.3127, 0.3290))
DISPLAY_P3 = ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), (0.3127, 0.3290))
ADOBE_RGB = ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), (0.3127, 0.3290))
PROPHOTO = ((0.734699, 0.265301), (0.159597, 0.840403), (0.036598, 0.000105), (0.345704, 0.358540))
_BRADFORD = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])


def _xyz(x: float, y: float) -> np.ndarray:
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _matrix(primaries: tuple[tuple[float, float], ...]) -> np.ndarray:
    """Return the columns of red, green and blue, adapted to D50."""
    columns = np.stack([_xyz(*one) for one in primaries[:3]], axis=1)
    white = _xyz(*primaries[3])
    columns = columns * np.linalg.solve(columns, white)
    gains = (_BRADFORD @ np.array(D50)) / (_BRADFORD @ white)
    adapted: np.ndarray = np.linalg.inv(_BRADFORD) @ np.diag(gains) @ _BRADFORD @ columns
    return adapted


def _fixed(values: object) -> bytes:
    return b"".join(struct.pack(">i", round(float(value) * 65536)) for value in np.ravel(values))


def _point(values: object) -> bytes:
    return b"XYZ \0\0\0\0" + _fixed(values)


def curve(gamma: float) -> bytes:
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def srgb_curve() -> bytes:
    """Return sRGB's own curve as a table of 1,024 entries, as the oldest profile of it has."""
    x = np.linspace(0, 1, 1024)
    y = np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)
    return b"curv\0\0\0\0" + struct.pack(">I", 1024) + np.round(y * 65535).astype(">u2").tobytes()


def profile(
    space: bytes, tags: dict[bytes, bytes], kind: bytes = b"mntr", connection: bytes = b"XYZ "
) -> bytes:
    tags = {
        b"desc": b"desc\0\0\0\0" + struct.pack(">I", 5) + b"test\0" + bytes(78),
        b"wtpt": _point(D50),
        **tags,
    }
    table, body = struct.pack(">I", len(tags)), b""
    start = 128 + 4 + 12 * len(tags)
    for name, value in tags.items():
        table += name + struct.pack(">II", start + len(body), len(value))
        body += value + bytes(-len(value) % 4)
    size = start + len(body)
    header = struct.pack(">I", size) + b"test\x02\x10\0\0" + kind + space + connection + bytes(12) + b"acsp"
    return header + bytes(28) + _fixed(D50) + bytes(48) + table + body


def rgb(primaries: tuple[tuple[float, float], ...], tone: bytes) -> bytes:
    columns = _matrix(primaries).T
    points = {name: _point(column) for name, column in zip((b"rXYZ", b"gXYZ", b"bXYZ"), columns, strict=True)}
    return profile(b"RGB ", points | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), tone))


def swapped() -> bytes:
    """Return sRGB with red's and blue's primaries exchanged."""
    red, green, blue, white = SRGB
    return rgb((blue, green, red, white), curve(2.2))


def grey(gamma: float) -> bytes:
    return profile(b"GRAY", {b"kTRC": curve(gamma)})


def cmyk() -> bytes:
    """Return a press whose inks are brighter than pure ones: a table of two steps an ink, to Lab."""
    nodes = []
    for c, m, y, k in itertools.product((0, 1), repeat=4):
        light = 100 * (1 - 0.35 * c) * (1 - 0.45 * m) * (1 - 0.08 * y) * (1 - 0.8 * k)
        nodes.append((light * 2.55, 128 - 35 * c + 70 * m - 5 * y, 128 - 45 * c - 5 * m + 85 * y))
    ramp = bytes(range(256))
    table = np.clip(np.round(nodes), 0, 255).astype(np.uint8).tobytes()
    lut = b"mft1\0\0\0\0" + bytes([4, 3, 2, 0]) + _fixed(np.eye(3)) + ramp * 4 + table + ramp * 3
    return profile(b"CMYK", {b"A2B0": lut}, b"prtr", b"Lab ")
