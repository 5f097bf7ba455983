"""Precision and recall of the whole of `openwit overlap` on crops, in both directions.

    python -m bench.overlap_pairs --photos DIR --others DIR_OR_TAR ... --out DIR
    python -m bench.overlap_pairs --wholes DIR --parts DIR --others DIR_OR_TAR ... --out DIR

--photos: of each photograph a crop is cut at a random place, which keeps `--width` of its width and
`--height` of its height, and is resized and encoded as pages do. --wholes and --parts: real pairs, files of
one name in two folders, such as Faces and Faces_easy of Caltech-101. Then the crops stand among the other
images in the training set while the photographs are the evaluation set, and the other way round. A row says
where pairs are lost: not a candidate, below the threshold, or not verified, and why. "false" are verified
pairs of different names; all are printed. Beside them stands the recall that the report itself measures.
"""

import argparse
import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from bench.overlap_recall import SUFFIXES, photographs
from bench.tables import show
from dedup import distortions
from dedup.cli import main as overlap
from tests.scenes import sample, write_folder, write_run

Pictures = list[np.ndarray]
_REPORTED = ("crop 50%", "width crop", "mixed")


def cut(photo: np.ndarray, width: tuple[float, float], height: tuple[float, float], seed: int) -> np.ndarray:
    """Return a crop of a photograph, resized and encoded as pages do."""
    rng = np.random.default_rng(seed)
    (h, w), kept = photo.shape[:2], (rng.uniform(*height), rng.uniform(*width))
    h, w = round(h * kept[0]), round(w * kept[1])
    top, left = (
        int(rng.integers(0, side - part + 1)) for side, part in zip(photo.shape, (h, w), strict=False)
    )
    part = np.ascontiguousarray(photo[top : top + h, left : left + w])
    return distortions.jpeg(distortions.resize(part, rng), rng)


def real_pairs(wholes: Path, parts: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pairs of files of one name."""
    names = [path.name for path in sorted(wholes.iterdir()) if path.suffix.lower() in SUFFIXES]
    for name in names:
        if (parts / name).exists():
            yield next(photographs(wholes / name)), next(photographs(parts / name))


def analyse(
    args: argparse.Namespace, shown: Pictures, seen: Pictures, others: Pictures, name: str
) -> list[str]:
    """Run the analysis of a set `shown` and a training set that holds `seen`; return its row."""
    folder = args.out / name
    write_folder(folder / "set", {f"a/{n:05d}.jpg": rgb for n, rgb in enumerate(shown)})
    samples = [
        sample(f"{n:09d}", np.ascontiguousarray(rgb), f"https://a.test/{n}.jpg", "")
        for n, rgb in enumerate([*seen, *others])
    ]
    write_run(folder / "run", [samples[start : start + 1000] for start in range(0, len(samples), 1000)])
    learned = ["--detector", args.detector] if args.detector else []
    learned += ["--no-hashes"] if args.no_hashes else []
    overlap(
        ["--run", str(folder / "run"), "--eval", f"set={folder}/set", "--out", str(folder / "overlap"),
         "--planted", str(args.planted), "--workers", str(args.workers), *learned]
    )  # fmt: skip
    found = json.loads((folder / "overlap" / "report.json").read_text())["datasets"][0]
    if learned:
        print(json.dumps(found["detectors"]))
    own, wrong, refused = 0, [], Counter[str]()
    for row in pq.read_table(folder / "overlap" / "matches.parquet").to_pylist():
        pair = int(row["example_id"][2:7]), int(row["url"].rpartition("/")[2][:-4])
        if pair[0] == pair[1]:
            own += 1
            refused[row["refused"] or ("" if row["similarity"] >= found["threshold"] else "threshold")] += 1
        elif row["verified"]:
            wrong.append(pair)
    print(f"{name}: false {sorted(wrong)}")
    lost = ", ".join(f"{why} {n}" for why, n in sorted(refused.items()) if why)
    reported = "recall_reversed" if name.startswith("evaluation") else "recall"
    return [
        name, f"{len(shown) * len(samples):.1e}", str(len(shown)), f"{own / len(shown):.3f}",
        f"{refused[''] / len(shown):.3f}", str(len(wrong)), lost,
        " ".join(f"{found[reported].get(kind, float('nan')):.2f}" for kind in _REPORTED),
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("photos", "wholes", "parts"):
        parser.add_argument(f"--{name}", type=Path)
    parser.add_argument("--others", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--detector", default="")
    parser.add_argument("--no-hashes", action="store_true", help="with --detector: search by it alone")
    parser.add_argument("--count", type=int, default=500, help="pairs at most")
    parser.add_argument("--other-count", type=int, default=2000, help="of each of the others at most")
    parser.add_argument("--width", type=float, nargs=2, default=(0.5, 0.6), help="share that a crop keeps")
    parser.add_argument("--height", type=float, nargs=2, default=(1.0, 1.0), help="likewise")
    parser.add_argument("--planted", type=int, default=0, help="as `openwit overlap` has it")
    parser.add_argument("--workers", type=int, default=1)
    args = parser.parse_args()
    if args.photos:
        wholes = list(islice(photographs(args.photos), args.count))
        parts = [cut(rgb, args.width, args.height, n) for n, rgb in enumerate(wholes)]
    else:
        wholes, parts = map(list, zip(*islice(real_pairs(args.wholes, args.parts), args.count), strict=True))
    others = [rgb for path in args.others for rgb in islice(photographs(path), args.other_count)]
    show(
        f"{len(wholes)} pairs beside {len(others):,} other images",
        ("direction", "pairs of images", "true", "candidates", "verified", "false", "lost",
         "report: " + ", ".join(_REPORTED)),
        [
            analyse(args, wholes, parts, others, "training image is the crop"),
            analyse(args, parts, wholes, others, "evaluation image is the crop"),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    main()
