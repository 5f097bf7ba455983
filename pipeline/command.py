"""What every command does around its work: a terminal of its own, exit codes, how to go on after errors."""

import os
import traceback
from collections.abc import Callable

from rich.console import Console

from pipeline import config, storage


def terminal() -> Console:
    """Return a console on stderr with a descriptor of its own, untouched while descriptor 2 goes to a log."""
    return Console(file=os.fdopen(os.dup(2), "w"))


def worker_log(folder: str) -> str:
    """Return where worker processes write what nobody needs to see; "" for a folder that is not local."""
    return str(storage.local_path(folder) / "workers.log") if storage.is_local(folder) else ""


def guarded(prog: str, console: Console, work: str, action: Callable[[], int]) -> int:
    """Return what `action` returns; 2 for what the user can mend, 130 for Ctrl-C, 1 for any other failure.

    work: the command's folder of unfinished work, whose log takes the traceback.
    """
    try:
        return action()
    except (ValueError, FileNotFoundError) as error:
        config.usage_error(prog, str(error))
    except KeyboardInterrupt:
        console.print("Stopped. The same command continues where it stopped.")
        return 130
    except Exception as error:  # noqa: BLE001 - the user is told what to do; the log has the rest
        return _failed(console, work, error)


def _failed(console: Console, work: str, error: Exception) -> int:
    """Say in one line what happened, leave the traceback in the log, and return 1."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    console.print(f"[red]failed[/] {lines[-1]}", highlight=False, soft_wrap=True)
    path = worker_log(work) if storage.exists(work) else ""
    if path:
        with open(path, "a") as file:  # noqa: PTH123
            traceback.print_exception(error, file=file)
        console.print(f"Details are in {path}.", soft_wrap=True)
    else:
        traceback.print_exception(error)
    console.print("When the cause is removed, the same command continues where it stopped.")
    return 1
