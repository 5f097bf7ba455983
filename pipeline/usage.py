"""What each stage of a run cost on this machine, kept beside the run for `openwit plan`."""

import contextlib
import os
import time
from collections.abc import Iterator

from pipeline import storage
from pipeline.manifest import write_json
from pipeline.run import Layout, read_json

FILE = "usage.json"


@contextlib.contextmanager
def measured(layout: Layout, stage: str, is_local: bool) -> Iterator[None]:
    """Add a row {stage, cpu_s, wall_s, local, complete} to RUN/work/usage.json when the block ends.

    cpu_s counts this process and those of its children that have ended: all workers of the local runner, and
    of a remote one only the launcher (local is false). A stage that was continued has several rows.
    """
    before, started = os.times(), time.monotonic()
    complete = False
    try:
        yield
        complete = True
    finally:
        after = os.times()
        path = storage.join(layout.work, FILE)
        row = {
            "stage": stage, "cpu_s": round(sum(after[:4]) - sum(before[:4]), 3),
            "wall_s": round(time.monotonic() - started, 3), "local": is_local, "complete": complete,
        }  # fmt: skip
        write_json(path, [*(read_json(path) or []), row])


def by_stage(layout: Layout) -> dict[str, dict[str, float]]:
    """Return {stage: {cpu_s, wall_s}}, summed over the times that a stage was worked on."""
    total: dict[str, dict[str, float]] = {}
    for row in read_json(storage.join(layout.work, FILE)) or []:
        sums = total.setdefault(row["stage"], {"cpu_s": 0.0, "wall_s": 0.0})
        for name in sums:
            sums[name] += row[name]
    return total
