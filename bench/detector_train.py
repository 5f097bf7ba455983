"""Does the entropy term help? Two detectors trained side by side, without and with it, equally long.

    python -m bench.detector_train OUT PHOTOGRAPHS [--seconds 235] [--device cuda]

PHOTOGRAPHS are folders of pictures, or tars of them, in any format that pillow reads; no captions are needed.
Half a minute of both at once says how many pairs are trained on per second, and so how long the schedule may
be to end in time; no result of it is kept. Then OUT/none and OUT/entropy are trained: detector.safetensors,
which `openwit overlap --detector` takes and bench.overlap_recall compares, and metrics.jsonl.
"""

import argparse
import io
import json
import multiprocessing
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from pipeline.shards import Sample, encode_json, write_shard

SHARD = 1_000
TERMS = {"none": 0, "entropy": 3}
MEASURED = 27  # seconds in which the speed is measured
WRITTEN = 30  # seconds in which a detector is written at the end, its background images among them


def pictures(path: Path) -> Iterator[bytes]:
    """Yield the files of a folder or a tar that may be pictures."""
    if path.is_dir():
        yield from (file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file())
        return
    with tarfile.open(path) as tar:
        yield from (tar.extractfile(member).read() for member in tar if member.isfile())  # type: ignore[union-attr]


def small(data: bytes, side: int) -> bytes | None:
    """Return a picture as JPEG with this shorter side at most; None if it is no picture."""
    try:
        opened = Image.open(io.BytesIO(data))
        opened.draft("RGB", (side, side))
        image = opened.convert("RGB")
    except OSError:
        return None
    scale = side / min(image.size)
    if scale < 1:
        width, height = (round(one * scale) for one in image.size)
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=95)
    return sink.getvalue()


def write_shards(folder: Path, paths: list[Path], side: int) -> None:
    """Write the pictures of all paths as shards, each with a caption, which a training set has."""
    found = [data for path in paths for data in pictures(path)]
    with multiprocessing.Pool() as pool:
        kept = [data for data in pool.starmap(small, ((one, side) for one in found), chunksize=64) if data]
    folder.mkdir()
    for first in range(0, len(kept), SHARD):
        samples = (
            Sample(f"{number:08d}", data, "-", encode_json({"key": f"{number:08d}", "captions": ["-"]}))
            for number, data in enumerate(kept[first : first + SHARD], first)
        )
        write_shard(folder / f"{first // SHARD:05d}.tar", samples)
    print(f"{len(kept):,} pictures of {len(found):,} files", flush=True)


def start(
    shards: Path, out: Path, term: int, options: argparse.Namespace, *more: object
) -> subprocess.Popen[bytes]:
    """Start a training; its log is OUT.log."""
    command = [
        sys.executable, "-m", "dedup.detector", "train", "--shards", shards, "--out", out, "--model", "small",
        "--image-size", options.image_size, "--batch-size", options.batch_size, "--lr", options.lr,
        "--device", options.device, "--workers", options.decoders, "--compile", "off", "--grad-clip", 5,
        "--log-every", 10, "--checkpoint-every", 100_000, "--entropy", term, *more,
    ]  # fmt: skip
    out.parent.mkdir(parents=True, exist_ok=True)
    with (out.parent / f"{out.name}.log").open("wb") as log:
        return subprocess.Popen([str(one) for one in command], stdout=log, stderr=log)


def pairs_per_second(metrics: Path) -> float:
    """Return the median speed after the first line of a training's metrics."""
    rows = map(json.loads, metrics.read_text().splitlines())
    found = [float(row["pairs_per_second"]) for row in rows if "pairs_per_second" in row]
    return statistics.median(found[1:] or found)


def main() -> int:
    """Train both; 1 if one of them failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("photographs", type=Path, nargs="+")
    parser.add_argument("--seconds", type=int, default=235, help="in all")
    parser.add_argument("--device", default="auto", choices=("auto", "cuda", "cpu"))
    parser.add_argument("--image-size", type=int, default=96)
    parser.add_argument("--batch-size", type=int, default=1536)
    parser.add_argument("--lr", type=float, default=0.003)
    parser.add_argument("--background", type=int, default=6_000)
    parser.add_argument("--decoders", type=int, default=7, help="processes that decode, of each")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        shards = Path(work) / "shards"
        write_shards(shards, options.photographs, options.image_size * 3 // 2)
        endless = ("--samples", 20_000_000, "--background", 16, "--max-minutes", MEASURED / 60)
        tried = [start(shards, Path(work) / name, term, options, *endless) for name, term in TERMS.items()]
        if sum(one.wait() != 0 for one in tried):  # all are waited for
            print("".join((Path(work) / f"{name}.log").read_text()[-1000:] for name in TERMS))
            return 1
        speed = min(pairs_per_second(Path(work) / name / "metrics.jsonl") for name in TERMS)
        left = options.seconds - (time.monotonic() - began)
        # A twentieth is kept back for a speed that varies; should it not do, both stop in time all the same.
        steps = max(1, int(speed * (left - WRITTEN) * 0.94 / options.batch_size))
        samples, guard = steps * options.batch_size, max(0.1, (left - WRITTEN / 2) / 60)
        print(f"{speed:,.0f} pairs/s each: {samples:,} in the {left:.0f} s left", flush=True)
        known = ("--samples", samples, "--background", options.background, "--max-minutes", guard)
        both = [start(shards, options.out / name, term, options, *known) for name, term in TERMS.items()]
        failed = sum(one.wait() != 0 for one in both)
    for name in TERMS:
        print(name, (options.out / f"{name}.log").read_text()[-300:], sep="\n")
    print(f"{time.monotonic() - began:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
