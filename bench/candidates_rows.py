"""Candidates at several sizes: CPU seconds and peak memory per caption, and how they grow.

    python -m bench.candidates_rows --rows 100000 1000000 10000000 --out docs/scaling/candidates.json
    python -m bench.candidates_rows --texts list.parquet --queries queries.json    # real ones, all different

URL lists in Parquet, a million rows per file, captions of ten Zipf-distributed words against 500,000 queries;
two worker processes. Cleaning, filters, matching and, but for --lang any, language as in every crawl; the
peak is that of all processes together.

With --texts the rows of a list are judged in this process, as a worker does a piece: read, judged, written.
Best of three, with nothing remembered from one to the next.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bench.usage import measure
from pipeline import querylist
from pipeline.candidates.judge import CandidatesWorker
from pipeline.candidates.parts import PieceTask
from pipeline.options import ImageOptions, SourceOptions, TextRules
from pipeline.sources import plan

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


def judge_texts(texts: Path, queries: Path) -> None:
    """Print the cost of a list's row, by `--lang en` and any."""
    wanted = json.loads(queries.read_text())
    with tempfile.TemporaryDirectory() as folder:
        querylist.save(f"{folder}/queries.parquet", wanted)
        for lang in ("en", "any"):
            worker = CandidatesWorker(
                folder=folder, queries=f"{folder}/queries.parquet", sources=SourceOptions(),
                formats=ImageOptions().formats, rules=TextRules(), lang=lang, mask=True, max_captions=16,
                root=folder,
            )  # fmt: skip
            (piece,) = plan([str(texts)], SourceOptions())
            state, best = worker.open(), float("inf")
            for _ in range(3):
                state.judge._known.clear()
                started = time.process_time()
                done = worker.run(state, PieceTask(name="0", piece=piece))
                best = min(best, time.process_time() - started)
            print(
                f"--lang {lang}: {done.candidates:,} rows, {done.rows:,} accepted, "
                f"{best / done.candidates * 1e6:.1f} us/row"
            )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--lang", default="en", help="the crawl's own option")
    parser.add_argument("--out", type=Path, help="also write the figures here")
    parser.add_argument("--texts", type=Path, help="judge the rows of this Parquet list instead")
    parser.add_argument("--queries", type=Path, help="with --texts: a JSON list of queries")
    options = parser.parse_args()
    if options.texts:
        judge_texts(options.texts, options.queries)
        return
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
                "--workers", "2", "--lang", options.lang,
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
