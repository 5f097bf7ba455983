"""Fetch the Beam runners on which `bench.cluster` and the tests run every job: `make engines`.

    python -m bench.engines [prism] [flink] [spark]

They go into .engines/: Prism from Go's modules, built here (Go is needed); the job servers of Flink and Spark
from Maven Central (Maven is needed), whose checksums Maven compares. All are of the version of Beam that is
installed; where a mirror of Maven lacks its job servers, they are put together from Beam's libraries of the
version in `CLASS_PATHS`, compared with the digest there. A runner that cannot be had is named with the reason
and left out; exit code 1 if it was named.
"""

import argparse
import hashlib
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

FOLDER: Final = Path(__file__).resolve().parents[1] / ".engines"

_MODULE: Final = "github.com/apache/beam/sdks/v2"
_SUMS: Final = {"2.77.0": "h1:RsC61pHEvtySEHAURQyP/+CVOJm/hy5hewuG9JF0+Ow="}
"""Of the module, as Go's checksum database has it, by Beam's version."""
JOB_SERVERS: Final = {
    "flink": "beam-runners-flink-2.0-job-server",
    "spark": "beam-runners-spark-3-job-server",
}


class ClassPath(NamedTuple):
    """A job server as Maven artifacts with all that they depend on."""

    main: str
    artifacts: tuple[str, ...]
    """Group, name and version; the first is the runner."""
    digest: str
    """`digest` of the folder."""

    @property
    def jar(self) -> str:
        """Return the name of the jar that starts it, as of the job server's own jar."""
        _, name, version = self.artifacts[0].split(":")
        return f"{name}-{version}.jar"


CLASS_PATHS: Final = {
    "flink": ClassPath(
        "org.apache.beam.runners.flink.FlinkJobServerDriver",
        ("org.apache.beam:beam-runners-flink-1.19:2.62.0", "org.slf4j:slf4j-simple:1.7.30"),
        "e3756fbe6cbcd86afbdc9edc4e9f7aea7d94d0419933a18a6685f91290722dab",
    ),
    "spark": ClassPath(
        "org.apache.beam.runners.spark.SparkJobServerDriver",
        ("org.apache.beam:beam-runners-spark-3:2.62.0", "org.apache.spark:spark-streaming_2.12:3.5.5",
         "org.apache.spark:spark-core_2.12:3.5.5", "org.slf4j:slf4j-api:2.0.7"),
        "3f5d7e09429f38907fde59c34680daaec49a6c10ee8b188d8110b6a74bad88df",
    ),
}  # fmt: skip
# Of Java's own packages that both look into, closed since Java 17.
OPENED: Final = (
    "java.lang", "java.lang.invoke", "java.lang.reflect", "java.io", "java.net", "java.nio", "java.util",
    "java.util.concurrent", "java.util.concurrent.atomic", "sun.nio.ch", "sun.nio.cs", "sun.security.action",
    "sun.util.calendar",
)  # fmt: skip


def _output(command: Sequence[str], **environment: str) -> str:
    """Return the standard output of a command; ValueError with its last words if it fails."""
    if not shutil.which(command[0]):
        raise ValueError(f"{command[0]} is not installed")
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )
    if done.returncode:
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stderr + done.stdout).split("\n")
        raise ValueError(f"{command[0]}: {next((line for line in said if line.strip()), 'it failed')[:400]}")
    return done.stdout


def prism(version: str) -> Path:
    """Build Prism of a version of Beam."""
    return _of_go("go/cmd/prism", version)


def boot(version: str) -> Path:
    """Build the program that starts Python workers in Beam's images."""
    return _of_go("python/container", version)


def _of_go(package: str, version: str) -> Path:
    """Build a program of Beam's Go module, whose hash is compared before."""
    module = f"{_MODULE}@v{version}"
    found = json.loads(_output(["go", "mod", "download", "-json", module]))["Sum"]
    if found != _SUMS.get(version, found):
        raise ValueError(f"{module} has the hash {found}, not {_SUMS[version]}")
    FOLDER.mkdir(exist_ok=True)
    _output(["go", "install", f"{_MODULE}/{package}@v{version}"], GOBIN=str(FOLDER))
    return FOLDER / package.rpartition("/")[2]


