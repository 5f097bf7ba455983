"""End this process's children and grandchildren, and this process with its parent."""

import contextlib
import multiprocessing
import os
import signal
import subprocess
import threading
import time
from collections import defaultdict
from collections.abc import Iterable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Final

_PATIENCE: Final = 5.0  # seconds


def descendants(of: int = 0) -> list[int]:
    """Return the ids of a process's descendants (by default this process); [] where the system lists none."""
    children: dict[int, list[int]] = defaultdict(list)
    for pid, parent in _processes():
        children[parent].append(pid)
    found, level = list[int](), [of or os.getpid()]
    while level:
        level = [child for pid in level for child in children[pid]]
        found += level
    return found


def _processes() -> list[tuple[int, int]]:
    """Return (process, parent) of every process."""
    pairs = []
    proc = Path("/proc")
    if (proc / "self" / "stat").exists():
        for folder in proc.iterdir():
            with contextlib.suppress(OSError, ValueError, IndexError):
                # The name, in brackets, may hold anything; the state and the parent follow it.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
                pairs.append((int(folder.name), int(fields[1])))
        return pairs
    with contextlib.suppress(OSError, ValueError):
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="],  # noqa: S607 - wherever the system has it
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        pairs = [(int(pid), int(parent)) for pid, parent in map(str.split, listed.stdout.splitlines())]
    return pairs


def _handles_term(pid: int) -> bool:
    """Return whether a process has a handler for SIGTERM; False where the system does not tell."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("SigCgt:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


def _ask_to_end(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + _PATIENCE
    while time.monotonic() < end and any(_handles_term(pid) for pid in pids):  # a zombie has no handler
        time.sleep(0.02)


def end_with_parent(worker: int = 0) -> None:
    """Let this process end when the process that started it is gone, however that ended.

    `worker` is there for DataLoader's `worker_init_fn`. PyTorch's own watch compares the parent's process id,
    which under forkserver is that of the server; and the server lives as long as a worker does.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "multiprocessing starts it"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()


_spared: set[int] = set()


def spare(pids: Iterable[int]) -> None:
    """Let these processes outlive `kill`: others are stopped through them."""
    _spared.update(pids)


def kill(*, all_of_them: bool = False) -> None:
    """Kill them, the spared ones too if wanted: all that they leave is either whole or not to be seen.

    Processes that handle SIGTERM, to keep finished work (`flow.kept`), get five seconds first; with
    `all_of_them` nobody gets any.
    """
    if not all_of_them:
        _ask_to_end([pid for pid in descendants() if pid not in _spared and _handles_term(pid)])
    for pid in descendants():
        if all_of_them or pid not in _spared:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
