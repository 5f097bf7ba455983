"""docs/deploy/: the parts that Kubernetes, Flink's operator and Slurm read; a job that is told to stop."""

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from pipeline import config
from pipeline.demo.server import Server
from pipeline.options import CrawlConfig
from pipeline.verify import main as verify
from tests.crawling import arguments, settle

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "docs" / "deploy"
KUBERNETES = "1.29"
"""The first version with containers that run beside a Job's and end after it."""
IMAGE = "us-central1-docker.pkg.dev/my-project/openwit/worker:1"
SBATCH = DEPLOY / "slurm" / "crawl.sbatch"

OBJECTS = [
    pytest.param(found, id=f"{path.stem}-{found['kind']}")
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    for found in yaml.safe_load_all(path.read_text())
]
# The part of Flink's operator that is used: the fields of its FlinkDeployment, v1beta1.
FLINK = {
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"image", "flinkVersion", "serviceAccount", "flinkConfiguration", "podTemplate", "jobManager",
             "taskManager"},
    "jobManager": {"resource"},
    "taskManager": {"resource", "podTemplate"},
    "resource": {"cpu", "memory"},
}  # fmt: skip


def pods(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the pods that an object makes; a task manager's as the operator merges it."""
    spec = found.get("spec", {})
    match found["kind"]:
        case "Job":
            return [spec["template"]]
        case "FlinkDeployment":
            base, own = spec["podTemplate"]["spec"], spec["taskManager"]["podTemplate"]["spec"]
            return [{"spec": {**base, **own}}]
    return []


def containers(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a pod's containers but Flink's own, whose resources stand elsewhere."""
    found = [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
    return [one for one in found if one["name"] != "flink-main-container"]


@pytest.mark.parametrize("found", OBJECTS)
def test_kubernetes_takes_it(found: dict[str, Any]) -> None:
    if found["kind"] != "FlinkDeployment":
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
        return
    assert found["apiVersion"] == "flink.apache.org/v1beta1"
    spec = found["spec"]
    for name, part in (("", found), ("spec", spec), *spec.items(), *spec["taskManager"].items()):
        if name in FLINK:
            assert set(part) <= FLINK[name], name
    assert all(isinstance(value, str) for value in spec["flinkConfiguration"].values())
    for pod in (spec["podTemplate"], *pods(found)):
        named = [{"image": spec["image"], **one} for one in pod["spec"].get("containers", [{"name": "x"}])]
        whole = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"},
                 "spec": {**pod["spec"], "containers": named}}  # fmt: skip
        kubernetes_validate.validate(whole, KUBERNETES, strict=True)


@pytest.mark.parametrize("found", OBJECTS)
def test_nothing_is_root_or_without_bounds(found: dict[str, Any]) -> None:
    for pod in pods(found):
        of_pod = pod["spec"]["securityContext"]
        assert of_pod["runAsNonRoot"] and of_pod["runAsUser"] > 0
        assert of_pod["seccompProfile"] == {"type": "RuntimeDefault"}
        mounted = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in containers(pod):
            own = container["securityContext"]
            assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]}
            assert own.get("runAsUser", of_pod["runAsUser"]) > 0
            assert {"cpu", "memory"} <= set(container["resources"]["limits"])
            assert container["resources"]["limits"] == container["resources"]["requests"]
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounted
            if container["image"] == IMAGE:
                user = re.search(r"^ARG WORKER=(\d+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
                assert user and own.get("runAsUser", of_pod["runAsUser"]) == int(user[1])


@pytest.mark.parametrize("path", sorted((DEPLOY / "kubernetes").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_launcher_finds_what_it_is_told(path: Path, tmp_path: Path) -> None:
    objects = list(yaml.safe_load_all(path.read_text()))
    (job,) = (one for one in objects if one["kind"] == "Job")
    (settings,) = (one for one in objects if one["kind"] == "ConfigMap")
    template = job["spec"]["template"]["spec"]
    assert template["restartPolicy"] == "OnFailure" and job["spec"]["backoffLimit"] >= 10
    (launcher,) = template["containers"]
    assert launcher["image"] == IMAGE
    (volume,) = (one for one in template["volumes"] if "configMap" in one)
    assert volume["configMap"]["name"] == settings["metadata"]["name"]
    assert {"name": volume["name"], "mountPath": "/config", "readOnly": True} in launcher["volumeMounts"]
    (tmp_path / "run.toml").write_text(settings["data"]["run.toml"])
    words = [word.replace("/config/", f"{tmp_path}/") for word in launcher["command"]]
    assert words[:2] == ["openwit", "crawl"]
    options, flags = config.parse(CrawlConfig, words[2:], prog="openwit crawl", beam=True)
    cores = int(launcher["resources"]["limits"]["cpu"])
    if not flags:
        assert options.workers == cores, "of itself it would count the node's cores"
        return
    beam = tomllib.loads(settings["data"]["run.toml"])["beam"]
    (flink,) = (one for one in objects if one["kind"] == "FlinkDeployment")
    (server,) = template["initContainers"]
    assert beam["job_endpoint"] == f"localhost:{server['startupProbe']['tcpSocket']['port']}"
    assert server["args"] == [f"--flink-master={flink['metadata']['name']}-rest:8081"]
    version = flink["spec"]["flinkVersion"].removeprefix("v").replace("_", ".")
    assert flink["spec"]["image"] == f"flink:{version}"
    (pinned,) = re.findall(r"^apache-beam==(.*)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert server["image"] == f"apache/beam_flink{version}_job_server:{pinned}"
    (pool,) = containers(pods(flink)[0])
    assert pool["image"] == IMAGE and pool["args"] == ["--worker_pool"]
    assert beam["environment_config"] == "localhost:50000", "where Beam's boot program serves a pool"
    slots = int(flink["spec"]["flinkConfiguration"]["taskmanager.numberOfTaskSlots"])
    assert slots == beam["sdk_worker_parallelism"] == int(pool["resources"]["limits"]["cpu"])
    assert beam["parallelism"] % slots == 0


# --- Slurm


def test_slurm_reads_the_directives() -> None:
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)
    lines = SBATCH.read_text().splitlines()
    assert lines[0] == "#!/bin/bash"
    directives = [line for line in lines if line.startswith("#SBATCH ")]
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(lines.index(line) < first for line in directives), "Slurm stops reading at the first command"
    given = dict(line.removeprefix("#SBATCH --").partition("=")[::2] for line in directives)
    assert set(given) == {
        "job-name", "nodes", "ntasks", "cpus-per-task", "mem", "time", "signal", "requeue", "open-mode",
        "output",
    }  # fmt: skip
    assert given["nodes"] == given["ntasks"] == "1" and given["requeue"] == ""
    assert re.fullmatch(r"\d+G", given["mem"]) and int(given["mem"][:-1]) >= int(given["cpus-per-task"])
    assert re.fullmatch(r"\d\d:\d\d:\d\d", given["time"]) and given["open-mode"] == "append"
    assert given["signal"] == "HUP@300", "not B:, which tells the shell alone"


@pytest.fixture
def slurm(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Return the environment of a job, with programs that stand for Slurm's."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in {
        "srun": f'echo $$ >> {tmp_path}/steps\nexec "$@"',
        "scontrol": f'echo "$@" >> {tmp_path}/told',
        "openwit": f'exec {sys.executable} -m beam_job "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{body}\n")
        (programs / name).chmod(0o755)
    yield {
        **os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "1",
    }  # fmt: skip


def test_a_job_whose_time_is_up_continues_in_its_next_turn(
    small_web: Server, slurm: dict[str, str], tmp_path: Path
) -> None:
    settle(small_web.web)
    argv = arguments(small_web.web, tmp_path / "run", "--rounds", "1", "--host-delay", "1")
    options, _ = config.parse(CrawlConfig, argv, prog="openwit crawl")
    (tmp_path / "run.toml").write_text(config.to_toml(config.effective(options)))
    command = ["bash", str(SBATCH), str(tmp_path / "run.toml")]
    with (tmp_path / "log").open("w") as log:
        first = subprocess.Popen(
            command, cwd=ROOT, env=slurm, stdout=log, stderr=log,
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),  # the tests may be under nohup
        )  # fmt: skip
        before = len(small_web.requests())
        while len(small_web.requests()) < before + 30:  # it is fetching
            assert first.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.1)
        os.kill(int((tmp_path / "steps").read_text()), signal.SIGHUP)
        assert first.wait(60) == 129, (tmp_path / "log").read_text()
    assert (tmp_path / "told").read_text() == "requeue 17\n"
    faster = (tmp_path / "run.toml").read_text().replace("host_delay = 1.0\n", "host_delay = 0.01\n")
    (tmp_path / "run.toml").write_text(faster)
    done = subprocess.run(command, cwd=ROOT, env=slurm, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "told").read_text() == "requeue 17\n", "it is done"
    assert verify(["--run", str(tmp_path / "run")]) == 0
