"""Signals of a command: seen wherever its main thread waits, whichever thread the system gave them to."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

WAITS = """
    import signal, sys, threading, time
    from queue import SimpleQueue
    from rich.console import Console
    from pipeline.cli_runtime import guarded

    def other():
        # To this thread alone: the main thread goes on waiting, as it does for a signal that comes between
        # its last instruction and its wait.
        time.sleep(0.3)
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        time.sleep(600)

    def action():
        threading.Thread(target=other, daemon=True).start()
        SimpleQueue().get()

    sys.exit(guarded("openwit", Console(stderr=True), ".", action))
"""

STUCK = """
    import signal, sys, time
    from rich.console import Console
    from pipeline.cli_runtime import guarded

    def action():
        while True:
            try:
                print("waits", flush=True)
                time.sleep(600)
            except KeyboardInterrupt:  # as code of others may
                pass

    sys.exit(guarded("openwit", Console(stderr=True), ".", action))
"""


def start(code: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{textwrap.dedent(code)}"],
        cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip


def test_a_signal_that_another_thread_caught_ends_the_command(tmp_path: Path) -> None:
    child = start(WAITS, tmp_path)
    said = child.communicate(timeout=60)[1]
    assert child.returncode == 128 + signal.SIGTERM
    assert "Run the same command again to continue." in said and "Traceback" not in said


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_a_command_that_does_not_end(tmp_path: Path, second: int) -> None:
    child = start(STUCK, tmp_path)
    assert child.stdout is not None
    for number in (signal.SIGTERM, second):
        assert child.stdout.readline() == "waits\n"
        child.send_signal(number)
    child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGTERM


def test_patience_ends_a_command_that_does_not_end(tmp_path: Path) -> None:
    patience = "import pipeline.cli_runtime\npipeline.cli_runtime._PATIENCE = 0.5\n"
    child = start(patience + textwrap.dedent(STUCK), tmp_path)
    assert child.stdout is not None and child.stdout.readline() == "waits\n"
    began = time.monotonic()
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=60)
    assert child.returncode == 128 + signal.SIGINT and time.monotonic() - began >= 0.5
