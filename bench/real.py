"""Real weights: zero-shot accuracies beside those that were published, for people with internet.

    make real CHECKPOINT=ViT-B-32.pt MODEL=ViT-B-32 DATA="imagenet=/data/imagenet/val cifar10=/data/cifar10"
    python -m bench.real CHECKPOINT --model ViT-B-32 --data imagenet=/data/imagenet/val ...

CHECKPOINT is OpenAI's file, or the same weights in open_clip's or Hugging Face's layout; sets are folders of
class folders, shards or Parquet under their usual names. Published figures are in bench/published.csv:
`open_clip` are those of its docs/openclip_results.csv (at 89fb801), by CLIP_benchmark, mean per class where
that is the set's metric; `paper` is arXiv:2103.00020, table 11. Exits 1 where a set differs from open_clip's
figure by more than --tolerance: theirs are of half precision, and of torchvision's resizing.
"""

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table

import beam_job
from train.evaluation import known_sets

PUBLISHED = Path(__file__).with_name("published.csv")
TOLERANCE = 0.003


class Beside(NamedTuple):
    """A set's figure and its published figure; fields only."""

    dataset: str
    metric: str
    ours: float
    published: dict[str, float]
    """By source."""

    def differs(self, tolerance: float) -> bool:
        """Return whether it differs from open_clip's table."""
        known = self.published.get("open_clip")
        return known is not None and abs(self.ours - known) > tolerance


def read(path: Path, model: str) -> dict[str, dict[str, float]]:
    """Return the published figures of a model by source and set; ValueError for an unknown model."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    own = [row for row in rows if row["model"] == model]
    if not own:
        names = dict.fromkeys(row["model"] for row in rows)
        raise ValueError(f"--model {model}: figures are known of {', '.join(names)}")
    return {row["source"]: {name: float(value) for name, value in row.items()
                            if name not in ("model", "source") and value} for row in own}  # fmt: skip


def beside(
    results: Sequence[Mapping[str, object]], published: Mapping[str, Mapping[str, float]]
) -> list[Beside]:
    """Return the zero-shot rows of results.json beside the published figures of sets of the same name."""
    found = []
    for row in results:
        metrics, metric, name = row["metrics"], str(row["main_metric"]), str(row["dataset"])
        assert isinstance(metrics, dict)
        if row["task"] == "zeroshot" and metric in metrics:
            theirs = {source: own[one] for source, own in published.items() for one in own
                      if known_sets.plain(one) == known_sets.plain(name)}  # fmt: skip
            found.append(Beside(name, metric, metrics[metric], theirs))
    return found


def main(argv: Sequence[str] | None = None) -> int:
    """Evaluate, print the table, and return whether it is as published."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", nargs="+", required=True)
    parser.add_argument("--out", default="runs/real")
    parser.add_argument("--published", type=Path, default=PUBLISHED)
    parser.add_argument("--tolerance", type=float, default=TOLERANCE)
    given = parser.parse_args(argv)
    published = read(given.published, given.model)
    arguments = ["eval", "--checkpoint", f"{given.model}={given.checkpoint}", "--task", "zeroshot"]
    arguments += [part for one in given.data for part in ("--data", one)]
    if code := beam_job.main([*arguments, "--out", given.out]):
        return code
    rows = beside(json.loads((Path(given.out) / "results.json").read_text()), published)
    table = Table("set", "metric", "ours", *published, "")
    for row in rows:
        cells = [f"{row.published[one]:.2%}" if one in row.published else "" for one in published]
        verdict = "differs" if row.differs(given.tolerance) else "" if not row.published else "as published"
        table.add_row(row.dataset, row.metric, f"{row.ours:.2%}", *cells, verdict)
    Console().print(table)
    return int(any(row.differs(given.tolerance) for row in rows))


if __name__ == "__main__":
    raise SystemExit(main())
