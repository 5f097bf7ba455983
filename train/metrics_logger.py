"""The outputs of a run while it trains: log lines, metrics.jsonl, its page, TensorBoard, a progress bar."""

import json
import logging
import resource
import sys
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline import storage
from train.run_page import Writer

log = logging.getLogger("train")


class MetricsLogger:
    """Tell the metrics of steps; on ranks other than the first, nothing."""

    def __init__(
        self, out: str, first_step: int, steps: int, tensorboard: bool, silent: bool,
        page: Writer | None = None,
    ) -> None:  # fmt: skip
        self._path = storage.join(out, "metrics.jsonl")
        self._silent, self._page = silent, page
        self._lines: list[str] = []
        self._progress: Progress | None = None
        self._board: Any = None
        if silent:
            return
        if first_step and storage.exists(self._path):
            lines = storage.read_bytes(self._path).decode().splitlines()
            # Rows after the checkpoint that we continue from: their steps are about to be trained again.
            self._lines = [line for line in lines if json.loads(line)["step"] <= first_step]
        self.flush()
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError as error:
                raise ValueError(f"--tensorboard needs it: pip install tensorboard ({error})") from error
            self._board = SummaryWriter(out)
        if sys.stderr.isatty():
            columns = [TextColumn("step"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
            self._progress = Progress(*columns, transient=True)
            self._progress.start()
            self._task = self._progress.add_task("train", total=steps, completed=first_step)

    def step(self, done: int) -> None:
        """Move the progress bar."""
        if self._progress is not None:
            self._progress.update(self._task, completed=done)

    def log(self, metrics: dict[str, Any]) -> None:
        """Log one line and add it to metrics.jsonl; `step` is among the metrics."""
        if self._silent:
            return
        log.info("%s", "  ".join(f"{name} {_short(value)}" for name, value in metrics.items() if value != {}))
        line = json.dumps(metrics)
        self._lines.append(line)
        if storage.is_local(self._path):
            with storage.local_path(self._path).open("a", encoding="utf-8") as file:
                file.write(line + "\n")
        self._show(running=True)
        if self._board is not None:
            for name, value in metrics.items():
                if isinstance(value, int | float):
                    self._board.add_scalar(name, value, metrics["step"])

    def last(self, loss: float) -> tuple[float, dict[str, float]]:
        """Return the last loss and accuracies that were logged, `loss` where none was."""
        accuracies: dict[str, float] = {}
        for line in map(json.loads, self._lines):
            loss = line.get("loss", loss)
            found = {name.removeprefix("accuracy/"): value for name, value in line.items() if "/" in name}
            accuracies = found or accuracies
        return loss, accuracies

    def flush(self) -> None:
        """Publish metrics.jsonl whole, as object stores need."""
        if not self._silent:
            storage.write_bytes(self._path, "".join(f"{line}\n" for line in self._lines).encode())

    def close(self) -> None:
        """End the bar and publish the metrics."""
        if self._progress is not None:
            self._progress.stop()
        if self._board is not None:
            self._board.close()
        self.flush()
        self._show(running=False)

    def _show(self, *, running: bool) -> None:
        """Write the page; a disk that fails to take it does not stop the training."""
        if self._page is None or self._silent:
            return
        try:
            self._page.write(self._lines, running=running)
        except OSError as error:
            log.warning("report.html could not be written: %s", error)


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def peak_memory_gb(device: torch.device) -> float:
    """Return the most memory held so far: the device's, or this process's."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9
