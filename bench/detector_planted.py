"""Copies that hashes miss, through the overlap report: half of a photograph, planted among others.

    python -m bench.detector_planted --detector OUT/detector.safetensors --photos DIR --others DIR --out DIR

The first 20 of 30 evaluation photographs have a copy that keeps 40 to 50% of the area, at a random place.
Prints the finds of hashes and detector, after verification, and the wrong pairs.
"""

import argparse
import json
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from bench.overlap_recall import photographs
from dedup import distortions
from dedup.cli import main as overlap
from tests.scenes import sample, write_folder, write_run


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detector", required=True)
    for name in ("photos", "others", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    args = parser.parse_args()
    shown = list(islice(photographs(args.photos), 30))
    write_folder(args.out / "set", {f"a/{n:02d}.jpg": rgb for n, rgb in enumerate(shown)})
    cut = distortions.crop(0.4, 0.5)
    copies = [cut(rgb, np.random.default_rng(n)) for n, rgb in enumerate(shown[:20])]
    pictures = [*copies, *islice(photographs(args.others), 80)]
    samples = [
        sample(f"{n:09d}", np.ascontiguousarray(rgb), f"https://a.test/{n}.jpg", "")
        for n, rgb in enumerate(pictures)
    ]
    write_run(args.out / "run", [samples])
    result = args.out / "overlap"
    overlap(
        ["--run", str(args.out / "run"), "--eval", f"set={args.out}/set", "--out", str(result),
         "--planted", "0", "--workers", "1", "--detector", args.detector]
    )  # fmt: skip
    print(json.dumps(json.loads((result / "report.json").read_text())["datasets"][0]["detectors"]))
    rows = [row for row in pq.read_table(result / "matches.parquet").to_pylist() if row["verified"]]
    pairs = [(int(row["example_id"][2:4]), int(row["url"].rpartition("/")[2][:-4])) for row in rows]
    print("wrong:", [pair for pair in pairs if pair[0] != pair[1]])


if __name__ == "__main__":
    main()
