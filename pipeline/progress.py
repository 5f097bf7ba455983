"""How far a step is, from the files that its tasks leave: on a terminal, in a log, for machines.

A step is a folder in which that many markers will appear. `ShowProgress` shows the running step and writes
all of them to progress.json, from which `openwit status` shows the same to somebody else.
"""

import contextlib
import json
import logging
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from pipeline import storage, untrusted
from pipeline.flow import heartbeat, kept
from pipeline.formats import duration, size
from pipeline.periodic import every
from pipeline.run_folder import STAGES

log = logging.getLogger(__name__)

STATE: Final = "progress.json"
_LINE_EVERY: Final = 60.0  # seconds between two lines of a log
_WINDOW: Final = 600.0  # seconds over which the rate is taken
_REASONS: Final = 4  # shown
_LABEL: Final = 22  # columns
_BAR: Final = 20


@dataclass
class Tally:
    """The sums over the finished tasks of a step, and the last reports of the running tasks."""

    done: int = 0
    images: int = 0
    """Images judged, fetched or written."""
    bytes: int = 0
    reasons: dict[str, int] = field(default_factory=dict)
    running: list[dict[str, Any]] = field(default_factory=list)
    """Last signs of the tasks running, as `heartbeat.signs`."""

    def add(self, result: dict[str, Any]) -> None:
        """Add a finished task's result, or the numbers of one running."""
        self.images += _count(result.get("images", result.get("samples")))
        self.bytes += _count(result.get("bytes"))
        reasons = result.get("reasons") or result.get("rejected")
        for word, count in reasons.items() if isinstance(reasons, dict) else ():
            self.reasons[word] = self.reasons.get(word, 0) + _count(count)


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0


class MarkerReader:
    """Read the markers of a folder, each once."""

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._known: set[str] = set()
        self._sum = Tally()

    def read(self) -> Tally:
        """Return the tally of now."""
        new = sorted(set(storage.list_files(self._folder, ".json")) - self._known)
        for data in storage.read_many(new):
            result = untrusted.parse_json(data)
            self._sum.add(result if isinstance(result, dict) else {})
        self._known |= set(new)
        names = {storage.stem(path) for path in self._known}
        running = [sign for sign in heartbeat.signs(self._folder) if sign["name"] not in names]
        tally = Tally(len(self._known), self._sum.images, self._sum.bytes, dict(self._sum.reasons), running)
        for sign in running:
            tally.images += _count(sign.get("images"))
            tally.bytes += _count(sign.get("bytes"))
        return tally


@dataclass
class StepProgress:
    """A step, as progress.json notes it. Times are seconds since 1970."""

    label: str
    folder: str
    """Relative to the folder of progress.json, where it lies in it."""
    total: int
    images: int = 0
    """That all tasks have together; 0 where that is not known beforehand."""
    before: int = 0
    """Tasks that were done when it began, this time."""
    started: float = 0.0
    ended: float = 0.0
    """0 while it is running, or if it stopped before its end."""
    tally: dict[str, Any] | None = None
    """Of the end."""


class Pace:
    """Estimate a rate and the time left from the counts at several moments."""

    def __init__(self, step: StepProgress) -> None:
        self._step = step
        self._seen: deque[tuple[float, int, int]] = deque()

    def at(self, moment: float, tally: Tally) -> tuple[float, str, float | None]:
        """Return the rate, its unit (images or tasks per second), and the seconds left if known."""
        self._seen.append((moment, tally.images, tally.done))
        while len(self._seen) > 2 and moment - self._seen[1][0] > _WINDOW:
            self._seen.popleft()
        then, images, done = self._seen[0]
        seconds = max(moment - then, 1e-9)
        by_image, by_task = (tally.images - images) / seconds, (tally.done - done) / seconds
        rate, unit = (by_image, "images") if by_image > 0 else (by_task, "tasks")
        if self._step.images and by_image > 0:
            return rate, unit, max(0, self._step.images - tally.images) / by_image
        return rate, unit, (self._step.total - tally.done) / by_task if by_task > 0 else None


