"""One job server for all graphs of a command, where Beam would start one for each.

Jobs for Flink and Spark are submitted through a job server, a Java process that Beam starts with the graph
and ends with this process. A crawl has several jobs, and each server takes hundreds of megabytes.
"""

import atexit
import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from apache_beam.options.pipeline_options import PipelineOptions, PortableOptions, StandardOptions
from apache_beam.runners.portability.job_server import StopOnExitJobServer
from apache_beam.runners.runner import PipelineRunner, create_runner

from pipeline import processes

_OWN = ("flinkrunner", "sparkrunner", "prismrunner")  # start a job server unless --job_endpoint names one
_KEPT: dict[tuple[str, ...], "_Kept"] = {}


class _Kept:
    """Start a job server once, and end it with this process.

    Beam's own wrapper for that takes over SIGINT and ends the server at once: then nothing is left through
    which the job could be cancelled.
    """

    def __init__(self, server: Any) -> None:
        self._server, self._lock = server, threading.Lock()
        self._service: Any = None

    def start(self) -> Any:
        """Return the service to which jobs are submitted."""
        with self._lock:
            if self._service is None:
                before = processes.descendants()
                with _deaf_children():
                    self._service = self._server.start()
                processes.spare(set(processes.descendants()) - set(before))
                atexit.register(self._server.stop)
        return self._service


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Let processes that are started here ignore Ctrl-C, which a terminal tells all of its foreground."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def runner_of(options: PipelineOptions, flags: tuple[str, ...]) -> PipelineRunner | None:
    """Return a runner that shares its job server with all of the same flags; None where Beam's own does."""
    name = options.view_as(StandardOptions).runner
    if name.lower() not in _OWN or options.view_as(PortableOptions).job_endpoint:
        return None
    runner = create_runner(name)
    if flags not in _KEPT:
        server = runner.default_job_server(options)
        if not isinstance(server, StopOnExitJobServer):  # Flink's REST interface is submitted to directly
            return None
        _KEPT[flags] = _Kept(server._job_server)  # Beam chooses the jar and its arguments
    runner.default_job_server = lambda options: _KEPT[flags]
    return runner
