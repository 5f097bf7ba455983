"""Live progress of a stage, read from the markers that its tasks leave."""

import contextlib
import logging
import threading
from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from pipeline import storage

log = logging.getLogger(__name__)


def progress_of(console: Console) -> Any:
    """Return a context manager that shows how many of a folder's markers are there; silent off a terminal."""

    @contextlib.contextmanager
    def watch(label: str, folder: str, total: int) -> Iterator[None]:
        if not console.is_terminal:
            log.info("%s: %d tasks", label, total)
            yield
            return
        columns = (TextColumn("{task.description:<22}"), BarColumn(), MofNCompleteColumn(),
        TimeElapsedColumn(),            TimeRemainingColumn())  # fmt: skip
        with Progress(*columns, console=console) as progress:
            task = progress.add_task(label, total=total)
            stop = threading.Event()

            def count() -> None:
                while not stop.wait(0.5):
                    markers = [p for p in storage.list_files(folder, ".json") if "/range-" not in p]
                    progress.update(task, completed=min(len(markers), total))

            thread = threading.Thread(target=count, daemon=True)
            thread.start()
            try:
                yield
                progress.update(task, completed=total)
            finally:
                stop.set()
                thread.join()

    return watch
