"""Start a cluster of several processes on this machine, of the libraries that `bench.engines` has fetched.

For Flink a job manager and two task managers, for Spark a master and two workers, each a Java process as on
nodes of their own; `bench.cluster --standalone` and `bench.kills --runner` run jobs on them.
"""

import contextlib
import json
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench import engines

NODES: Final = 2
SLOTS: Final = 1
"""Tasks that a node does at a time, each in a worker process."""
_BRIEF: Final = "-XX:+UseSerialGC -XX:TieredStopAtLevel=1"
"""Options of Java for short lives: compiling well costs more than it saves."""
_NOTHING_TO_SEND: Final = f"--files_to_stage={__file__}"
_FLINK: Final = {
    "jobmanager.rpc.address": "127.0.0.1",
    "rest.address": "127.0.0.1",
    "rest.bind-address": "127.0.0.1",
    "taskmanager.host": "127.0.0.1",
    "taskmanager.numberOfTaskSlots": SLOTS,
    # Flink's start scripts would work these out from one number.
    "taskmanager.cpu.cores": 1,
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "192m",
    "taskmanager.memory.jvm-overhead.max": "192m",
    "taskmanager.memory.task.heap.size": "512m",
    "taskmanager.memory.task.off-heap.size": "64m",
    "taskmanager.memory.network.min": "192m",
    "taskmanager.memory.network.max": "192m",
    "taskmanager.memory.managed.size": "192m",
    # Else a group that a sort buffer of some MB cannot hold ends the job: github.com/apache/beam/issues/20655
    "taskmanager.runtime.large-record-handler": "true",
    # The files that the job server stages are on the class path already.
    "classloader.resolve-order": "parent-first",
    "restart-strategy.type": "fixed-delay",
    "restart-strategy.fixed-delay.attempts": 3,
    "restart-strategy.fixed-delay.delay": "1 s",
    "heartbeat.timeout": 120_000,  # of a machine that is busy with something else
    "pekko.ask.timeout": "120 s",
}


@dataclass
class Standalone:
    """A cluster whose processes can be killed and started again by name."""

    folder: Path
    flags: tuple[str, ...] = ()
    """That run a job on it; a job server would send each of its libraries to every node, which has them."""
    address: str = ""
    """Of the page that tells of it."""
    nodes_are: str = ""
    """Where that page has the number of nodes: a path and a name."""
    commands: dict[str, Sequence[str]] = field(default_factory=dict)
    running: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str) -> None:
        """Start a process, or start it again; its output goes into a log of its name."""
        environment = {**os.environ, "SPARK_HOME": str(self.folder), "SPARK_SCALA_VERSION": "2.12"}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.commands[name], stdout=log, stderr=log, cwd=self.folder, env=environment
            )

    def ask(self, path: str, method: str = "GET") -> Any:
        """Return the cluster's answer about itself, from JSON."""
        request = urllib.request.Request(self.address + path, method=method)
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def wait(self) -> None:
        """Wait for all nodes."""
        path, _, name = self.nodes_are.rpartition(" ")
        for _ in range(600):
            with contextlib.suppress(OSError):
                if self.ask(path)[name] == NODES:
                    return
            time.sleep(0.5)
        raise RuntimeError(f"no cluster: see the logs in {self.folder}")

    def cancel_jobs(self) -> None:
        """Cancel the jobs still running on a cluster of Flink; on Spark they end with their job server."""
        if not self.nodes_are.startswith("/overview"):
            return
        for job in self.ask("/jobs")["jobs"]:
            if job["status"] not in ("FINISHED", "CANCELED", "FAILED"):
                with contextlib.suppress(OSError):  # it has ended meanwhile
                    self.ask(f"/jobs/{job['id']}?mode=cancel", "PATCH")

    def stop(self) -> None:
        """End all processes."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def free_ports(count: int) -> list[int]:
    """Return ports of loopback that nobody listens on."""
    with contextlib.ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


def _java(name: str, megabytes: int, main: str, *arguments: str) -> list[str]:
    opened = [f"--add-opens=java.base/{package}=ALL-UNNAMED" for package in engines.OPENED]
    libraries = str(engines.FOLDER / name / "*")
    return ["java", f"-Xmx{megabytes}m", *opened, "-cp", libraries, main, *arguments]


def _flink(folder: Path) -> Standalone:
    rpc, rest = free_ports(2)
    ports = {"jobmanager.rpc.port": rpc, "rest.port": rest, "rest.bind-port": rest}
    settings = {**_FLINK, **ports, "io.tmp.dirs": folder}
    (folder / "flink-conf.yaml").write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
    package = "org.apache.flink.runtime"
    manager = f"{package}.entrypoint.StandaloneSessionClusterEntrypoint"
    runner = f"{package}.taskexecutor.TaskManagerRunner"
    commands = {"jobmanager": _java("flink", 512, manager, "--configDir", str(folder))}
    for node in range(NODES):
        commands[f"taskmanager-{node}"] = _java("flink", 1500, runner, "--configDir", str(folder))
    master = f"127.0.0.1:{rest}"
    parallelism = f"--parallelism={NODES * SLOTS}"
    flags = (f"--flink_master={master}", parallelism, f"--sdk_worker_parallelism={SLOTS}", _NOTHING_TO_SEND)
    return Standalone(folder, flags, f"http://{master}", "/overview taskmanagers", dict(commands))


def _spark(folder: Path) -> Standalone:
    port, pages, *ports = free_ports(2 + NODES)
    (folder / "jars").symlink_to(engines.FOLDER / "spark")  # of SPARK_HOME, for executors
    package, master = "org.apache.spark.deploy", f"spark://127.0.0.1:{port}"
    listening = ("--host", "127.0.0.1", "--port", str(port), "--webui-port", str(pages))
    commands = {"master": _java("spark", 512, f"{package}.master.Master", *listening)}
    for node in range(NODES):
        has = (
            "--host",
            "127.0.0.1",
            "--cores",
            str(SLOTS),
            "--memory",
            "1g",
            "--webui-port",
            str(ports[node]),
        )
        own = ("--work-dir", str(folder / f"worker-{node}"), master)
        commands[f"worker-{node}"] = _java("spark", 256, f"{package}.worker.Worker", *has, *own)
    page = f"http://127.0.0.1:{pages}"
    flags = (f"--spark_master_url={master}", f"--sdk_worker_parallelism={SLOTS}", _NOTHING_TO_SEND)
    return Standalone(folder, flags, page, "/json/ aliveworkers", dict(commands))


@contextlib.contextmanager
def cluster(name: str, folder: Path) -> Iterator[Standalone]:
    """Start a cluster of Flink or Spark, whose files go into a new folder, and end it with the block."""
    folder.mkdir()
    os.environ.update(JAVA_TOOL_OPTIONS=_BRIEF, SPARK_LOCAL_IP="127.0.0.1")
    made = {"flink": _flink, "spark": _spark}[name](folder)
    try:
        for process in made.commands:
            made.start(process)
        made.wait()
        yield made
    finally:
        made.stop()
