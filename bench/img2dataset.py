"""A URL list to WebDataset shards: `openwit crawl` beside img2dataset 1.47, CPU and memory per image.

    python -m bench.img2dataset                       # 1,000 and 10,000 images, http and https
    python -m bench.img2dataset --images 500 2000 --schemes http
    python -m bench.img2dataset --rows urls.parquet    # how many of a list's rows each of them keeps

Both read the same Parquet of URLs and captions from one loopback server, 50 images per site, and write tar
shards with the shorter side at 256, JPEG at quality 95, and SHA-256 of the fetched bytes. img2dataset stands
in a virtual environment of its own (made in .peers/ at the first run). openwit's figure is the whole command:
captions are also matched and balanced, robots.txt is asked for, images are decoded in a child process, and
the shards are mixed and hashed. CPU time is that of all processes but the server. "Steady" is the slope
between the two sizes, so start-up is not in it.

With --rows the two read a list of the web whose URLs are led to the loopback server, which answers every
path with a picture, `openwit crawl` by --preset img2dataset: rows, images, and the reasons of the others.

Loopback http flatters img2dataset: urllib has no TLS to do. On Python 3.11 https damns it: urllib builds a
TLS context for each connection (28 ms; python/cpython#95031), where 3.12 and later build a single context.
"""

import argparse
import io
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from bench import loopback
from bench.resize import synthetic
from bench.tables import show
from bench.usage import Usage, measure
from pipeline.options.sources import SourceOptions
from pipeline.sources.columns import find_columns

PEER = "img2dataset==1.47.0"
PICTURES = 40
LIST_SITES = 200
WORDS = (
    "red",
    "blue",
    "old",
    "small",
    "wooden",
    "bright",
    "city",
    "forest",
    "river",
    "house",
    "garden",
    "horse",
)


class Output(NamedTuple):
    """Hold the results of a run."""

    images: int
    bytes: float  # a mean
    psnr: float  # dB against Pillow's Lanczos reduction of the original, a mean over some


