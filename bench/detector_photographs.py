"""Write the photographs that the shipped detector is trained on as shards.

    python -m bench.detector_photographs CHECKOUTS OUT

CHECKOUTS holds a checkout of each repository of `SOURCES` at its commit, in a folder of that name:

    git clone https://github.com/maxogden/cats CHECKOUTS/cats && git -C CHECKOUTS/cats checkout 97329b40

Only collections whose owners permit any use are among them. OUT is a folder of WebDataset shards: a shorter
side of 144 pixels, JPEG of quality 90. Same checkouts, same bytes.
"""

import argparse
import hashlib
import json
import random
from pathlib import Path
from typing import Final, NamedTuple

import cv2

from pipeline.shards import Sample, write_shard

SIDE: Final = 144
_PER_SHARD: Final = 1000


class Source(NamedTuple):
    """A repository of photographs; fields only."""

    repository: str
    commit: str
    licence: str
    folders: tuple[str, ...]
    most: int = 10_000


SOURCES: Final = (
    Source("alexeygrigorev/clothing-dataset-small", "main", "CC0-1.0", ("train",)),
    # TensorFlow's flower_photos.tgz, whose LICENSE.txt names each author.
    Source("atiaisaac/flowers_classification", "087014c3", "CC-BY-2.0", ("flowers",)),
    Source("marcusklasson/GroceryStoreDataset", "fc80ba90", "MIT", ("dataset",), 1200),
    Source("maxogden/cats", "97329b40", "BSD", ("cat_photos",), 200),
    Source(
        "Azure-Samples/cognitive-services-sample-data-files",
        "65af3b93",
        "MIT",
        ("ComputerVision", "CustomVision"),
    ),
    Source(
        "MicrosoftLearning/mslearn-ai-vision",
        "2abec7f3",
        "MIT",
        ("Labfiles/image-classification", "Labfiles/object-detection"),
    ),
)


def photographs(source: Source, checkouts: Path) -> list[bytes]:
    """Return a source's photographs, made small, in an order drawn by a fixed seed."""
    root = checkouts / source.repository.partition("/")[2]
    found = sorted(p for folder in source.folders for p in (root / folder).rglob("*") if _is_photograph(p))
    random.Random(0).shuffle(found)
    made = (_small(path) for path in found[: source.most])
    return [one for one in made if one is not None]


def _is_photograph(path: Path) -> bool:
    return path.suffix.lower() in (".jpg", ".jpeg", ".png")


def _small(path: Path) -> bytes | None:
    """Return a JPEG of the photograph; None for a damaged, small, long or plain picture."""
    bgr = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if bgr is None or min(bgr.shape[:2]) < 100 or max(bgr.shape[:2]) > 4 * min(bgr.shape[:2]):
        return None
    scale = SIDE / min(bgr.shape[:2])
    if scale < 1:
        bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    if bgr.std() < 12:
        return None
    return bytes(cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 90])[1])


def write(images: list[bytes], out: Path) -> None:
    """Write the shards."""
    out.mkdir(parents=True)
    samples = [Sample(f"{n:09d}", image, "-", b"{}") for n, image in enumerate(images)]
    for start in range(0, len(samples), _PER_SHARD):
        write_shard(out / f"{start // _PER_SHARD:05d}.tar", samples[start : start + _PER_SHARD])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    cv2.setNumThreads(1)
    counts: dict[str, int] = {}
    images: dict[bytes, None] = {}  # each once
    for source in SOURCES:
        before = len(images)
        images |= dict.fromkeys(photographs(source, args.checkouts))
        counts[source.repository] = len(images) - before
        print(source.repository, source.licence, f"{counts[source.repository]:,}", flush=True)
    mixed = list(images)
    random.Random(1).shuffle(mixed)
    write(mixed, args.out)
    together = hashlib.sha256(b"".join(hashlib.sha256(one).digest() for one in mixed))
    print(json.dumps({"photographs": len(mixed), "sha256": together.hexdigest()}))


if __name__ == "__main__":
    main()
