"""Select at several sizes: CPU seconds and peak memory per candidate row, and how they grow.

    python -m bench.select_rows --rows 100000 1000000 10000000

Rows are synthetic with a web-like shape and the worst of it: URLs repeat and a single URL has a hundredth of
all captions (a million of 10^8); sites have a heavy tail and one site has a fifth of the images (eleven
million); each caption has seven queries by Zipf's law, and one query is in every caption. Each size runs in a
process of its own, so that its peak memory is its own. With --runner it runs on that runner of
`bench.cluster`, and prints the figures of all its processes: the CPU seconds together, and the peak memory of
the largest Python process and of the largest other process.
"""

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import cluster, usage

QUERIES = 500_000
FILE_ROWS = 250_000
MATCHES = 7


def write_candidates(folder: Path, rows: int) -> list[list[object]]:
    """Write candidates files as the stage does, sorted by uid; return [path, rows] for each."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    from pipeline import schemas

    generator = np.random.default_rng(0)
    files: list[list[object]] = []
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        count = min(FILE_ROWS, rows - start)
        image = generator.integers(0, max(1, rows * 3 // 4), count)
        image[generator.random(count) < 0.01] = 0  # the URL that everybody shows
        # splitmix64 twice gives the 16 bytes of a uid without a hash object per row.
        from pipeline.balance import mix

        low = image.astype(np.uint64)
        halves = np.stack([mix(low), mix(low + np.uint64(1 << 40))], 1)
        uid = pa.FixedSizeBinaryArray.from_buffers(
            pa.binary(16), count, [None, pa.py_buffer(np.ascontiguousarray(halves).astype(">u8").tobytes())]
        )
        share = (mix(low + np.uint64(1 << 50)) >> np.uint64(11)) / 2.0**53  # uniform, fixed by the image
        site = ((1 - share) ** -1.25 * 10).astype(np.int64) % 5_000_000  # Pareto with exponent 0.8
        site[mix(low + np.uint64(1 << 51)) < np.uint64(2**64 // 5)] = 0
        query = np.minimum(generator.zipf(1.2, count * MATCHES) - 1, QUERIES - 1).astype(np.int32)
        query = np.sort(query.reshape(count, MATCHES), axis=1)
        query[:, 0] = 0
        query = query.reshape(-1)
        numbers = pa.array(image).cast(pa.string())
        url = pc.binary_join_element_wise(
            "https://site", pa.array(site).cast(pa.string()), ".example/images/photo-", numbers, ".jpg", ""
        )
        text = generator.integers(0, rows * 2, count)
        words = [pa.array(text // 7**i % 9973).cast(pa.string()) for i in range(4)]
        caption = pc.binary_join_element_wise("a photo of item", *words, "in the garden", " ")
        constant = {
            "page_url": "https://site.example/page.html",
            "source": "bench",
            "extra": "",
            "page_rights": "",
        }
        table = pa.table(
            {
                "uid": uid,
                "url": url,
                "caption": caption,
                "caption_hash": mix(text.astype(np.uint64)),
                "matched": pa.ListArray.from_arrays(
                    np.arange(0, count * MATCHES + 1, MATCHES, np.int32), query
                ),
                "lang": ["en"] * count,
                "lang_score": np.full(count, 0.9, np.float32),
                "lang_page": [""] * count,
                **{name: [constant[name]] * count for name in ("page_url", "source", "extra", "page_rights")},
            }
        ).cast(schemas.CAPTION_ROWS)
        path = str(folder / f"{number:06d}.parquet")
        schemas.write_table(path, schemas.sort_rows(table))
        files.append([path, count])
    return files


def measure(
    rows: int, folder: Path, name: str, partition_rows: int, *, is_standalone: bool
) -> dict[str, object]:
    """Run select once, in this process or on a runner of that name, and return its cost."""
    from pipeline import querylist, run_folder
    from pipeline.candidates.parts import JudgedPiece
    from pipeline.crawl import Crawl
    from pipeline.fetch.rounds import units_of
    from pipeline.flow.runner import Runner
    from pipeline.options import CrawlConfig
    from pipeline.run_folder import Layout
    from pipeline.select.steps import select
    from pipeline.select.workers import QueryTable
    from pipeline.stages import Candidates

    files = json.loads((folder / "files.json").read_text())
    layout = Layout(str(folder / "run"))
    querylist.save(layout.queries, [f"query number {i}" for i in range(QUERIES)])
    config = CrawlConfig(
        queries="", source=("-",), out=layout.root, per_query=max(1, rows // 5000),
        partition_rows=partition_rows,
    )  # fmt: skip
    table = QueryTable(path=layout.queries, seed=0, queries=QUERIES)
    job = Crawl(config, layout, table)
    pieces = tuple(
        JudgedPiece(
            name=f"{number:06d}", path=path, rejects="", images=count, candidates=count, rows=count,
            rejected={},
        )
        for number, (path, count) in enumerate(files)
    )  # fmt: skip
    run_folder.finish_stage(
        layout, Candidates(pieces=pieces, images=rows, candidates=rows, rows=rows, reasons={})
    )
    with contextlib.ExitStack() as stack:
        flags: tuple[str, ...] = ()
        if name:
            flags, _ = stack.enter_context(cluster.started(name, folder, is_standalone=is_standalone))
        started, cpu = time.monotonic(), usage.cpu_seconds()
        with usage.peaks() as peaks:
            found = select(job, Runner(workers=1, flags=flags))
        units = units_of(job, 0)
        return {
            "rows": rows,
            "samples": found.count,
            "selected": sum(unit.images for unit in units),
            "cpu_s": usage.cpu_seconds() - cpu,
            "wall_s": time.monotonic() - started,
            "peak_mb": peaks["python"],
            **({"other_peak_mb": peaks["other"]} if name else {}),
        }


def main() -> None:
    """Measure each size in a fresh process and print a table and JSON."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    arguments.add_argument("--partition-rows", type=int, default=1_000_000, help="as openwit crawl's")
    arguments.add_argument("--runner", choices=list(cluster.KINDS), default="", help="of Beam")
    arguments.add_argument("--standalone", action="store_true", help="on a cluster of several processes")
    arguments.add_argument("--out", type=Path, help="also write the figures here")
    arguments.add_argument("--one", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.one:
        given = options.rows[0], Path(options.one), options.runner, options.partition_rows
        found = measure(*given, is_standalone=options.standalone)
        print(json.dumps(found))
        return
    results = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "files.json").write_text(json.dumps(write_candidates(Path(folder), rows)))
            command = [sys.executable, "-m", "bench.select_rows", "--rows", str(rows), "--one", folder]
            command += ["--partition-rows", str(options.partition_rows)]
            command += ["--runner", options.runner] if options.runner else []
            command += ["--standalone"] if options.standalone else []
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        results.append(json.loads(output.splitlines()[-1]))
        one = results[-1]
        java = f" (Java {one['other_peak_mb']:.0f})" if options.runner else ""
        print(
            f"{rows:>12,} rows  {one['cpu_s']:8.1f} CPU s  {one['cpu_s'] / rows * 1e6:6.2f} us/row  "
            f"{one['peak_mb']:7.0f} MB peak{java}  "
            f"{one['selected']:>10,} of {one['samples']:,} samples selected"
        )
    import pyarrow

    found = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(), "python":
             platform.python_version(), "pyarrow": pyarrow.__version__, "results": results}  # fmt: skip
    print(json.dumps(found))
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
