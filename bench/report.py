"""The report at several sizes: CPU seconds a million samples, and peak memory.

    python -m bench.report --samples 100000 400000

A finished run is written first: shards of 10,000 rows, captions of Zipf's words, sites of a heavy tail, tiny
pictures, and a unit's log for every 2,000 images. Each size runs in a process of its own, so that its peak
memory is its own. Of real shards some 100 are read up to the sample that is shown: 300 MB each at most.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHARD = 10_000
UNIT = 2_000
QUERIES = 500_000


def write_run(folder: Path, count: int) -> None:
    """Write the files that the report reads, of a run of `count` samples; the tars are links to one tar."""
    import io

    import numpy as np
    import pyarrow as pa
    from PIL import Image

    from pipeline import config, manifest, run_folder, schemas
    from pipeline.checked_manifest import Crawled, Manifest, ManifestRound, ManifestShard
    from pipeline.fetch.parts import Fetched, Round
    from pipeline.options import CrawlConfig
    from pipeline.run_folder import Layout
    from pipeline.shards import Sample, write_shard
    from pipeline.stages import Rounds

    rng, layout = np.random.default_rng(0), Layout(str(folder))
    (folder / "shards").mkdir(parents=True)
    picture = io.BytesIO()
    Image.fromarray(rng.integers(0, 255, (16, 16, 3), np.uint8)).save(picture, "JPEG", quality=90)
    vocabulary = np.array([f"word{n}" for n in range(50_000)])
    shards: list[ManifestShard] = []
    for number in range(-(-count // SHARD)):
        name, rows = f"{number:05d}", min(SHARD, count - number * SHARD)
        keys = [f"{name}{index:04d}" for index in range(rows)]
        lengths = rng.integers(3, 20, rows)
        texts = np.split(
            vocabulary[np.minimum(rng.zipf(1.3, lengths.sum()) - 1, 49_999)], np.cumsum(lengths)[:-1]
        )
        site = (rng.pareto(0.8, rows) * 10).astype(np.int64) % 5_000_000
        captions = [" ".join(text) for text in texts]
        addresses = [f"https://www.site{s}.example/{key}.jpg" for s, key in zip(site, keys, strict=True)]
        ids = np.minimum(rng.zipf(1.2, rows * 4) - 1, QUERIES - 1).astype(np.int32)
        lists = pa.ListArray.from_arrays(np.arange(0, rows * 4 + 1, 4, np.int32), ids)
        table = pa.table(
            {
                "key": keys, "uid": keys, "url": addresses,
                "caption": captions, "captions": [[text] for text in captions], "query_ids": lists,
                "matched_query_ids": lists, "page_url": [""] * rows, "source": ["bench"] * rows,
                "lang": ["en"] * rows, "lang_score": rng.random(rows, np.float32), "format": ["jpeg"] * rows,
                "bytes": rng.integers(2_000, 900_000, rows),
                "original_width": rng.integers(200, 4000, rows).astype(np.int32),
                "original_height": rng.integers(200, 4000, rows).astype(np.int32),
            }
        )  # fmt: skip
        schemas.write_table(f"{layout.shards}/{name}.parquet", table)
        tar = folder / "shards" / f"{name}.tar"
        write_shard(tar, (Sample(key, picture.getvalue(), "text", b"{}") for key in keys))
        digest = "0" * 64  # nothing here is verified
        shards.append(
            ManifestShard(name=tar.name, samples=rows, bytes=0, sha256=digest, parquet_sha256=digest)
        )
        write_logs(folder, number, site)
    units = tuple(
        Fetched(
            name=path.stem,
            unit="",
            path="",
            blob="",
            log=str(path),
            images=0,
            bytes=0,
            seconds=0.0,
            reasons={},
        )
        for path in sorted(Path(layout.round(0)).glob("*"))
    )
    one = Round(name="0", units=units, merged=(), images=0, bytes=0, reasons={})
    run_folder.finish_stage(layout, Rounds(rounds=(one,)))
    ones = np.ones(QUERIES, np.int64)
    totals = manifest.write_query_counts(
        f"{folder}/query_counts.parquet", [f"query {n}" for n in range(QUERIES)], 20_000, matched=ones,
        untried=0 * ones, kept_present=np.stack([ones, ones]),
    )  # fmt: skip
    found = Manifest(
        configuration=config.effective(CrawlConfig(queries="q", source=("s",), out=str(folder))),
        versions={"openwit": ""}, seed=0, crawled=Crawled(first=None, last=None), shards=tuple(shards),
        counts=manifest.counts_of(count, count, count, {}), queries=totals, rejected_sampled=False,
        rounds=(ManifestRound(images=count, bytes=0, reasons={"": count}),),
    )  # fmt: skip
    manifest.write(layout.manifest, found)


def write_logs(folder: Path, shard: int, site: Any) -> None:
    """Write the logs of the units that fetched a shard's images."""
    from pipeline.fetch.unit_log import UnitLog
    from pipeline.http.fetch_url import Outcome

    (folder / "work/fetch/round-0").mkdir(parents=True, exist_ok=True)
    answer = Outcome("", "", "", "", 200, b"", "", 0.2, "", None)
    for unit in range(0, len(site), UNIT):
        log = UnitLog()
        for index, one in enumerate(site[unit : unit + UNIT].tolist()):
            log.add(f"site{one}.example", answer, "", 1000, 1.7e9 + 60 * shard + index / 20)
        path = folder / f"work/fetch/round-0/{shard:05d}-{unit:04d}.jsonl"
        path.write_bytes(log.lines(UNIT))


def measure(folder: str, count: int) -> dict[str, float]:
    """Write the report once; return its cost."""
    from pipeline import report
    from pipeline.run_folder import Layout

    started, wall = time.process_time(), time.monotonic()
    report.write(Layout(folder))
    cpu, peak = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"samples": count, "cpu_s": cpu, "wall_s": time.monotonic() - wall, "peak_mib": peak}


def main() -> int:
    """Print one line a size."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, nargs="+", default=[100_000, 400_000])
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure[0], int(options.measure[1]))))
        return 0
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(
        f"{'samples':>10} {'CPU s':>8} {'CPU s a million':>16} {'wall s':>8} {'peak MiB':>9} {'page kB':>8}"
    )
    for count in options.samples:
        with tempfile.TemporaryDirectory() as folder:
            write_run(Path(folder) / "run", count)
            command = [sys.executable, "-m", "bench.report", "--measure", f"{folder}/run", str(count)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            page = (Path(folder) / "run/report/index.html").stat().st_size / 1000
        million = found["cpu_s"] / count * 1e6
        print(f"{count:>10,} {found['cpu_s']:>8.1f} {million:>16.1f} {found['wall_s']:>8.1f} "
              f"{found['peak_mib']:>9.0f} {page:>8.0f}", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
