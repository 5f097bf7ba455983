"""CIFAR-10 through the whole evaluation, and every number of it computed again by other programs.

    python -m bench.eval_cifar OUT [--archive CIFAR10-IMAGES.tar.gz] [--each 1000]

Trains the tiny model as bench.train_cifar does, unless OUT/trained holds it, and takes it after 1,000 steps
and at the end. `openwit eval` measures both: zero-shot, probe, few-shot, all corruptions, and which classes
are hard beside a linear classifier of 8 x 8 pixels. Then `openwit overlap` takes the predictions, and its
parts go back into `openwit eval`. Prints the accuracies by corruption, and for every kind of number how many
were computed again, and the largest difference; all pairs are in OUT/recomputed.csv.
"""

import argparse
import csv
import json
import math
import tarfile
import warnings
from itertools import groupby
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats
from sklearn.exceptions import ConvergenceWarning

import beam_job
from bench import train_cifar
from bench.independent import Pair, Peer, Recomputed, Split, logistic, pairs, read

LABELLED = 500  # photographs of each class to fit probes on
DRAWN = 50  # bootstrap samples of rankings, which scikit-learn computes in a second each
TASKS = ("zeroshot", "linear-probe", "few-shot", "robustness")


def openwit(*arguments: object) -> None:
    """Run a command of openwit; stop where it fails."""
    if beam_job.main([str(one) for one in arguments]):
        raise SystemExit(f"openwit {arguments[0]} failed")


def unpack(archive: Path, split: str, count: int, folder: Path) -> None:
    """Write the first photographs of each class of a split as class folders, once."""
    if folder.exists():
        return
    with tarfile.open(archive) as tar:
        photographs = [one for one in tar.getnames() if one.endswith(".jpg") and one.split("/")[-3] == split]
        by_class = groupby(sorted(photographs), key=lambda one: one.split("/")[-2])
        for member in [one for _, own in by_class for one in list(own)[:count]]:
            target = folder / "/".join(member.split("/")[-2:])
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]


def predict_from_pixels(train: Split, test: Split, names: list[str], path: Path) -> dict[str, bool]:
    """Write the predictions of a linear classifier of 8 x 8 pixels; return which are right, by example."""
    small = [
        part.pixels.reshape(len(part.ids), 8, 4, 8, 4, 3).mean(axis=(2, 4)).reshape(len(part.ids), -1) / 255
        for part in (train, test)
    ]
    guesses = logistic(small[0], train.targets, 0.1).predict(small[1])
    table = {"example_id": test.ids, "prediction": [names[one] for one in guesses]}
    pq.write_table(pa.table(table), path)
    return dict(zip(test.ids, (guesses == test.targets).tolist(), strict=True))


def evaluate(out: Path, checkpoints: dict[str, Path]) -> None:
    """Run the evaluation, the overlap with its predictions, and the evaluation of both parts."""
    common = [part for name, path in checkpoints.items() for part in ("--checkpoint", f"{name}={path}")]
    common += ["--data", f"cifar10={out / 'test'}"]
    openwit(
        "eval", *common, "--train", f"cifar10={out / 'labelled'}", "--corruptions", "all",
        "--compare", f"pixels={out / 'pixels.parquet'}", "--save-predictions", "--out", out / "eval",
        *(part for task in TASKS for part in ("--task", task)),
    )  # fmt: skip
    openwit(
        "overlap", "--run", out / "trained/run/shards/00000.tar", "--eval", f"cifar10={out / 'test'}",
        "--predictions", f"cifar10={out / 'eval/predictions/end/cifar10.parquet'}", "--planted", 100,
        "--out", out / "overlap",
    )  # fmt: skip
    parts = [
        part for kind in ("clean", "overlap")
        for part in ("--subset", f"cifar10={out / 'overlap' / kind / 'cifar10.txt'}")
    ]  # fmt: skip
    openwit("eval", *common, "--task", "zeroshot", "--out", out / "parts", *parts)


def recompute(out: Path, checkpoints: dict[str, Path], drawn: int = DRAWN) -> list[Pair]:
    """Return every number of the evaluation and of the overlap report beside the other programs'."""
    test_folder, train_folder = out / "test", out / "labelled"
    names = sorted(path.name for path in test_folder.iterdir())
    table = pq.read_table(out / "pixels.parquet")
    chosen = zip(table["example_id"].to_pylist(), table["prediction"].to_pylist(), strict=True)
    beside = {"pixels": {one: one.split("/")[0] == guess for one, guess in chosen}}
    rows = json.loads((out / "eval/results.json").read_text())
    found: list[Pair] = []
    for name, path in checkpoints.items():
        exported = out / "exported" / name
        openwit("export", "--checkpoint", path, "--format", "open_clip", "--out", exported)
        peer = Peer(exported, "cifar10", names)
        test, train = (read(folder, names, peer.size) for folder in (test_folder, train_folder))
        again = Recomputed(peer, test, train, names, out / "eval", "cifar10", drawn)
        tasks = {"zeroshot": lambda row, again=again: again.zero_shot(beside),
                 "linear-probe": lambda row, again=again: again.probe(row),
                 "few-shot": lambda row, again=again: again.few_shot(),
                 "robustness": lambda row, again=again: again.robustness(row)}  # fmt: skip
        for row in rows:
            if row["model"] == name:
                found += pairs(row, tasks[row["task"]](row))
        if name == "end" and (out / "overlap").exists():
            found += overlap_pairs(out, test, again.right(again.clean.scores))
    return found


