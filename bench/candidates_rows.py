"""Candidates at several sizes: CPU seconds and peak memory per caption, and how they grow.

    python -m bench.candidates_rows --rows 100000 1000000 10000000 --out docs/scaling/candidates.json

URL lists in Parquet, a million rows a file, captions of ten Zipf-distributed words against 500,000 queries;
two worker processes. Cleaning, filters, language and matching as in every crawl; the peak is that of all
processes together.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.usage import measure

QUERIES, FILE_ROWS, GROUP_ROWS, WORDS = 500_000, 1_000_000, 100_000, 10


def write_lists(folder: Path, rows: int) -> None:
    """Write `rows` (URL, caption) rows."""
    rng = np.random.default_rng(0)
    words = pa.array([f"word{n}" for n in range(QUERIES * 2)])
    for number, start in enumerate(range(0, rows, FILE_ROWS)):
        count = min(FILE_ROWS, rows - start)
        drawn = np.minimum(rng.zipf(1.2, (WORDS, count)) - 1, len(words) - 1)
        caption = pc.binary_join_element_wise("the", *(words.take(pa.array(w)) for w in drawn), " ")
        site = pa.array(rng.integers(0, max(1, rows // 80), count)).cast(pa.string())
        image = pa.array(np.arange(start, start + count)).cast(pa.string())
        url = pc.binary_join_element_wise("https://site", site, ".example/photo-", image, ".jpg", "")
        table = pa.table({"url": url, "caption": caption})
        pq.write_table(table, folder / f"{number:04d}.parquet", row_group_size=GROUP_ROWS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--out", type=Path, help="also write the figures here")
    options = parser.parse_args()
    results = []
    for rows in options.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            (folder / "lists").mkdir()
            write_lists(folder / "lists", rows)
            (folder / "queries.txt").write_text("\n".join(f"word{n}" for n in range(0, QUERIES * 2, 2)))
            command = [
                sys.executable, "beam_job.py", "crawl", "--queries", str(folder / "queries.txt"), "--source",
                str(folder / "lists/*.parquet"), "--out", str(folder / "run"), "--stage", "candidates",
                "--lang", "any", "--workers", "2",
            ]  # fmt: skip
            usage = measure(command, {}, folder / "log")
        results.append({"rows": rows, **usage._asdict()})
        print(
            f"{rows:>12,} rows  {usage.cpu_s:8.1f} CPU s  {usage.cpu_s / rows * 1e6:6.2f} us/row  "
            f"{usage.peak_mb:7.0f} MB peak"
        )
    found = {"machine": platform.processor() or platform.machine(), "cores": os.cpu_count(),
             "python": platform.python_version(), "results": results}  # fmt: skip
    if options.out:
        options.out.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
