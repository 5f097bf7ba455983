"""Check `openwit plan`: predict a run from a small pilot, then run it.

    python -m bench.plan_rates --out docs/scaling/rates.toml          # at most 7,500 images, 50 a site
    python -m bench.plan_check predict --folder docs/scaling          # from a pilot of 2,700 images
    python -m bench.plan_check run --folder docs/scaling              # 40,000 images, five times as many

The source of pilot and run is not that of the rates: its sites have heavy-tailed sizes (Zipf), every tenth
image is gone, one URL in eight stands twice, and a site is asked once in 20 ms. `predict` writes
prediction.json; `run` compares it with the run and writes outcome.json.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import loopback
from bench.img2dataset import PICTURES, WORDS
from bench.resize import synthetic
from bench.tables import show
from bench.usage import Usage, measure
from pipeline.plan.cli import main as plan

IMAGES, PIECES, SITES, DELAY = 40_000, 60, 640, 0.02
STAGES = ("candidates", "select", "fetch", "finish")
PER_QUERY = 5_000


def write_source(folder: Path, port: int) -> Path:
    """Write the URL list: `PIECES` files of JSON lines."""
    rng = np.random.default_rng(0)
    weight = np.arange(1, SITES + 1) ** -0.9
    names = loopback.addresses(SITES)
    site = rng.choice(SITES, IMAGES, p=weight / weight.sum())
    words = rng.choice(WORDS, (IMAGES, 2), p=np.arange(len(WORDS), 0, -1) / sum(range(len(WORDS) + 1)))
    source = folder / "source"
    source.mkdir()
    lines: list[list[str]] = [[] for _ in range(PIECES)]
    for i in range(IMAGES):
        suffix = "gone" if i % 10 == 3 else "jpg"
        row = {"url": f"https://{names[site[i]]}:{port}/{i}.{suffix}",
               "caption": f"a {words[i][0]} thing and a {words[i][1]} one, number {i}"}  # fmt: skip
        for copy in range(2 if i % 8 == 0 else 1):
            lines[int(rng.integers(PIECES)) if copy else i % PIECES].append(json.dumps(row))
    for number, piece in enumerate(lines):
        (source / f"{number:03d}.jsonl").write_text("\n".join(piece) + "\n")
    return source


def crawl(folder: Path, name: str, share: float, stage: str) -> Usage:
    """Run one stage on a share of the source."""
    (folder / "queries.txt").write_text("\n".join(WORDS))
    command = [
        sys.executable, "beam_job.py", "crawl", "--queries", str(folder / "queries.txt"),
        "--source", f"{folder}/source/*.jsonl", "--out", str(folder / name), "--sample", str(share),
        "--stage", stage, "--lang", "any", "--quality", "95", "--per-query", str(PER_QUERY), "--rounds", "3",
        "--placeholder-captions", "0", "--host-delay", str(DELAY), "--samples-per-shard", "1000",
        "--workers", "2", "--allow-network", "127.0.0.0/8",
    ]  # fmt: skip
    return measure(command, {"SSL_CERT_FILE": str(folder / "ca.pem")}, folder / f"{name}.log")


def predict(folder: Path, scratch: Path) -> None:
    """Run the pilot and write the prediction."""
    for stage in STAGES:
        crawl(scratch, "pilot", 0.0667, stage)
    code = plan(
        ["--run", str(scratch / "pilot"), "--pieces", str(PIECES), "--per-query", str(PER_QUERY), "--workers",
         "1", "--cores", "2", "--host-delay", str(DELAY), "--request-seconds", "0.01", "--https-share", "1",
         "--model", "", "--rates", str(folder / "rates.toml"), "--out", str(folder / "prediction.json")]
    )  # fmt: skip
    assert code == 0


def outcome(run: Path, usages: dict[str, Usage], rounds: int) -> dict[str, Any]:
    """Return a run's numbers, in the prediction's shape."""
    from pipeline.plan.yields import of_run

    found = of_run(str(run))
    return {
        "scale": {
            "pieces": found.pieces, "source_bytes": found.source_bytes, "candidates": found.candidates,
            "rows": found.rows, "distinct": found.balance.samples, "tried": found.tried,
            "samples": found.samples, "fetched_bytes": found.fetched_bytes,
            "stored_bytes": found.stored_bytes, "shuffled_bytes": found.row_bytes * found.rows,
        },
        "rounds": rounds,
        "stages": {
            name: {"core_hours": usage.cpu_s / 3600, "wall_hours": usage.wall_s / 3600}
            for name, usage in usages.items()
        },
    }  # fmt: skip


def compare(predicted: dict[str, Any], happened: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    """Yield prediction against outcome."""
    pairs = [(name, predicted["scale"][name], value) for name, value in happened["scale"].items()]
    for name, stage in happened["stages"].items():
        for what, unit in (("core_hours", "core seconds"), ("wall_hours", "seconds")):
            pairs.append((f"{name}, {unit}", predicted["stages"][name][what] * 3600, stage[what] * 3600))
    for what, unit in (("core_hours", "core seconds"), ("wall_hours", "seconds")):
        sums = [sum(s[what] for s in d["stages"].values()) * 3600 for d in (predicted, happened)]
        pairs.append((f"all stages, {unit}", *sums))
    for name, before, after in pairs:
        yield name, f"{before:,.1f}", f"{after:,.1f}", f"{after / before:.2f}" if before else ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("step", choices=["predict", "run"])
    parser.add_argument("--folder", type=Path, required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        with loopback.serve(synthetic(640, 480, PICTURES), scratch, SITES, "https") as port:
            write_source(scratch, port)
            if arguments.step == "predict":
                predict(arguments.folder, scratch)
                return
            usages = {stage: crawl(scratch, "run", 1.0, stage) for stage in STAGES[:3]}
            rounds = len(list((scratch / "run/work/fetch").glob("round-*")))
            usages["finish"] = crawl(scratch, "run", 1.0, "finish")
        happened = outcome(scratch / "run", usages, rounds)
    (arguments.folder / "outcome.json").write_text(json.dumps(happened, indent=1) + "\n")
    predicted = json.loads((arguments.folder / "prediction.json").read_text())
    columns = ("what", "foretold", "found", "found / foretold")
    show("openwit plan, foretold and found", columns, compare(predicted, happened))


if __name__ == "__main__":
    main()
