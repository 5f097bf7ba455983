"""Images per second of `images.process` beside two peers, in CPU time of one core.

    python -m bench.resize                        # seeded pictures of 640x480 and 1600x1200
    python -m bench.resize --images 'photos/*.jpg'
    python -m bench.resize --detail 'photos/*.jpg'    # how near the results come to Lanczos, by ratio

All make the shorter side 256 and encode JPEG at the same quality. "Pillow" is the usual full decode and
Lanczos; "full decode, area" is img2dataset's default (cv2.imdecode, INTER_AREA, cv2.imencode), without its
other work. Ours also checks the headers and computes the perceptual hash; the last row adds the cost of the
child process, its CPU time included.

--detail resizes photographs by several ratios, as they are and cut to even sides, without encoding, and
compares with Pillow's Lanczos reduction of the full decode (PSNR, the mean over the photographs).
"""

import argparse
import glob
import importlib.metadata
import io
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from bench.tables import show
from pipeline.images.decode import Pixels
from pipeline.images.decoder import Decoder
from pipeline.images.process import decode_jpeg, process, resize, target
from pipeline.options import ImageOptions

REPEATS = 5
RATIOS = (1.1, 1.25, 1.5, 1.75, 1.875, 2, 2.25, 2.5, 3, 3.5, 4, 5, 6, 8)
OPTIONS = ImageOptions()


class Row(NamedTuple):
    images: str
    method: str
    per_s: float
    ms: float
    output_kb: float


def synthetic(width: int, height: int, count: int) -> list[bytes]:
    """Return JPEGs (quality 88, 4:2:0) of noise whose power falls with frequency, as in photographs."""
    rng = np.random.default_rng(0)
    files = []
    for _ in range(count):
        total = np.zeros((height, width, 3))
        for octave in range(1, 10):
            cells = rng.integers(0, 256, (3 << octave, 4 << octave, 3), dtype=np.uint8)
            grid = Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)
            total += np.asarray(grid, float) / 1.6**octave
        total -= total.min()
        buffer = io.BytesIO()
        picture = Image.fromarray((total * (255 / total.max())).astype(np.uint8))
        picture.save(buffer, "JPEG", quality=88, subsampling="4:2:0")
        files.append(buffer.getvalue())
    return files


def ours(data: bytes) -> bytes:
    return process(data, OPTIONS).jpeg


def pillow(data: bytes) -> bytes:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = OPTIONS.image_size / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    buffer = io.BytesIO()
    image.resize(size, Image.Resampling.LANCZOS).save(buffer, "JPEG", quality=OPTIONS.quality)
    return buffer.getvalue()


def full_decode_area(data: bytes) -> bytes:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    scale = OPTIONS.image_size / min(image.shape[:2])
    size = round(image.shape[1] * scale), round(image.shape[0] * scale)
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, OPTIONS.quality])[1].tobytes()


def measure(label: str, files: Sequence[bytes]) -> list[Row]:
    """Return the best of several interleaved repeats of each method."""
    methods = {"ours": ours, "full decode, area": full_decode_area, "Pillow Lanczos": pillow}
    best = dict.fromkeys(methods, float("inf"))
    size = {name: sum(len(method(data)) for data in files) / len(files) for name, method in methods.items()}
    for _ in range(REPEATS):
        for name, method in methods.items():
            start = time.process_time()
            for data in files:
                method(data)
            best[name] = min(best[name], time.process_time() - start)
    best = {name: seconds / len(files) for name, seconds in best.items()}
    best["ours, in a child"] = in_child(files)
    size["ours, in a child"] = size["ours"]
    return [Row(label, name, 1 / s, 1e3 * s, size[name] / 1e3) for name, s in best.items()]


def detail(files: Sequence[bytes]) -> list[tuple[str, ...]]:
    """Return a line for each ratio: decibels and milliseconds, ours and the full decode's, odd and even."""
    pictures = [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in files]
    lines = []
    for ratio in RATIOS:
        cells = [f"{ratio:g}"]
        for even in (False, True):
            found = [_compared(picture, ratio, even) for picture in pictures]
            decibels, seconds = np.mean([one[0] for one in found], 0), np.median([one[1] for one in found], 0)
            cells += [f"{value:.1f}" for value in decibels] + [f"{1e3 * value:.2f}" for value in seconds]
        lines.append(tuple(cells))
    return lines