def _maven(goal: str, *arguments: str) -> None:
    _output(["mvn", "-q", "-B", "-Dstyle.color=never", "--strict-checksums", goal, *arguments])


def job_server(name: str, version: str) -> Path:
    """Fetch the job server of a runner, of a version of Beam, from Maven Central."""
    artifact = f"org.apache.beam:{JOB_SERVERS[name]}:{version}"
    _maven("dependency:copy", f"-Dartifact={artifact}", f"-DoutputDirectory={FOLDER}")
    return FOLDER / f"{JOB_SERVERS[name]}-{version}.jar"


def class_path(name: str) -> Path:
    """Fetch the libraries of a runner into a folder; return a jar beside it that starts its job server."""
    wanted, folder = CLASS_PATHS[name], FOLDER / name
    if digest(folder) != wanted.digest:
        shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory() as project:
            pom = Path(project) / "pom.xml"
            pom.write_text(_project(wanted.artifacts))
            _maven("dependency:copy-dependencies", f"-DoutputDirectory={folder}", "-f", str(pom))
    if digest(folder) != wanted.digest:
        raise ValueError(f"{folder} has the digest {digest(folder)}, not {wanted.digest}")
    jar = FOLDER / wanted.jar
    with zipfile.ZipFile(jar, "w") as file:
        file.writestr("META-INF/MANIFEST.MF", b"".join(_manifest(wanted.main, folder)))
    return jar


def digest(folder: Path) -> str:
    """Return a hash of the names and hashes of a folder's jars; empty without them."""
    jars = sorted(folder.glob("*.jar"))
    lines = [f"{hashlib.sha256(jar.read_bytes()).hexdigest()}  {jar.name}\n" for jar in jars]
    return hashlib.sha256("".join(lines).encode()).hexdigest() if lines else ""


def _project(artifacts: Sequence[str]) -> str:
    tags = ("groupId", "artifactId", "version")

    def described(artifact: str) -> str:
        parts = zip(tags, artifact.split(":"), strict=True)
        return "".join(f"<{tag}>{value}</{tag}>" for tag, value in parts)

    needed = "".join(f"<dependency>{described(artifact)}</dependency>" for artifact in artifacts)
    head = f"<modelVersion>4.0.0</modelVersion>{described('openwit:engines:1')}"
    return f"<project>{head}<dependencies>{needed}</dependencies></project>"


def _manifest(main: str, folder: Path) -> Iterator[bytes]:
    """Yield the lines of a manifest, none of which may be longer than 72 bytes."""
    jars = " ".join(f"{folder.name}/{jar.name}" for jar in sorted(folder.glob("*.jar")))
    opened = " ".join(f"java.base/{package}" for package in OPENED)
    attributes = {"Manifest-Version": "1.0", "Main-Class": main, "Class-Path": jars, "Add-Opens": opened}
    for name, value in attributes.items():
        line = f"{name}: {value}".encode()
        yield line[:70] + b"\r\n"
        for start in range(70, len(line), 69):
            yield b" " + line[start : start + 69] + b"\r\n"
    yield b"\r\n"


def fetch(name: str, version: str) -> Path:
    """Fetch a runner; ValueError if it cannot be had."""
    if name == "prism":
        return prism(version)
    try:
        return job_server(name, version)
    except ValueError:
        jar = class_path(name)
        sys.stderr.write(
            f"{name}: Maven has no {JOB_SERVERS[name]} {version} here; another version is taken\n"
        )
        return jar


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch missing files; return 1 if a named runner is not available."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runner", nargs="*", help="prism, flink, spark; all of them by default")
    named = parser.parse_args(argv).runner
    version = importlib.metadata.version("apache-beam")
    FOLDER.mkdir(exist_ok=True)
    missing = False
    for name in named or ("prism", *JOB_SERVERS):
        try:
            print(f"{name}: {fetch(name, version)}", flush=True)
        except ValueError as error:
            sys.stderr.write(f"{name}: left out, {error}\n")
            missing |= name in named
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
