"""Write small shards for the trainer's tests: pictures of plain colours, captions that name them."""

import io
import json
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (230, 220, 40)}


def jpeg(colour: str, width: int = 40, height: int = 32, seed: int = 0) -> bytes:
    """Return a JPEG of a noisy colour."""
    noise = np.random.default_rng(seed).integers(-25, 25, (height, width, 3))
    pixels = (np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Add one regular file."""
    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def write(path: Path, places: Iterable[int], **options: int) -> Path:
    """Write a shard of the samples of these numbers: colour, uid and captions follow from the number."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number in places:
            colour = list(COLOURS)[number % len(COLOURS)]
            captions = [f"a photo of {colour} {number}", f"{colour} paint {number}"]
            row = {"uid": f"{number:032x}", "caption": captions[0], "captions": captions}
            key = f"{number:09d}"
            member(tar, f"{key}.jpg", jpeg(colour, seed=number, **options))
            member(tar, f"{key}.json", json.dumps(row).encode())
            member(tar, f"{key}.txt", captions[0].encode())
    return path


def write_run(root: Path, sizes: list[int], first: int = 0) -> Path:
    """Write a finished run's folder: shards and the manifest's part that the trainer reads."""
    shards = []
    for index, size in enumerate(sizes):
        write(root / "shards" / f"{index:05d}.tar", range(first, first + size))
        shards.append({"name": f"{index:05d}.tar", "samples": size})
        first += size
    (root / "manifest.json").write_text(json.dumps({"shards": shards}))
    return root