def resized(data: bytes, options: ImageOptions, size: tuple[int, int]) -> Pixels:
    """Return the crawl's version of a JPEG, before it is encoded."""
    decoded = decode_jpeg(data, options)
    return resize(decoded.rgb, decoded.extent, *size)


def _compared(picture: Pixels, ratio: float, even: bool) -> tuple[list[float], list[float]]:
    """Return PSNR and CPU seconds of ours and of a full decode with area averaging."""
    height, width = (side - side % 2 * even for side in picture.shape[:2])
    buffer = io.BytesIO()
    Image.fromarray(picture[:height, :width]).save(buffer, "JPEG", quality=92, subsampling="4:2:0")
    data = buffer.getvalue()
    short = round(min(height, width) / ratio)
    options = ImageOptions(image_size=short, min_side=1)
    size = target(width, height, options)
    reference = Image.fromarray(simplejpeg.decode_jpeg(data, "RGB")).resize(size, Image.Resampling.LANCZOS)
    ways: tuple[Callable[[], Pixels], ...] = (
        lambda: resized(data, options, size),
        lambda: cv2.resize(simplejpeg.decode_jpeg(data, "RGB"), size, interpolation=cv2.INTER_AREA),
    )
    decibels, seconds = [], []
    for way in ways:
        start = time.process_time()
        result = way()
        seconds.append(time.process_time() - start)
        error = np.mean((result.astype(float) - np.asarray(reference, float)) ** 2)
        decibels.append(float(10 * np.log10(255**2 / error)))
    return decibels, seconds


def in_child(files: Sequence[bytes]) -> float:
    """Return CPU seconds per image of parent and child together, of a child that is warm (Linux)."""
    with Decoder(OPTIONS) as child:
        best = float("inf")
        for _ in range(1 + REPEATS):  # the first also waits for the child's start
            process_of_child = child._child._child
            assert process_of_child is not None
            clock = (~process_of_child.pid << 3) | 2  # the kernel's CPU clock of another process
            before = time.process_time(), time.clock_gettime(clock)
            for data in files:
                child.process(data)
            spent = time.process_time() - before[0] + time.clock_gettime(clock) - before[1]
            best = min(best, spent)
    return best / len(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", help="a glob of JPEG files instead of seeded pictures")
    parser.add_argument("--count", type=int, default=40, help="pictures of each size (default 40)")
    parser.add_argument("--detail", metavar="GLOB", help="measure detail instead of speed, on JPEG files")
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    arguments = parser.parse_args()
    cv2.setNumThreads(1)
    if arguments.detail:
        paths = sorted(glob.glob(arguments.detail, recursive=True))[: arguments.count]  # noqa: PTH207
        ours_and_area = ("openwit dB", "area dB", "openwit ms", "area ms")
        columns = ("ratio", *ours_and_area, *(f"even: {name}" for name in ours_and_area))
        show("detail kept", columns, detail([Path(path).read_bytes() for path in paths]))
        return
    if arguments.images:
        paths = sorted(glob.glob(arguments.images, recursive=True))[: arguments.count]  # noqa: PTH207
        if not paths:
            parser.error(f"no file matches {arguments.images}")
        sets = {arguments.images: [Path(path).read_bytes() for path in paths]}
    else:
        sets = {f"{w}x{h}": synthetic(w, h, arguments.count) for w, h in ((640, 480), (1600, 1200))}

    rows, cells = [], []
    for label, files in sets.items():
        found = measure(label, files)
        rows += found
        for row in found:
            mean = sum(map(len, files)) / len(files) / 1e3
            share = f"{row.per_s / found[0].per_s:.2f}x"
            cells.append(
                (label, row.method, f"{mean:.0f}", f"{row.per_s:.0f}", f"{row.ms:.2f}", share,
                 f"{row.output_kb:.1f}")
            )  # fmt: skip
    show("resizing", ("images", "method", "KB", "img/s/core", "ms", "ratio", "KB out"), cells, texts=2)
    if arguments.out:
        packages = ("opencv-python-headless", "pillow", "simplejpeg", "numpy")
        versions = {name: importlib.metadata.version(name) for name in packages}
        machine = {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count()}
        report = {"rows": [row._asdict() for row in rows], "versions": versions, "machine": machine}
        arguments.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