def describe(step: StepProgress, tally: Tally, rate: float, unit: str, left: float | None) -> str:
    """Return one line without the count of tasks: images, rate, bytes, reasons, time left."""
    of = f"/{step.images:,}" if step.images else ""
    noun = "image" if (step.images or tally.images) == 1 else "images"
    parts = [f"{tally.images:,}{of} {noun}"] if tally.images else []
    parts += [f"{rate:,.1f} {unit}/s"] if rate else []
    parts += [size(tally.bytes)] if tally.bytes else []
    parts += [", ".join(_top(tally))] if tally.reasons else []
    parts += [f"{duration(left)} left"] if left else []
    return " · ".join(parts)


def _top(tally: Tally) -> list[str]:
    top = sorted(tally.reasons.items(), key=lambda item: -item[1])[:_REASONS]
    return [f"{word or 'fetched'} {count:,}" for word, count in top]


def bar_line(
    step: StepProgress, tally: Tally, rate: float, unit: str, left: float | None, columns: int
) -> tuple[int, int, str]:
    """Return how far a bar is, of how much, and the text beside it, which never needs more than `columns`.

    It counts images where their number is known: of a single task it would else show nothing until its end.
    Parts that do not fit are left out whole: first the bytes, then the reasons, the rarest first.
    """
    total, done = (step.images, tally.images) if step.images else (step.total, tally.done)
    done = min(done, total)
    text = f"{done:,}/{total:,}"
    parts = [f"{rate:,.1f} {unit}/s"] if rate else []
    parts += [f"{duration(left)} left"] if left else []
    parts += [f"{tally.images:,} images"] if tally.images and not step.images else []
    parts += _top(tally)
    parts += [size(tally.bytes)] if tally.bytes else []
    for part in parts:
        if len(text) + 3 + len(part) > columns:
            break
        text += f" · {part}"
    return done, total, text


def event(kind: str, step: StepProgress, tally: Tally, rate: float, left: float | None) -> dict[str, Any]:
    """Return a step's state for machines."""
    return {
        "event": kind, "time": round(time.time(), 3), "step": step.label, "folder": step.folder,
        "tasks": tally.done, "tasks_total": step.total, "images": tally.images,
        "images_total": step.images or None, "bytes": tally.bytes, "reasons": tally.reasons,
        "rate": round(rate, 3), "seconds_left": None if left is None else round(left, 1),
        "running": len(tally.running),
    }  # fmt: skip


def _place(step: StepProgress) -> int:
    """Return the number of a crawl's stage; the steps of other commands have none."""
    stage = step.folder.partition("/")[0]
    return STAGES.index(stage) if stage in STAGES else -1


def read_steps(path: str) -> list[StepProgress] | None:
    """Return the steps that a progress.json notes, None if there is none; ValueError for anything else."""
    found = untrusted.read_json(path)
    if found is None:
        return None
    steps = found.get("steps") if isinstance(found, dict) else None
    if not isinstance(steps, list):
        raise ValueError(f"{path} does not list the steps of a run")
    read = [untrusted.record(StepProgress, step, f"{path}, step {n}") for n, step in enumerate(steps)]
    for step in read:
        untrusted.record(Tally, step.tally or {}, f"{path}, the tally of {step.label!r}")
    return read


class Notes:
    """progress.json: every step of a command, in the order in which they were begun."""

    def __init__(self, work: str) -> None:
        self._work, self._path = work, storage.join(work, STATE)
        self._own: set[str] = set()
        self.steps = read_steps(self._path) or []

    def begin(self, step: StepProgress) -> StepProgress:
        """Note a step; a step that an earlier launcher finished keeps its entry.

        Entries of earlier launchers for this stage and later stages are discarded, or will be written again.
        """
        old = next((one for one in self.steps if one.folder == step.folder), None)
        self._own.add(step.folder)
        if old is not None and old.ended and step.before >= step.total:
            return old
        kept = [s for s in self.steps if s.folder in self._own or _place(s) < _place(step)]
        self.steps = [one for one in kept if one.folder != step.folder] + [step]
        self.write()
        return step

    def relative(self, folder: str) -> str:
        """Return a folder as it is noted."""
        return folder.removeprefix(f"{self._work}/")

    def write(self) -> None:
        """Publish the notes."""
        text = json.dumps({"steps": [asdict(step) for step in self.steps]}, indent=1)
        storage.write_bytes(self._path, text.encode())