def peer_python() -> Path:
    """Return the interpreter of the peer's environment, made if it is missing."""
    python = Path(".peers/img2dataset/bin/python")
    if not (python.parent / "img2dataset").exists():
        subprocess.run([sys.executable, "-m", "venv", python.parents[1]], check=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", PEER], check=True)
    return python


def write_list(path: Path, addresses: list[str]) -> None:
    """Write a URL list whose captions differ."""
    words = itertools.cycle(itertools.permutations(WORDS, 3))
    captions = [f"a {' '.join(next(words))} number {i}" for i in range(len(addresses))]
    pq.write_table(pa.table({"url": addresses, "caption": captions}), path)


def run_peer(source: Path, out: Path, log: Path, certificates: dict[str, str]) -> Usage:
    python = peer_python()
    command = [
        str(python), "-m", "img2dataset.main", "--url_list", str(source), "--input_format", "parquet",
        "--url_col", "url", "--caption_col", "caption", "--output_format", "webdataset",
        "--output_folder", str(out), "--image_size", "256", "--resize_mode", "keep_ratio",
        "--resize_only_if_bigger", "True", "--encode_quality", "95", "--processes_count", "2",
        "--thread_count", "64", "--number_sample_per_shard", "1000", "--compute_hash", "sha256",
    ]  # fmt: skip
    return measure(command, {"NO_ALBUMENTATIONS_UPDATE": "1", **certificates}, log)


def run_ours(
    source: Path,
    out: Path,
    log: Path,
    certificates: dict[str, str],
    stage: str = "all",
    rounds: int = 1,
    per_query: int = 1_000_000,
    flags: tuple[str, ...] = (),
) -> Usage:
    queries = out.parent / "queries.txt"
    queries.write_text("\n".join(WORDS))
    command = [
        sys.executable, "beam_job.py", "crawl", "--queries", str(queries), "--source", str(source),
        "--out", str(out), "--stage", stage, "--image-size", "256", "--resize-mode", "shorter",
        "--quality", "95", "--lang", "any", "--per-query", str(per_query), "--rounds", str(rounds),
        "--workers", "2", "--samples-per-shard", "1000", "--allow-network", "127.0.0.0/8", *flags,
    ]  # fmt: skip
    return measure(command, certificates, log)


def run_ours_later(source: Path, out: Path, log: Path, certificates: dict[str, str]) -> Usage:
    return run_ours(source, out, log, certificates, flags=("--describe", "later"))


TOOLS: dict[str, Callable[[Path, Path, Path, dict[str, str]], Usage]] = {
    "img2dataset 1.47": run_peer,
    "openwit": run_ours,
    "openwit --describe later": run_ours_later,
}


def inspect(tars: list[Path], originals: dict[str, bytes]) -> Output:
    """Count and weigh the images of shards, and compare some with their originals."""
    count, size, ratios = 0, 0, []
    for path in tars:
        with tarfile.open(path) as tar:
            data: dict[str, bytes] = {}
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                data[member.name.rpartition(".")[2]] = file.read()
                if {"jpg", "json", "txt"} <= data.keys():
                    count, size = count + 1, size + len(data["jpg"])
                    if len(ratios) < 100:
                        url = json.loads(data["json"])["url"]
                        ratios.append(psnr(data["jpg"], originals[url]))
                    data = {}
    return Output(count, size / max(count, 1), float(np.mean(ratios)) if ratios else 0.0)


def psnr(jpeg: bytes, original: bytes) -> float:
    image = Image.open(io.BytesIO(jpeg)).convert("RGB")
    reference = Image.open(io.BytesIO(original)).convert("RGB").resize(image.size, Image.Resampling.LANCZOS)
    error = np.mean((np.asarray(image, float) - np.asarray(reference, float)) ** 2)
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


class Row(NamedTuple):
    tool: str
    scheme: str
    images: int
    usage: Usage
    output: Output


def compare(scheme: str, sizes: list[int], pictures: list[bytes], folder: Path, stages: bool) -> list[Row]:
    """Run both at every size, in turn, against one server."""
    rows = []
    certificates = {"SSL_CERT_FILE": str(folder / "ca.pem")} if scheme == "https" else {}
    sites = -(-max(sizes) // loopback.SITE_IMAGES)
    with loopback.serve(pictures, folder, sites, scheme) as port:
        for size in sizes:
            addresses = loopback.urls(size, port, scheme)
            originals = {url: pictures[i % len(pictures)] for i, url in enumerate(addresses)}
            source = folder / f"{scheme}-{size}.parquet"
            write_list(source, addresses)
            for tool, run in TOOLS.items():
                out = folder / f"{scheme}-{size}-{tool.replace(' ', '-')}"
                usage = run(source, out, Path(f"{out}.log"), certificates)
                output = inspect(sorted(out.rglob("*.tar")), originals)
                if output.images != size:
                    raise RuntimeError(f"{tool} wrote {output.images} of {size} images; see {out}.log")
                rows.append(Row(tool, scheme, size, usage, output))
                print(rows[-1], file=sys.stderr, flush=True)
            if stages and size == max(sizes):
                for stage in ("candidates", "select", "fetch", "finish"):
                    out = folder / f"{scheme}-{size}-stages"
                    usage = run_ours(source, out, Path(f"{out}.log"), certificates, stage)
                    rows.append(Row(f"openwit, {stage} alone", scheme, size, usage, Output(size, 0, 0)))
    return rows


COLUMNS = ("scheme", "tool", "images", "CPU ms/image", "steady", "peak MB", "images/s", "KB/image", "PSNR dB")


def cells(rows: list[Row]) -> Iterator[tuple[str, ...]]:
    """Yield the figures, with the slope between the smallest and the largest size."""
    for row in rows:
        first = next(r for r in rows if (r.tool, r.scheme) == (row.tool, row.scheme))
        more = row.images - first.images
        steady = f"{1000 * (row.usage.cpu_s - first.usage.cpu_s) / more:.2f}" if more else ""
        yield (
            row.scheme, row.tool, f"{row.images:,}", f"{1000 * row.usage.cpu_s / row.images:.2f}", steady,
            f"{row.usage.peak_mb:,.0f}", f"{row.images / row.usage.wall_s:,.0f}",
            f"{row.output.bytes / 1000:.1f}" if row.output.bytes else "",
            f"{row.output.psnr:.1f}" if row.output.psnr else "",
        )  # fmt: skip


class Kept(NamedTuple):
    """Hold how many rows of a list stand in the shards, and why the others do not."""

    tool: str
    images: int
    captions: int
    others: dict[str, int]


def lead_to_loopback(source: Path, target: Path, port: int) -> int:
    """Write a URL list whose hosts are sites on loopback; anything but an http URL stays. Return its rows."""
    table = pq.read_table(source)
    columns = find_columns(table.column_names, SourceOptions())
    assert columns.caption is not None
    sites = loopback.addresses(LIST_SITES)

    def led(url: str | None) -> str | None:
        found = re.match(r"(?is)https?://([^/?#]*)(.*)", url or "")
        if found is None:
            return url
        host, rest = found.groups()
        return f"http://{sites[zlib.crc32(host.encode()) % LIST_SITES]}:{port}/{host}{rest}"

    led_urls = [led(url) for url in table[columns.url].to_pylist()]
    pq.write_table(pa.table({"url": led_urls, "caption": table[columns.caption]}), target)
    return len(table)


def kept_by_peer(out: Path) -> Kept:
    """Count the rows of img2dataset's Parquet files by their status."""
    rows = pa.concat_tables(
        [pq.read_table(path, columns=["status", "error_message"]) for path in sorted(out.glob("*.parquet"))]
    ).to_pylist()
    failed = Counter(str(row["error_message"]) for row in rows if row["status"] != "success")
    good = len(rows) - failed.total()
    return Kept("img2dataset 1.47", good, good, dict(failed))


def kept_by_us(out: Path) -> Kept:
    """Return a manifest's counts."""
    counts = json.loads((out / "manifest.json").read_bytes())["counts"]
    others = {reason: n for one in counts["rejected_by_stage"].values() for reason, n in one.items()}
    return Kept("openwit", counts["samples"], counts["captions"], others)


def compare_rows(source: Path, folder: Path) -> None:
    """Run both on one list and print their row counts beside each other."""
    with loopback.serve(synthetic(320, 240, PICTURES), folder, LIST_SITES, "http") as port:
        rows = lead_to_loopback(source, folder / "rows.parquet", port)
        run_peer(folder / "rows.parquet", folder / "peer", folder / "peer.log", {})
        command = [sys.executable, "beam_job.py", "crawl", "--preset", "img2dataset", "--workers", "2",
                   "--source", str(folder / "rows.parquet"), "--out", str(folder / "ours"),
                   "--allow-network", "127.0.0.0/8"]  # fmt: skip
        measure(command, {}, folder / "ours.log")
    both = (kept_by_peer(folder / "peer"), kept_by_us(folder / "ours"))
    lines = [(one.tool, f"{rows:,}", f"{one.images:,}", f"{one.captions:,}") for one in both]
    show(f"Rows of {source.name} that arrive", ("tool", "rows", "images", "rows in them"), lines)
    for one in both:
        missing = rows - one.captions
        print(f"{one.tool}: {missing:,} rows are not in the shards", "" if not missing else one.others)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--schemes", nargs="+", default=["http", "https"], choices=["http", "https"])
    parser.add_argument(
        "--rows", type=Path, metavar="FILE", help="compare the rows kept of this Parquet list"
    )
    parser.add_argument("--no-stages", action="store_true", help="leave out openwit's stages one by one")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave it there")
    arguments = parser.parse_args()
    peer_python()
    if arguments.rows:
        with tempfile.TemporaryDirectory() as scratch:
            folder = arguments.keep or Path(scratch)
            folder.mkdir(parents=True, exist_ok=True)
            compare_rows(arguments.rows, folder)
        return
    pictures = synthetic(640, 480, PICTURES)
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.keep or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        rows = [
            row
            for scheme in arguments.schemes
            for row in compare(scheme, sorted(arguments.images), pictures, folder, not arguments.no_stages)
        ]
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    show(f"URL list to shards, {machine}", COLUMNS, cells(rows), texts=2)


if __name__ == "__main__":
    main()
