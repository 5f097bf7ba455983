"""A worker pool as a Flink or Spark node has beside it, with workers that start quickly.

    python -m tests.pool --service_port=50000

Beam's own pool (worker_pool_main) starts each worker as a new Python, which imports everything again: two
seconds of a core, four workers for each of many jobs. These are forked from a process that has done so.
"""

import argparse
import contextlib
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

from apache_beam.portability.api import beam_fn_api_pb2
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from apache_beam.runners.worker import sdk_worker
from apache_beam.runners.worker.worker_pool_main import BeamFnExternalWorkerPoolServicer

ROOT = Path(__file__).resolve().parents[1]
_IMPORTED = (
    "apache_beam.runners.portability.fn_api_runner.fn_runner", "apache_beam.runners.worker.worker_pool_main",
    "pipeline.candidates.steps", "pipeline.select.steps", "pipeline.finish.steps", "queries.job",
    "dedup.overlap",
)  # fmt: skip


def work(control: str, worker: str) -> None:
    """Be a worker process until the runner hangs up."""
    harness = sdk_worker.SdkHarness(
        control, worker_id=worker, state_cache_size=0, data_buffer_time_limit_ms=-1
    )
    harness.run()


class Forking(BeamFnExternalWorkerPoolServicer):
    """Fork workers from a process that has imported everything."""

    def __init__(self, **_: Any) -> None:
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(list(_IMPORTED))

    def target(self) -> Callable[[str, str], None]:
        """Return the next worker's task."""
        return work

    def StartWorker(self, request: Any, context: Any) -> Any:
        """Start one worker, which ends by itself."""
        arguments = (request.control_endpoint.url, request.worker_id)
        self.context.Process(target=self.target(), args=arguments, daemon=True).start()
        return beam_fn_api_pb2.StartWorkerResponse()

    def StopWorker(self, request: Any, context: Any) -> Any:
        """Do nothing: the runner has hung up."""
        return beam_fn_api_pb2.StopWorkerResponse()


@contextlib.contextmanager
def listening(folder: Path, *start: str) -> Iterator[int]:
    """Start a pool, by default this pool, with the arguments after `python`; yield its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = start or ("-m", "tests.pool", "--service_port={port}")
    command = [sys.executable, *(part.format(port=port) for part in given)]
    # Beam's pool starts its workers as `python`: that of the environment in which openwit is installed.
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PATH": path}
    with (folder / "pool.log").open("w") as file:
        child = subprocess.Popen(
            command, stderr=file, stdout=file, cwd=folder, env=environment, start_new_session=True
        )
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            assert child.poll() is None, (folder / "pool.log").read_text()
            time.sleep(0.1)
        yield port
    finally:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def flags(port: int) -> tuple[str, ...]:
    """Return the Beam flags that run a job's Python code in the pool's workers."""
    return ("--environment_type=EXTERNAL", f"--environment_config=localhost:{port}")


PORTABLE = ("--runner=PortableRunner", "--job_endpoint=embed")
"""Flags of the job service that comes with Beam's Python package, in this process."""


@contextlib.contextmanager
def processes(count: int) -> Iterator[None]:
    """Let that job service ask for `count` workers: by itself it asks for one, whatever its options say."""
    original = FnApiRunner.run_via_runner_api

    def several(self: FnApiRunner, proto: Any, options: Any) -> Any:
        self._num_workers = count
        return original(self, proto, options)

    with mock.patch.object(FnApiRunner, "run_via_runner_api", several):
        yield


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--service_port", type=int, required=True)
    _kept = Forking.start(port=parser.parse_args().service_port)
    threading.Event().wait()


if __name__ == "__main__":
    main()
