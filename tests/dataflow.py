"""A service on loopback that speaks Dataflow's API as far as Beam's client does, and runs the submitted jobs.

A job's graph is read back from the file that the client has staged and the request names, as Dataflow would.
Its steps are done by Beam's own runner here, in place of workers in containers.
"""

import contextlib
import http.server
import json
import re
import socketserver
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.portability import common_urns, python_urns
from apache_beam.portability.api import beam_runner_api_pb2 as api
from apache_beam.runners.dataflow import dataflow_runner
from apache_beam.runners.portability.fn_api_runner.fn_runner import FnApiRunner
from google.cloud.dataflow import JobState

_JOBS = r"/v1b3/projects/my-project/locations/us-central1/jobs(?:/([\w-]+))?(/messages)?"
IMAGE = "us-central1-docker.pkg.dev/my-project/openwit/worker:1"
ENDED = ("JOB_STATE_DONE", "JOB_STATE_FAILED", "JOB_STATE_CANCELLED")


@dataclass
class Job:
    """A submitted job, and its state."""

    id: str
    request: dict[str, Any]
    """As the client has sent it."""
    size: int
    """Of the request, bytes."""
    graph: api.Pipeline
    state: str = "JOB_STATE_PENDING"
    messages: list[str] = field(default_factory=list)
    """Of errors."""
    asked: int = 0
    """How often the client has asked how it is."""

    @property
    def pool(self) -> dict[str, Any]:
        """Return the settings that the workers are asked for."""
        (pool,) = self.request["environment"]["workerPools"]
        return dict(pool)

    @property
    def images(self) -> set[str]:
        """Return the images in which the graph's steps are to run."""
        environments = self.graph.components.environments.values()
        assert all(one.urn == common_urns.environments.DOCKER.urn for one in environments)
        return {api.DockerPayload.FromString(one.payload).container_image for one in environments}


@dataclass
class Service:
    """The jobs so far, in order."""

    port: int = 0
    jobs: list[Job] = field(default_factory=list)
    work: Callable[[Job], None] = lambda job: run(job)
    """Does a job; an exception makes it fail."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def flags(self, folder: Path) -> tuple[str, ...]:
        """Return Beam's flags for this service; the client's staged files go to a folder."""
        folder.mkdir(exist_ok=True)
        return (
            "--runner=DataflowRunner", "--project=my-project", "--region=us-central1", "--no_auth",
            f"--temp_location={folder}", f"--staging_location={folder}",
            f"--sdk_container_image={IMAGE}",
            f"--dataflow_endpoint=http://localhost:{self.port}",
        )  # fmt: skip

    def create(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Begin a job unless a job of its name is running."""
        request = json.loads(body)
        with self.lock:
            if any(job.request["name"] == request["name"] and job.state not in ENDED for job in self.jobs):
                said = f"There is already an active job named {request['name']}."
                return 409, {"error": {"code": 409, "status": "ALREADY_EXISTS", "message": said}}
            options = request["environment"]["sdkPipelineOptions"]["options"]
            graph = api.Pipeline.FromString(Path(options["pipelineUrl"]).read_bytes())
            job = Job(f"2026-01-01_00_00_00-{len(self.jobs)}", request, len(body), graph)
            self.jobs.append(job)
            begun = self.shown(job)
        threading.Thread(target=self._do, args=(job,), daemon=True).start()
        return 200, begun

    def _do(self, job: Job) -> None:
        job.state = "JOB_STATE_RUNNING"
        try:
            self.work(job)
            ended = "JOB_STATE_DONE"
        except Exception:  # noqa: BLE001 - a job fails, the service goes on
            job.messages.append(traceback.format_exc())
            ended = "JOB_STATE_FAILED"
        if job.state not in ENDED:
            job.state = ended

    def find(self, id: str) -> Job:
        """Return a job by its id."""
        return next(job for job in self.jobs if job.id == id)

    def shown(self, job: Job) -> dict[str, Any]:
        """Return a job as the API says it."""
        names = ("name", "clientRequestId", "type")
        known = {name: job.request[name] for name in names if name in job.request}
        return {"id": job.id, "projectId": "my-project", "currentState": job.state, **known}


def run(job: Job) -> None:
    """Do the steps of a job's graph in this process."""
    graph = api.Pipeline()
    graph.CopyFrom(job.graph)
    for environment in graph.components.environments.values():
        environment.urn, environment.payload = python_urns.EMBEDDED_PYTHON, b""
    FnApiRunner().run_via_runner_api(graph, PipelineOptions([])).wait_until_finish()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    service: Service

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        found = re.fullmatch(_JOBS, self.path.partition("?")[0])
        assert found, self.path
        status = 200
        match self.command, found[1], found[2]:
            case "POST", None, None:
                status, said = self.service.create(body)
            case "GET", str(), "/messages":
                said = {"jobMessages": [
                    {"id": f"{n}", "time": "2026-01-01T00:00:00Z", "messageText": text,
                     "messageImportance": "JOB_MESSAGE_ERROR"}
                    for n, text in enumerate(self.service.find(found[1]).messages)
                ]}  # fmt: skip
            case "GET", str(), None:
                job = self.service.find(found[1])
                job.asked += 1
                said = self.service.shown(job)
            case "PUT", str(), None:
                job = self.service.find(found[1])
                job.state = JobState(json.loads(body)["requestedState"]).name
                said = self.service.shown(job)
            case _:
                raise AssertionError(f"{self.command} {self.path}")
        data = json.dumps(said).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815 - http.server looks for these

    def log_message(self, *args: object) -> None:
        """Say nothing."""


class _Threads(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True


@contextlib.contextmanager
def serve() -> Iterator[Service]:
    """Serve on loopback; the client asks how a job is every few hundredths of a second, not every five."""
    service = Service()
    front = _Threads(("localhost", 0), type("Handler", (_Handler,), {"service": service}))
    service.port = front.server_address[1]
    threading.Thread(target=front.serve_forever, daemon=True).start()
    clock = dataflow_runner.time
    hasty = SimpleNamespace(time=clock.time, sleep=lambda seconds: clock.sleep(min(seconds, 0.05)))
    try:
        with mock.patch.object(dataflow_runner, "time", hasty):
            yield service
    finally:
        front.shutdown()
        front.server_close()
