"""Draw docs/scaling/*.svg from the files of bench.candidates_rows, bench.select_rows and bench.plan_check.

python -m bench.scaling docs/scaling
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt


def rows_figure(stages: dict[str, list[dict[str, Any]]], path: Path) -> None:
    """Draw CPU time per row and peak memory of stages against the number of rows."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
    for stage, results in stages.items():
        rows = [one["rows"] for one in results]
        left.plot(rows, [one["cpu_s"] / one["rows"] * 1e6 for one in results], "o-", label=stage)
        right.plot(rows, [one["peak_mb"] / 1024 for one in results], "o-", label=stage)
    left.set(xscale="log", xlabel="candidate rows", ylabel="CPU, µs a row", ylim=0)
    right.set(xscale="log", xlabel="candidate rows", ylabel="peak memory, GB", ylim=0)
    left.legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def plan_figure(predicted: dict[str, Any], happened: dict[str, Any], path: Path) -> None:
    """Draw found over predicted for every figure of the plan, with the band of 25%."""
    names = [*happened["scale"], *(f"{stage}, core seconds" for stage in happened["stages"])]
    ratios = [value / predicted["scale"][name] for name, value in happened["scale"].items()]
    ratios += [
        s["core_hours"] / predicted["stages"][name]["core_hours"] for name, s in happened["stages"].items()
    ]
    for what, label in (("core_hours", "all, core seconds"), ("wall_hours", "all, seconds")):
        before, after = (sum(s[what] for s in d["stages"].values()) for d in (predicted, happened))
        names.append(label)
        ratios.append(after / before)
    figure, axes = plt.subplots(figsize=(8, 4), layout="constrained")
    axes.axvspan(0.75, 1.25, color="0.9")
    axes.axvline(1, color="0.5", linewidth=1)
    axes.plot(ratios, [name.replace("_", " ") for name in names], "o")
    axes.invert_yaxis()
    axes.set(xlabel="found / foretold", xlim=(0.5, 1.5))
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "openwit"  # the same figures, the same bytes
    stages = ("candidates", "select")
    rows = {stage: json.loads((folder / f"{stage}.json").read_text())["results"] for stage in stages}
    rows_figure(rows, folder / "rows.svg")
    predicted, happened = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("prediction", "outcome")
    )
    plan_figure(predicted, happened, folder / "plan.svg")


if __name__ == "__main__":
    main()
