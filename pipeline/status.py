"""`openwit status`: how far is a run, told by its files alone, wherever and by whom it is worked on?"""

import json
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from pipeline import checked_manifest, extend, lock, run_folder, storage
from pipeline import config as parser
from pipeline.cli_runtime import guarded
from pipeline.flow import heartbeat
from pipeline.formats import count, duration, size
from pipeline.options.finished import StatusConfig
from pipeline.options.presets import last
from pipeline.progress import STATE, MarkerReader, Pace, StepProgress, Tally, read_steps
from pipeline.run_folder import Layout
from pipeline.terminal import output, terminal

_SLOWEST: Final = 5  # running tasks that are listed
_SILENT_BEATS: Final = 4  # missed signs after which a worker is taken to be gone


def main(argv: Sequence[str], prog: str = "openwit status") -> int:
    """Print a run's state; return 0, also for a run that has stopped."""
    options, _ = parser.parse(StatusConfig, argv, prog=prog)
    console = terminal()
    return guarded(prog, console, "", lambda: status(options))


def status(options: StatusConfig) -> int:
    """Read and print a run's state; ValueError if the folder holds none."""
    found = state_of(options.run.rstrip("/"), time.time())
    if options.json:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")
    else:
        show(output(), found)
    return 0


def state_of(root: str, now: float) -> dict[str, Any]:
    """Return a run's state at `now` (s since 1970), as `--json` prints it; ValueError if there is no run."""
    layout = extend.under_way(root) or Layout(root)
    work = layout.work if storage.exists(storage.join(layout.work, STATE)) else root
    steps = read_steps(storage.join(work, STATE))
    if steps is None and not storage.exists(layout.manifest):
        raise ValueError(f"{root} holds no run (there is no work/{STATE} in it)")
    manifest = checked_manifest.read(layout.root)
    replaces = run_folder.current(root).replaces
    complete = (manifest is not None and not layout.extension and not replaces) or storage.exists(
        storage.join(root, "report.json")
    )
    holder, alive = lock.holder(Layout(root).work if layout.extension else work)
    rows = [step_state(step, work, now, alive) for step in steps or []]
    running = [task for row in rows for task in row["running"]]
    state = "complete" if complete else "running" if alive else "stopped"
    if state == "stopped" and any(not task["silent"] for task in running):
        state = "detached"  # the launcher has gone; its workers have not
    finished_stages = [stage for stage in run_folder.STAGES if run_folder.is_done(layout, stage)]
    command = holder.command if holder else f"openwit crawl --config {root}/config.toml"
    if state == "stopped" and (after := next_stage(command, finished_stages)):
        state, command = "between stages", after
    return {
        "run": root, "state": state,
        "launcher": None if holder is None else {**asdict(holder), "alive": alive},
        "command": command,
        "stages_done": finished_stages,
        "steps": rows, "counts": asdict(manifest.counts) if manifest else None,
    }  # fmt: skip


def next_stage(command: str, done: list[str]) -> str:
    """Return the command for the stage after a finished `--stage NAME`, or ""."""
    words = shlex.split(command)
    asked = last(words, "--stage")
    if asked not in done or asked == run_folder.STAGES[-1]:
        return ""
    after = run_folder.STAGES[run_folder.STAGES.index(asked) + 1]
    changed = [
        f"--stage={after}" if word == f"--stage={asked}"
        else after if word == asked and words[index - 1] == "--stage"
        else word
        for index, word in enumerate(words)
    ]  # fmt: skip
    return shlex.join(changed)


def step_state(step: StepProgress, work: str, now: float, alive: bool) -> dict[str, Any]:
    """Return a step's state: as noted at its end, or counted from its markers and signs of life."""
    folder = (
        step.folder
        if "://" in step.folder or step.folder.startswith("/")
        else storage.join(work, step.folder)
    )
    tally = Tally(**step.tally) if step.tally else MarkerReader(folder).read()
    moment = step.ended or now
    pace = Pace(step)
    pace.at(step.started, Tally(done=step.before))
    rate, unit, left = pace.at(moment, tally)
    beat = _SILENT_BEATS * heartbeat.interval(work)
    running = [
        {
            "task": sign["name"], "seconds": round(now - sign["started"], 1), "images": sign.get("images", 0),
            "host": sign["host"], "last_sign": round(now - sign["beat"], 1),
            "silent": now - sign["beat"] > beat,
        }
        for sign in sorted(tally.running, key=lambda sign: float(sign["started"]))
    ]  # fmt: skip
    working = alive or any(not task["silent"] for task in running)
    return {
        "step": step.label, "tasks": tally.done, "tasks_total": step.total, "images": tally.images,
        "images_total": step.images or None, "bytes": tally.bytes, "reasons": tally.reasons,
        "ended": bool(step.ended), "seconds": round(moment - step.started, 1),
        "rate": round(rate, 3), "rate_unit": unit,
        "seconds_left": round(left, 1) if left is not None and working and not step.ended else None,
        "running": running,
    }  # fmt: skip


def show(console: Console, found: dict[str, Any]) -> None:
    """Print a state for people."""

    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True, markup=False)

    line(f"{found['run']}: {found['state']}")
    table = Table()
    for name, justify in (("step", "left"), ("tasks", "right"), ("images", "right"), ("a second", "right"),
                          ("bytes", "right"), ("time", "right"), ("left", "right")):  # fmt: skip
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    for row in found["steps"]:
        of = f"/{row['images_total']:,}" if row["images_total"] else ""
        left = (
            "done"
            if row["ended"]
            else duration(row["seconds_left"])
            if row["seconds_left"] is not None
            else ""
        )
        table.add_row(
            row["step"], f"{row['tasks']:,}/{row['tasks_total']:,}",
            f"{row['images']:,}{of}" if row["images"] else "", f"{row['rate']:,.1f}",
            size(row["bytes"]) if row["bytes"] else "", duration(row["seconds"]), left,
            style="" if row["ended"] else "bold",
        )  # fmt: skip
    console.print(table)
    for row in found["steps"]:
        if row["reasons"] and (not row["ended"] or row["step"].startswith(("candidates", "fetch"))):
            top = sorted(row["reasons"].items(), key=lambda item: -item[1])
            line(f"{row['step']}: " + ", ".join(f"{word or 'fetched'} {number:,}" for word, number in top))
        for task in row["running"][:_SLOWEST]:
            silent = " (gone?)" if task["silent"] else ""
            line(
                f"{row['step']}, task {task['task']}: {duration(task['seconds'])} running on {task['host']}, "
                f"{count(task['images'], 'image')}, last sign {task['last_sign']:.0f} s ago{silent}"
            )
    launcher = found["launcher"]
    if launcher is not None and found["state"] != "complete":
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(launcher["started"]))
        gone = "" if launcher["alive"] else ", is not alive"
        line(f"launcher: process {launcher['pid']} on {launcher['host']}, started {since}{gone}")
    if found["state"] == "complete" and found["counts"]:
        counts = found["counts"]
        line(f"{count(counts['samples'], 'sample')} of {count(counts['candidates'], 'candidate')}")
    elif found["state"] == "detached":
        line("The launcher has gone, its workers have not: let them end or end them, then continue with")
        line(f"  {found['command']}")
    elif found["state"] == "between stages":
        line(f"done: {', '.join(found['stages_done'])}. Next, or without --stage for all that is left:")
        line(f"  {found['command']}")
    elif found["state"] == "stopped":
        line(f"To continue: {found['command']}")
    if found["counts"] and found["state"] != "complete":
        line(f"The finished set of {count(found['counts']['samples'], 'sample')} stays as it is until then.")
