"""`openwit train` as people run it, ended by kill -9, resumed and evaluated: does all of it work, how fast?

    python -m bench.train_restart OUT [--photos FOLDER] [--model ViT-B-32] [--batch-size 2048] [--steps 200]
                                      [--kill-at 120] [--device cuda]

The shards are photographs of FOLDER/train/CLASS that come again until there are --samples; --photos is the
sample data beside the checkout by default. The trainer is killed as soon as it has logged the step --kill-at
and the same command goes on with --resume from its last checkpoint. Prints samples per second, the share of
the time that it waited for data, whether losses that were computed twice are the same, and the accuracy by
`openwit eval` on FOLDER/test.
"""

import argparse
import json
import shutil
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.train_cifar import write_run

PHOTOS = Path(__file__).resolve().parents[2] / "shared/data/images/clothing_cc0"
OPENWIT = (sys.executable, str(Path(__file__).resolve().parents[1] / "beam_job.py"))
WARM = 20  # steps after which nothing is compiled any more


def lines_of(out: Path) -> list[dict[str, Any]]:
    """Return the log lines of steps so far."""
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [line for line in map(json.loads, lines) if "loss" in line]


def train(options: argparse.Namespace, log: Path, *more: str) -> subprocess.Popen[bytes]:
    """Start the trainer."""
    command = [
        *OPENWIT, "train", "--shards", options.out / "run", "--out", options.out / "model",
        "--model", options.model, "--batch-size", options.batch_size, "--max-steps", options.steps,
        "--epochs", 1_000_000, "--log-every", 5, "--checkpoint-every", options.checkpoint_every,
        "--device", options.device, "--enlarge", "--eval", f"clothes={options.photos / 'test'}",
        "--eval-every", 1_000_000, *more,
    ]  # fmt: skip
    if options.vocab:
        command += ["--vocab", options.vocab]
    with log.open("wb") as file:
        return subprocess.Popen([str(part) for part in command], stdout=file, stderr=subprocess.STDOUT)


def speeds(lines: list[dict[str, Any]], after: int) -> dict[str, float]:
    """Return the medians of the lines of steps beyond the first of a process."""
    found = [line for line in lines if line["step"] > after + WARM] or lines
    names = ["samples_per_second", "data_wait", "mfu", "memory_gb"]
    return {name: statistics.median(line[name] for line in found) for name in names if name in found[0]}


def main() -> None:
    """Build, train, kill, resume, evaluate; print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--samples", type=int, default=12_800)
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--batch-size", type=int, default=2_048)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--kill-at", type=int, default=120, help="a multiple of 5")
    parser.add_argument("--checkpoint-every", type=int, default=50)
    parser.add_argument("--vocab", default="")
    parser.add_argument("--device", default="auto")
    options = parser.parse_args()
    shutil.rmtree(options.out, ignore_errors=True)
    photos = [
        (one.parent.name, one.read_bytes()) for one in sorted((options.photos / "train").rglob("*.jpg"))
    ]
    write_run((photos * -(-options.samples // len(photos)))[: options.samples], options.out / "run")
    began, model = time.monotonic(), options.out / "model"
    first = train(options, options.out / "first.log")
    while not any(line["step"] >= options.kill_at for line in lines_of(model)):
        if first.poll() is not None:
            raise SystemExit((options.out / "first.log").read_text()[-4_000:])
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    killed, spent = lines_of(model), [time.monotonic() - began]
    began = time.monotonic()
    if train(options, options.out / "resumed.log", "--resume").wait():
        raise SystemExit((options.out / "resumed.log").read_text()[-4_000:])
    spent.append(time.monotonic() - began)
    lines = lines_of(model)
    before = {line["step"]: line["loss"] for line in killed}
    start = max(step for step in range(0, options.kill_at + 1, options.checkpoint_every))
    twice = [(line["loss"], before[line["step"]]) for line in lines if start < line["step"] <= max(before)]
    began = time.monotonic()
    command = [
        *OPENWIT, "eval", "--task", "zeroshot", "--checkpoint", model, "--data",
        f"clothes={options.photos / 'test'}", "--gallery", "0", "--out", options.out / "eval",
        "--device", options.device,
    ]  # fmt: skip
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-4_000:])
    spent.append(time.monotonic() - began)
    report = {
        "bench": "train_restart", "model": options.model, "batch": options.batch_size,
        "killed": speeds(killed, 0), "resumed": speeds(lines[len(before) :], max(before)),
        "resumed_from_step": start, "losses_computed_twice": len(twice),
        "largest_difference": max((abs(a - b) for a, b in twice), default=None),
        "loss": [lines[0]["loss"], lines[-1]["loss"]], "steps": lines[-1]["step"],
        "seconds": dict(zip(("killed", "resumed", "eval"), (round(s, 1) for s in spent), strict=True)),
    }  # fmt: skip
    print(json.dumps(report, indent=1))
    print(done.stdout[-2_000:])
    shutil.rmtree(model / "checkpoints")


if __name__ == "__main__":
    main()