class ShowProgress:
    """Show the steps of a command: call it with a step to get a context manager."""

    def __init__(self, console: Console, work: str, log_json: str = "") -> None:
        self._console, self._work, self._log_json = console, work, log_json
        self._notes: Notes | None = None

    @contextlib.contextmanager
    def __call__(self, label: str, folder: str, total: int, images: int = 0) -> Iterator[None]:
        """Follow a step in which `total` markers appear; its tasks have that many images, if that is
        known."""
        self._notes = self._notes or Notes(self._work)
        reader = MarkerReader(folder)
        before = reader.read()
        step = StepProgress(label, self._notes.relative(folder), total, images, before.done, time.time())
        noted = self._notes.begin(step)
        if noted is not step:  # nothing is left to do
            yield
            return
        pace = Pace(step)
        pace.at(time.time(), before)
        self._emit("begin", step, before, 0.0, None)
        try:
            with self._shown(step) as show:
                with every(self._interval(), lambda: show(reader.read(), pace), _not_read):
                    yield
                tally = reader.read()
                tally.done = step.total  # partitions without a row leave no marker
                show(tally, pace)
        except BaseException:
            with contextlib.suppress(Exception):  # the reason of the stop counts
                self._say_what_is_kept(step, folder, reader)
            raise
        step.ended = time.time()
        step.tally = {key: value for key, value in asdict(tally).items() if key != "running"}
        self._notes.write()
        rate, unit, _ = pace.at(step.ended, tally)
        self._emit("end", step, tally, rate, 0.0)
        if not self._console.is_terminal:
            took = duration(step.ended - step.started)
            self._line(step, tally, f"{describe(step, tally, rate, unit, None)} in {took}".lstrip())

    def _interval(self) -> float:
        return 1.0 if storage.is_local(self._work) else 20.0

    @contextlib.contextmanager
    def _shown(self, step: StepProgress) -> Iterator[Any]:
        """Yield a function that shows a tally: a bar on a terminal, else a line every minute."""
        with contextlib.ExitStack() as stack:
            bar, task = None, None
            if self._console.is_terminal:
                columns = (
                    TextColumn("{task.description}"),
                    BarColumn(_BAR),
                    TextColumn("{task.fields[text]}"),
                )
                bar = stack.enter_context(Progress(*columns, console=self._console))
                task = bar.add_task(f"{step.label:<{_LABEL}}", total=step.total, text="")
            last = time.monotonic()

            def show(tally: Tally, pace: Pace) -> None:
                nonlocal last
                rate, unit, left = pace.at(time.time(), tally)
                self._emit("progress", step, tally, rate, left)
                if bar is not None and task is not None:
                    room = self._console.width - max(len(step.label), _LABEL) - _BAR - 3
                    done, total, text = bar_line(step, tally, rate, unit, left, room)
                    bar.update(task, completed=done, total=total, text=text)
                elif time.monotonic() - last >= _LINE_EVERY:
                    last = time.monotonic()
                    self._line(step, tally, describe(step, tally, rate, unit, left))

            yield show

    def _say_what_is_kept(self, step: StepProgress, folder: str, reader: MarkerReader) -> None:
        """Print, after a stop inside tasks, how much of their work will not be done again."""
        at_work = kept.count(folder)
        if not at_work:
            return
        what = f"{at_work:,} pages"
        if step.images:
            tally = reader.read()
            done = tally.images - sum(int(sign.get("images", 0)) for sign in tally.running) + at_work
            what = f"{done:,} of {step.images:,} images"
        self._console.print(
            f"{step.label}: {what} are kept; only the others, and those under way, are asked for again.",
            highlight=False, soft_wrap=True, markup=False,
        )  # fmt: skip

    def _line(self, step: StepProgress, tally: Tally, text: str) -> None:
        clock = time.strftime("%H:%M:%S")
        text = text.removeprefix(" ")  # of a step without images
        dot = "" if text.startswith("in ") else "· "
        line = f"{clock} {step.label}: {tally.done:,}/{step.total:,} {dot}{text}"
        if not step.total:
            line = f"{clock} {step.label}: nothing to do"
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _emit(self, kind: str, step: StepProgress, tally: Tally, rate: float, left: float | None) -> None:
        if not self._log_json:
            return
        line = json.dumps(event(kind, step, tally, rate, left)) + "\n"
        if self._log_json == "-":
            sys.stdout.write(line)
            sys.stdout.flush()
        else:
            with Path(self._log_json).open("a") as file:
                file.write(line)


def _not_read(error: Exception) -> None:
    log.info("the progress could not be read: %s", error)
