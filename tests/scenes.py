"""Pictures to find again, and small training and evaluation sets of them, for tests of the overlap."""

import hashlib
from pathlib import Path

import cv2
import numpy as np
import orjson

from pipeline.shards import Sample, write_shard


def scene(seed: int, height: int = 256, width: int = 340) -> np.ndarray:
    """Return a picture with edges, corners and texture, different for every seed."""
    rng = np.random.default_rng(seed)
    canvas = cv2.resize(
        rng.integers(0, 256, (6, 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC
    )
    for _ in range(60):
        x, y, r = (int(v) for v in rng.integers(0, (width, height, 40)))
        shade = tuple(int(v) for v in rng.integers(0, 256, 3))
        if rng.random() < 0.5:
            cv2.circle(canvas, (x, y), r // 2 + 2, shade, -1)
        else:
            cv2.rectangle(canvas, (x, y), (x + r, y + r // 2 + 3), shade, -1)
    return canvas


def jpeg(rgb: np.ndarray, quality: int = 90) -> bytes:
    """Encode as JPEG."""
    return cv2.imencode(".jpg", rgb[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


def uid_of(url: str) -> str:
    """Return the uid of a URL that is canonical already."""
    return hashlib.sha256(url.encode()).hexdigest()[:32]


def sample(key: str, rgb: np.ndarray, url: str, caption: str) -> Sample:
    """Return a training sample as a run holds it."""
    row = {"uid": uid_of(url), "url": url, "caption": caption, "captions": [caption]}
    return Sample(key, jpeg(rgb), caption, orjson.dumps(row))


def write_folder(root: Path, pictures: dict[str, np.ndarray]) -> None:
    """Write an evaluation set as a folder of class folders; names are CLASS/FILE.jpg."""
    for name, rgb in pictures.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(rgb, 95))


def write_run(root: Path, shards: list[list[Sample]]) -> None:
    """Write a finished run, as far as its readers look at it."""
    (root / "shards").mkdir(parents=True)
    names = [f"{number:05d}.tar" for number in range(len(shards))]
    for name, samples in zip(names, shards, strict=True):
        write_shard(root / "shards" / name, samples)
    manifest = {
        "shards": [{"name": name} for name in names],
        "crawled": {"first": "2024-01-01T00:00:00+00:00", "last": "2024-02-01T00:00:00+00:00"},
    }
    (root / "manifest.json").write_bytes(orjson.dumps(manifest))
