"""Build the worker image without a container engine, start its entry point, and crawl with it.

    python -m bench.image
    python -m bench.image --keep image

Needs root, debootstrap, Go and unshare. The Dockerfile's own lines are followed, in a fresh root of Debian
with Python 3.11: COPY copies, RUN runs there (chroot) as the user that USER names, ENV is set. The bases
differ: the root is Debian's in place of the image `python`, and Beam's boot program is built from its Go
module, whose hash is compared. Then ENTRYPOINT runs as the image's user, as a worker pool; a launcher
outside, which shares nothing with it but the network, runs each stage of a crawl whose files go to an object
store (moto), and they are compared with those of a run on this machine. Prints one line of JSON.
"""

import argparse
import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import apache_beam

from bench import engines
from pipeline.demo.server import serve
from pipeline.demo.web import Web, build
from tests import s3
from tests.crawling import arguments, settle

ROOT: Final = Path(__file__).resolve().parents[1]
_DEBIAN: Final = (
    "--variant=minbase", "--include=python3-minimal,libpython3-dev,python3-pip,python3-venv,ca-certificates",
)  # fmt: skip
_TORCH: Final = "import importlib.util; print(importlib.util.find_spec('torch') is not None)"
_PORT: Final = 50000
"""On which Beam's boot program serves as a pool; it cannot be told another."""


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile's last stage, in order."""
    lines = [line for line in dockerfile.splitlines() if not line.startswith("#")]
    found = [
        line.partition(" ") for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()
    ]
    last = max(number for number, (name, _, _) in enumerate(found) if name == "FROM")
    return [(name, rest.strip()) for name, _, rest in found[last + 1 :]]


@dataclass
class Image:
    """A root into which the instructions of a Dockerfile are followed."""

    root: Path
    boot: Path
    """Beam's boot program, in place of the files of Beam's image."""
    folder: str = "/"
    user: str = "0"
    given: dict[str, str] = field(default_factory=dict)
    """Arguments of the build."""
    environment: dict[str, str] = field(default_factory=dict)
    entry: list[str] = field(default_factory=list)

    def follow(self, name: str, rest: str) -> None:
        """Follow one instruction; ValueError for an instruction that this program does not know."""
        match name:
            case "WORKDIR":
                self.folder = rest
                self.path(rest).mkdir(parents=True, exist_ok=True)
            case "COPY":
                self._copy(shlex.split(rest))
            case "ENV":
                key, _, value = rest.partition("=")
                self.environment[key] = value
            case "ARG":
                key, _, value = rest.partition("=")
                self.given[key] = value
            case "USER":
                self.user = string.Template(rest).substitute(self.given)
            case "RUN":
                subprocess.run(self.command(["/bin/sh", "-c", rest], pip=True), check=True)
            case "ENTRYPOINT":
                self.entry = json.loads(rest)
            case _:
                raise ValueError(f"the Dockerfile has {name}, which bench/image.py does not follow: teach it")

    def path(self, inside: str) -> Path:
        """Return where a path of the image is on this machine."""
        return self.root / inside.lstrip("/")

    def _copy(self, words: list[str]) -> None:
        *sources, target = words
        into = self.path(str(Path(self.folder, target)))
        if sources[0].startswith("--from="):
            into.mkdir(parents=True)
            shutil.copy(self.boot, into / "boot")
            return
        for source in sources:
            if (ROOT / source).is_dir():
                skip = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / source, into, ignore=skip, dirs_exist_ok=True)
            else:
                shutil.copy(ROOT / source, into)

    def command(self, argv: Sequence[str], pip: bool = False, **environment: str) -> list[str]:
        """Return the command that runs a program in the image, with processes and mounts of its own.

        pip: pass on how this machine reaches its package index.
        """
        own = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/tmp", **self.environment}
        if pip:
            names = (
                "PIP_INDEX_URL",
                "PIP_EXTRA_INDEX_URL",
                "PIP_CERT",
                "http_proxy",
                "https_proxy",
                "no_proxy",
            )
            own |= {name: os.environ[name] for name in names if name in os.environ}
        given = [f"{name}={value}" for name, value in {**own, **environment}.items()]
        inside = f"cd {shlex.quote(self.folder)} && exec {shlex.join(argv)}"
        return [
            "unshare", "--mount", "--pid", "--fork", "--kill-child", f"--mount-proc={self.root / 'proc'}",
            "chroot", f"--userspec={self.user}:{self.user}", str(self.root), "/usr/bin/env", "-i", *given,
            "/bin/sh", "-c", inside,
        ]  # fmt: skip

    def output(self, *argv: str) -> str:
        """Return the output of a program in the image."""
        return subprocess.run(self.command(argv), check=True, capture_output=True, text=True).stdout


