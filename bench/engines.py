"""Fetch the Beam runners on which `bench.cluster` and the tests run every job: `make engines`.

    python -m bench.engines [prism] [flink] [spark]

They go into .engines/: Prism from Go's modules, built here (Go is needed); the job servers of Flink and Spark
from Maven Central (Maven is needed), whose checksums Maven compares. All are of the version of Beam that is
installed. A runner that cannot be had is named with the reason and left out; exit code 1 if it was named.
"""

import argparse
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).resolve().parents[1] / ".engines"

_PRISM: Final = "github.com/apache/beam/sdks/v2"
_SUMS: Final = {"2.77.0": "h1:RsC61pHEvtySEHAURQyP/+CVOJm/hy5hewuG9JF0+Ow="}
"""Of the module, as Go's checksum database has it, by Beam's version."""
JOB_SERVERS: Final = {
    "flink": "beam-runners-flink-2.0-job-server",
    "spark": "beam-runners-spark-3-job-server",
}


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
    """Build Prism of a version of Beam from its Go module, whose hash is compared before."""
    module = f"{_PRISM}@v{version}"
    found = json.loads(_output(["go", "mod", "download", "-json", module]))["Sum"]
    if found != _SUMS.get(version, found):
        raise ValueError(f"{module} has the hash {found}, not {_SUMS[version]}")
    _output(["go", "install", f"{_PRISM}/go/cmd/prism@v{version}"], GOBIN=str(FOLDER))
    return FOLDER / "prism"


def job_server(name: str, version: str) -> Path:
    """Fetch the job server of a runner from Maven Central."""
    artifact = f"org.apache.beam:{JOB_SERVERS[name]}:{version}"
    where = f"-DoutputDirectory={FOLDER}"
    _output(
        [
            "mvn",
            "-q",
            "-B",
            "-Dstyle.color=never",
            "--strict-checksums",
            "dependency:copy",
            f"-Dartifact={artifact}",
            where,
        ]
    )
    return FOLDER / f"{JOB_SERVERS[name]}-{version}.jar"


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch what is not there yet; return 1 if a runner that was named cannot be had."""
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
            path = prism(version) if name == "prism" else job_server(name, version)
            print(f"{name}: {path}", flush=True)
        except ValueError as error:
            sys.stderr.write(f"{name}: left out, {error}\n")
            missing |= name in named
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
