"""The cost of a command and all its descendants: CPU time, wall time, peak memory."""

import contextlib
import ctypes
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Final, NamedTuple

from pipeline.processes import descendants

_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h
_SAMPLE_S: Final = 0.25


class Usage(NamedTuple):
    """Hold the cost of a command."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    """Largest sum of the proportional set sizes of its processes: pages that they share count once."""


def measure(
    command: Sequence[str], environment: Mapping[str, str] | None = None, log: Path | None = None
) -> Usage:
    """Run a command to its end; RuntimeError with the end of its output if it fails.

    Processes that outlive their parents are handed to this process (a subreaper), so their time counts as
    well: of any session, since a decoding child has one of its own. Linux only.
    """
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise RuntimeError("this kernel has no child subreapers")
    others = {os.getpid(), *descendants()}
    before, started = _children_s(), time.monotonic()
    log = log or Path(os.devnull)
    with log.open("wb") as sink:
        child = subprocess.Popen(
            command,
            env=dict(os.environ, **(environment or {})),
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
        memory = _Memory(others)
        code = child.wait()
        wall = time.monotonic() - started
        memory.stop()
    while left := set(descendants()) - others:
        for pid in left:
            with contextlib.suppress(ChildProcessError):  # it is not handed to us yet
                os.waitpid(pid, 0)
    if code:
        tail = "" if log == Path(os.devnull) else log.read_text("utf-8", "replace")[-2000:]
        raise RuntimeError(f"{command[0]} ended with status {code}\n{tail}")
    return Usage(_children_s() - before, wall, memory.peak_mb)


def cpu_seconds() -> float:
    """Return the CPU time of this process, of those below it, and of those of them that have ended."""
    ticks = 0
    for pid in (os.getpid(), *descendants()):
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # own and of children, as user and in the kernel
    return ticks / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def peaks() -> Iterator[dict[str, float]]:
    """Yield the MB of the largest `python` process and of the largest `other` process, known after the block.

    Of this process and those below it, as far as they live for a second.
    """
    found = {"python": 0.0, "other": 0.0}
    ended = threading.Event()

    def watch() -> None:
        while True:
            is_last = ended.wait(1)
            for pid in (os.getpid(), *descendants()):
                with contextlib.suppress(OSError, StopIteration):
                    kind = "python" if b"python" in Path(f"/proc/{pid}/cmdline").read_bytes() else "other"
                    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
                    kilobytes = int(next(line for line in lines if line.startswith("VmHWM")).split()[1])
                    found[kind] = max(found[kind], kilobytes / 1024)
            if is_last:
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


class _Memory:
    """Sample the memory of this process's descendants, without the `others`, from a thread."""

    def __init__(self, others: Set[int]) -> None:
        self.peak_mb = 0.0
        self._others = others
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_SAMPLE_S):
            self.peak_mb = max(self.peak_mb, sum(map(_pss_mb, set(descendants()) - self._others)))


def _pss_mb(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024


if __name__ == "__main__":
    print(measure(sys.argv[1:]))