def base(folder: Path) -> None:
    """Make a root of Debian with Python 3.11."""
    subprocess.run(
        ["debootstrap", *_DEBIAN, "bookworm", str(folder), "http://deb.debian.org/debian"],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip


def as_python(root: Path) -> None:
    """Let Debian's Python be called as that of the image `python`, and pip install beside it."""
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    for path in root.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
        path.unlink()
    (root / "dev/shm").chmod(0o1777)
    for name in ("/etc/resolv.conf", "/etc/hosts", os.environ.get("PIP_CERT", "")):
        if name and Path(name).exists():
            (root / name.lstrip("/")).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(name, root / name.lstrip("/"))


@contextlib.contextmanager
def pool(image: Image, log: Path, **environment: str) -> Iterator[None]:
    """Run the image's entry point as a worker pool, as its user."""
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", _PORT)) == 0:  # gRPC would share a taken port
            raise ValueError(f"port {_PORT} is in use: end the worker pool that serves there")
    with log.open("w") as file:
        child = subprocess.Popen(
            image.command([*image.entry, "--worker_pool"], **environment),
            stdout=file, stderr=file, start_new_session=True,
        )  # fmt: skip
        try:
            for _ in range(600):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", _PORT), 1):
                    break
                if child.poll() is not None:
                    raise RuntimeError(f"the entry point has ended: {log.read_text()}")
                time.sleep(0.1)
            yield
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def crawl(image: Image, web: Web, folder: Path) -> dict[str, Any]:
    """Crawl with workers in the image, by stage, and on this machine; return the lines to print."""
    flags = ["--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=EXTERNAL",
             f"--environment_config=localhost:{_PORT}"]  # fmt: skip
    settle(web)
    with s3.serve() as store:
        names = ("AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        given = {name: os.environ[name] for name in names if name in os.environ}
        for name in ("queries.txt", "urls.parquet"):
            store.client.upload_file(str(web.folder / name), s3.BUCKET, name)
        argv = arguments(web, Path("unused"), "--lang", "any", "--rounds", "1")
        argv[argv.index(str(web.queries))] = f"{store.url}/queries.txt"
        argv[argv.index(str(web.warc))] = f"{store.url}/urls.parquet"
        out = argv.index("--out") + 1
        seconds = {}
        with pool(image, folder / "pool.log", **given):
            argv[out] = f"{store.url}/run"
            for stage in ("candidates", "select", "fetch", "finish"):
                start = time.monotonic()
                _openwit("crawl", *argv, "--stage", stage, *flags)
                seconds[stage] = round(time.monotonic() - start, 1)
        argv[out] = f"{store.url}/local"
        _openwit("crawl", *argv)
        _openwit("verify", "--run", f"{store.url}/run")
        found, expected = (json.loads(store.read(f"{run}/manifest.json")) for run in ("run", "local"))
    same = _told(found) == _told(expected)
    return {"seconds": seconds, "samples": found["counts"]["samples"], "same": same}


def _told(stored: dict[str, Any]) -> dict[str, Any]:
    """Return the parts of a manifest that do not change from run to run."""
    return {"tars": {one["name"]: one["sha256"] for one in stored["shards"]}, "counts": stored["counts"]}


def _openwit(*argv: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "beam_job", *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"openwit {shlex.join(argv)}\n{done.stdout}{done.stderr}")


def main() -> int:
    """Build and try the image; return 1 if its crawl gives other files."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", default="", help="where the root is made, and left")
    parser.add_argument(
        "--base", default="", help="a root of Debian by debootstrap, to begin with a copy of it"
    )
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openwit-image-") as temporary:
        folder = Path(temporary)
        root = Path(given.keep).absolute() if given.keep else folder / "root"
        started = time.monotonic()
        if given.base:
            subprocess.run(["cp", "-a", given.base, str(root)], check=True)
        else:
            base(root)
        as_python(root)
        image = Image(root, engines.boot(apache_beam.__version__))
        made = time.monotonic()
        for name, rest in instructions((ROOT / "Dockerfile").read_text()):
            image.follow(name, rest)
        built = time.monotonic()
        present = image.output("python", "-c", _TORCH).strip()
        size = int(
            subprocess.run(["du", "-sm", str(root)], check=True, capture_output=True).stdout.split()[0]
        )
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        with serve(build(folder / "web", seed=1, n_images=60, n_sites=15, port=port)) as server:
            result = crawl(image, server.web, folder)
        line = {
            "bench": "image", "debian_s": round(made - started), "instructions_s": round(built - made),
            "mb": size, "torch": present, "user": image.user, **result,
        }  # fmt: skip
        print(json.dumps(line), flush=True)
        return 0 if result["same"] and present == "False" else 1


if __name__ == "__main__":
    sys.exit(main())
