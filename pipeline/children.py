"""End the processes that this one has started, and those that they have."""

import contextlib
import os
import signal
import subprocess
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path


def descendants() -> list[int]:
    """Return the ids of all processes below this one; [] where the system does not tell."""
    children: dict[int, list[int]] = defaultdict(list)
    for pid, parent in _processes():
        children[parent].append(pid)
    found, level = list[int](), [os.getpid()]
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


_spared: set[int] = set()


def spare(pids: Iterable[int]) -> None:
    """Let these processes outlive `kill`: others are stopped through them."""
    _spared.update(pids)


def kill(*, all_of_them: bool = False) -> None:
    """Kill them, the spared ones too if wanted: all that they leave is either whole or not to be seen."""
    for pid in descendants():
        if all_of_them or pid not in _spared:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
