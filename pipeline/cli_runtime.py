"""The frame around every command: its own terminal, signals, exit codes, and the command that continues."""

import contextlib
import errno
import hashlib
import math
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

from rich.console import Console
from rich.text import Text

from pipeline import config, extras, private, processes, storage
from pipeline.terminal import Terminal, told
from pipeline.untrusted import visible_lines
from pipeline.verbosity import verbosity

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PATIENCE: Final = 15.0
"""Seconds after a signal in which a command ends by itself; then it is ended."""


class Stop:
    """Say whether a signal has come: the exception that it raises may arrive as another."""

    code: int = 0
    """Exit code, 128 + the signal's number; 0 without a signal."""


def job_name(command: str, folder: str) -> str:
    """Return the name of a command's jobs for a folder on a cluster."""
    return f"openwit-{command}-{hashlib.sha256(folder.rstrip('/').encode()).hexdigest()[:10]}"


def worker_log(folder: str) -> str:
    """Return the local file for the output of worker processes, which users need not see."""
    if storage.is_local(folder):
        return str(storage.local_path(folder) / "workers.log")
    digest = hashlib.sha256(folder.encode()).hexdigest()[:12]
    return str(private.folder("logs") / f"{digest}-workers.log")


@contextlib.contextmanager
def stoppable() -> Iterator[Stop]:
    """Let SIGINT, SIGTERM and SIGHUP end the block with KeyboardInterrupt, its worker processes first.

    They would otherwise be waited for, and a task may take many minutes. Whatever they were writing is not
    to be seen. A second signal, or 15 seconds, end this process at once.
    """
    found = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield found
        return

    def stop(number: int, frame: FrameType | None) -> None:
        if not found.code:  # the watch deals with a second signal
            found.code = 128 + number
            processes.kill()
            raise KeyboardInterrupt

    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup asks
            before[number] = signal.signal(number, stop)
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    earlier = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(reader, frozenset(before), found), daemon=True)
    watch.start()
    try:
        yield found
    finally:
        signal.set_wakeup_fd(earlier)
        writer.close()
        watch.join()
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(caught: socket.socket, numbers: frozenset[int], found: Stop) -> None:
    """Read the signals that this process has caught until the other end is closed; enforce the end.

    Python calls a handler between two instructions of the main thread. A signal that another thread caught,
    or that came after the last instruction before the main thread waits in the system, has its handler called
    when that wait is over, however long it is. So the main thread gets it again until its handler has begun.
    """
    main = threading.main_thread().ident
    assert main is not None, "it runs"
    first = again = 0
    end = math.inf
    with caught:
        while time.monotonic() < end:
            caught.settimeout(0.25 if first else None)
            try:
                came = caught.recv(16)
            except TimeoutError:
                if not found.code:
                    signal.pthread_kill(main, first)
                    again += 1
                continue
            if not came:
                return
            for number in came:
                if number in numbers and not first:
                    first, end = number, time.monotonic() + _PATIENCE
                elif number == first and again:
                    again -= 1
                elif number in numbers:
                    end = 0.0
    processes.kill(all_of_them=True)
    os._exit(found.code or 128 + first)


def guarded(prog: str, console: Console, work: str, action: Callable[[], int]) -> int:
    """Return the result of `action`; 2 for a fault that the user can correct, 130 for Ctrl-C, 1 for any other
    failure.

    work: the command's folder of unfinished work, whose log takes the traceback.
    """
    stop = Stop()
    try:
        with stoppable() as stop:
            return action()
    except (ValueError, FileNotFoundError, IsADirectoryError) as error:
        if not stop.code:
            config.usage_error(prog, told(error))
    except KeyboardInterrupt:
        stop.code = stop.code or 130
    except Exception as error:  # noqa: BLE001 - the user is told what to do; the log has the rest
        if not stop.code:
            if line := extras.advice(prog, error):
                sys.stderr.write(visible_lines(line))
                return 2
            return _failed(console if verbosity() != "quiet" else Terminal(stderr=True), work, error)
    Terminal(stderr=True).print("Stopped. Run the same command again to continue.")
    return stop.code


def _failed(console: Console, work: str, error: Exception) -> int:
    """Print the error in one line, leave the traceback in the log, and return 1."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    console.print(Text.assemble(("failed", "red"), f" {lines[-1]}"), soft_wrap=True)
    if any(f"[Errno {number}]" in str(error) for number in _FULL):
        console.print("The disk is full, or a quota is used up: make room where the command writes.")
    path = worker_log(work) if work and storage.exists(work) else ""
    try:
        with open(path, "a", opener=private.opener) as file:
            file.write(visible_lines("".join(traceback.format_exception(error))))
        console.print(f"Details are in {path}.", soft_wrap=True)
    except OSError:  # no such folder, or no room there either
        sys.stderr.write(visible_lines("".join(traceback.format_exception(error))))
    if verbosity() == "verbose":
        sys.stderr.write(visible_lines("".join(traceback.format_exception(error))))
    console.print("Once the cause is removed, run the same command again to continue.")
    return 1