def overlap_pairs(out: Path, test: Split, right: np.ndarray) -> list[Pair]:
    """Return the overlap report's statistics beside SciPy's, and beside the evaluation of both parts."""
    report = json.loads((out / "overlap/report.json").read_text())["datasets"][0]
    inside = np.isin(test.ids, (out / "overlap/overlap/cifar10.txt").read_text().split())
    (k, n), clean = (int(right[inside].sum()), int(inside.sum())), float(right[~inside].mean())
    ends = stats.binomtest(k, n).proportion_ci(0.995, "exact")
    parts = {
        row["dataset"]: row["metrics"]["acc1"]
        for row in json.loads((out / "parts/results.json").read_text())
        if row["model"] == "end"
    }
    expected = {
        "overlap": n, "acc_all": float(right.mean()), "acc_overlap": k / n, "acc_clean": clean,
        "delta": float(right.mean()) - clean, "ci_low": ends.low, "ci_high": ends.high,
        "p_value": stats.binomtest(k, n, clean, alternative="greater").pvalue,
    }  # fmt: skip
    found = [Pair("end cifar10 overlap", name, report[name], value) for name, value in expected.items()]
    for kind in ("clean", "overlap"):
        ours, theirs = report[f"acc_{kind}"], parts[f"cifar10/{kind}"]
        found.append(Pair("end cifar10 overlap", f"openwit eval --subset {kind}", ours, theirs))
    return found


def show(out: Path, found: list[Pair], console: Console) -> None:
    """Print accuracies by corruption and level, and how far the other programs are from every number."""
    everything = json.loads((out / "eval/results.json").read_text())
    rows = [row for row in everything if row["task"] == "robustness"]
    for model in dict.fromkeys(row["model"] for row in rows):
        own = [row for row in rows if row["model"] == model]
        for predictor in ("zero-shot", "16-shot", "probe"):
            table = Table("corruption", *"012345", title=f"{model}, {predictor}", title_justify="left")
            for kind, levels in groupby(own, key=lambda row: row["detail"]["corruption"]):
                values = [one for row in levels for one in row["detail"]["predictors"]
                          if one["predictor"] == predictor]  # fmt: skip
                shares = [values[0]["source_acc1"], *(one["acc1"] for one in values)]
                table.add_row(kind, *(f"{100 * share:.1f}" for share in shares))
            console.print(table)
    with (out / "recomputed.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "name", "openwit", "other", "kind"])
        writer.writerows([*one[:2], repr(one.ours), repr(one.theirs), one.kind] for one in found)
    table = Table("numbers", "compared", "largest difference", "where", "openwit", "other")
    for kind in dict.fromkeys(one.kind for one in found):
        own_pairs = [one for one in found if one.kind == kind]
        worst = max(own_pairs, key=difference)
        table.add_row(kind, f"{len(own_pairs):,}", f"{difference(worst):.2g}", f"{worst.row}: {worst.name}",
                      f"{worst.ours:.6g}", f"{worst.theirs:.6g}")  # fmt: skip
    console.print(table)


def difference(one: Pair) -> float:
    """Return the absolute difference; a value that only one side has is infinitely far, C in decades."""
    if math.isnan(one.ours) and math.isnan(one.theirs):
        return 0.0
    if math.isnan(one.ours) or math.isnan(one.theirs):
        return math.inf
    if one.name.rpartition(".")[2] == "c":
        return abs(math.log10(one.ours / one.theirs))
    return abs(one.ours - one.theirs)


def main() -> None:
    """Run everything that OUT does not hold yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--archive", type=Path, default=train_cifar.DEFAULT)
    parser.add_argument("--each", type=int, default=1_000, help="test photographs of each class")
    args = parser.parse_args()
    out: Path = args.out
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=ConvergenceWarning)  # at the largest C, as the paper's own
    if not (out / "trained/model/checkpoints/latest").exists():
        (out / "trained").mkdir(parents=True)
        print(json.dumps(train_cifar.main(args.archive, out / "trained")))
    unpack(args.archive, "train", LABELLED, out / "labelled")
    unpack(args.archive, "test", args.each, out / "test")
    model = out / "trained/model"
    checkpoints = {"half": model / "checkpoints/step-00001000", "end": model}
    names = sorted(path.name for path in (out / "test").iterdir())
    train, test = (read(folder, names, 32) for folder in (out / "labelled", out / "test"))
    predict_from_pixels(train, test, names, out / "pixels.parquet")
    evaluate(out, checkpoints)
    show(out, recompute(out, checkpoints), Console(width=150))


if __name__ == "__main__":
    main()
