"""Install the wheel as people do, and do what each installation allows.

`python3 .ci/installs.py` tries all, `python3 .ci/installs.py crawl overlap` these, the core, and crawl.
For the core, each extra alone and all together: an environment of its own outside the checkout, with no test
tools, no source tree on the path and an empty folder to work in. A command either works or names the package
that it lacks. Nothing but the standard library, since nothing else is there yet. Each environment is removed
as soon as it is done; those of torch take 6 GB.
"""

import contextlib
import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TOPS = ("openwit", "pipeline", "queries", "dedup", "train")
COMMANDS = ("queries", "crawl", "status", "verify", "compact", "takedown", "convert", "push", "pull",
            "overlap", "detector train", "detector embed", "plan", "train", "eval", "export",
            "demo")  # fmt: skip
DRAW = """
import csv, random, sys
from pathlib import Path
from PIL import Image
root, port = Path(sys.argv[1]), sys.argv[2]
rng, rows = random.Random(0), []
for number in range(36):
    colour = ("red", "blue")[number % 2]
    free = (0, 1) if colour == "red" else (2,)
    small = [tuple(rng.randrange(256) if c in free else 40 for c in range(3)) for _ in range(20 * 15)]
    grid = Image.new("RGB", (20, 15))
    grid.putdata(small)
    picture = grid.resize((320, 240), Image.Resampling.BICUBIC)
    name = f"{number}.jpg"
    (root / "web").mkdir(exist_ok=True)
    if number < 10:
        picture.save(root / "web" / name, quality=90)
        caption = f"a picture of a {colour} house at the lake number {number}"
        rows.append((f"http://127.0.0.1:{port}/web/{name}", caption))
    folder = root / ("eval" if number < 12 else "eval-train") / colour
    folder.mkdir(parents=True, exist_ok=True)
    if number >= 6:  # four of them are copies
        picture.save(folder / name, quality=60)
with (root / "urls.csv").open("w", newline="") as file:
    csv.writer(file).writerows([("url", "caption"), *rows])
(root / "queries.txt").write_text("house\\nlake\\nred house\\n")
"""

HELPS = """
import contextlib, io, sys
from beam_job import main
for command in sys.argv[1:]:
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        try:
            code = main([*command.split(), "--help"])
        except SystemExit as end:
            code = end.code
    assert not code and "usage: openwit" in said.getvalue(), (command, code, said.getvalue())
"""


class Environment:
    """A virtual environment into which nothing but the wheel and one of its extras is installed."""

    def __init__(self, folder: Path, work: Path, wheel: Path) -> None:
        self.folder, self.work, self.wheel = folder, work, wheel
        self.bin = folder / "bin"

    def install(self, extra: str) -> None:
        """Install the wheel with one extra, or with none."""
        if not self.folder.exists():
            run([sys.executable, "-m", "venv", str(self.folder)], self.work)
        wanted = f"openwit[{extra}] @ {self.wheel.as_uri()}" if extra else str(self.wheel)
        pip = [str(self.bin / "python"), "-m", "pip", "--disable-pip-version-check"]
        options = ["--quiet", "--no-compile", "--constraint", str(ROOT / "constraints.txt")]
        run([*pip, "install", *options, wanted], self.work)
        run([*pip, "check"], self.work)
        self.python(
            "import importlib.metadata, importlib.util, pipeline, sys\n"
            "assert pipeline.__file__.startswith(sys.prefix), pipeline.__file__\n"
            "own = {file.parts[0] for file in importlib.metadata.files('openwit')}\n"
            "found = [name for name in sys.argv[1:] if name in own or importlib.util.find_spec(name)]\n"
            "assert 'tests' not in own and not found, (own, found)",
            *("pytest", "hypothesis", *(() if extra == "gcp" else ("pandas",))),  # Beam's extra has it
        )

    def python(self, code: str, *argv: str) -> None:
        """Run Python code in it."""
        run([str(self.bin / "python"), "-I", "-c", code, *argv], self.work)

    def openwit(self, *argv: str, code: int = 0, says: str = "", env: dict[str, str] | None = None) -> None:
        """Run a command, which must end with this exit code and say what matches."""
        said = run([str(self.bin / "openwit"), *argv], self.work, code, env)
        if not re.search(says, said):
            sys.exit(f"openwit {' '.join(argv)} does not say {says!r}:\n{said}")

    def lacks(self, command: str, extra: str, *argv: str) -> None:
        """Run a command that must name what it lacks, in one line."""
        line = rf"\Aopenwit {command} needs [\w-]+: pip install 'openwit\[{extra}\]'\n\Z"
        self.openwit(*command.split(), *argv, code=2, says=line)

    def helps(self) -> None:
        """Let every command explain itself, in one process: starting each takes longer than the rest."""
        self.openwit("--version", says=r"openwit \d")
        self.openwit("help", says="usage: openwit COMMAND")
        self.openwit("crawl", "--help", says="usage: openwit crawl")
        self.python(HELPS, *COMMANDS)


def run(argv: list[str], cwd: Path, code: int = 0, env: dict[str, str] | None = None) -> str:
    """Run a program and return all that it says; end everything if its exit code is another."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        argv, cwd=cwd, env={**clean, **(env or {})}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode != code or "Traceback" in done.stdout:
        sys.exit(f"{' '.join(argv)}\nended with {done.returncode}, not {code}:\n{done.stdout}")
    return done.stdout


@contextlib.contextmanager
def served(folder: Path) -> Iterator[int]:
    """Serve a folder on loopback; yields the port."""
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serve files without a log."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def core(one: Environment, port: int) -> None:
    """The core reads the run that the crawl made, and plans."""
    one.openwit("status", "--run", "run", says="complete")
    one.openwit("verify", "--run", "run", says="every hash and count")
    one.openwit("plan", "--pairs", "1e6", "--workers", "4", "--cores", "4", says="GPU-days")
    one.openwit("plan", "--run", "run", "--pairs", "5", "--workers", "1", "--cores", "2", says="ViT-B-32")
    one.openwit("verify", "--run", "s3://bucket/run", code=2, says=r"needs s3fs: pip install 'openwit\[s3\]'")
    one.openwit(
        "status", "--run", "gs://bucket/run", code=2, says=r"needs gcsfs: pip install 'openwit\[gcp\]'"
    )
    for command in ("queries", "crawl", "compact", "takedown"):
        one.lacks(command, "crawl")
    one.lacks("overlap", "overlap")
    one.lacks("detector", "overlap,train", "train")
    for command in ("train", "eval", "export"):
        one.lacks(command, "train")
    one.lacks("demo", "all")


def crawl(one: Environment, port: int) -> None:
    """Ten images, and all that can be done with a run without training on it."""
    one.python(DRAW, str(one.work), str(port))
    one.openwit(
        "crawl", "--queries", "queries.txt", "--source", "urls.csv", "--out", "run", "--allow-network",
        "127.0.0.0/8", "--host-delay", "0.01", "--workers", "1", says=r"samples in shards *│ *10 ",
    )  # fmt: skip
    core_commands(one)
    shutil.copytree(one.work / "run", one.work / "other")
    address = f"http://127.0.0.1:{port}/web/0.jpg"
    one.openwit("takedown", "--run", "other", "--url", address, says="1 sample removed")
    one.openwit("verify", "--run", "other", says="9 samples")
    one.openwit("compact", "--run", "other", "--out", "compacted", says="9 samples")
    one.openwit("verify", "--run", "compacted", says="9 samples")
    one.openwit("queries", "--extra", "queries.txt", "--out", "queries.parquet", says="3")
    one.lacks("overlap", "overlap", "--run", "run", "--eval", "few=eval", "--out", "overlap")
    one.lacks(
        "eval", "train", "--checkpoint", "model", "--task", "zeroshot", "--data", "few=eval", "--out", "e"
    )
    one.lacks("demo", "all", "--out", "demo")


def core_commands(one: Environment) -> None:
    """What a run says of itself."""
    one.openwit("status", "--run", "run", says="complete")
    one.openwit("verify", "--run", "run", says="10 samples")


def overlap(one: Environment, port: int) -> None:
    """Copies are found; a crawl is another extra's."""
    core_commands(one)
    one.openwit(
        "overlap", "--run", "run", "--eval", "few=eval", "--out", "overlap", "--planted", "1",
        "--workers", "1", says=r"few +│ +6 │ +4 ",
    )  # fmt: skip
    one.lacks("crawl", "crawl", "--queries", "queries.txt", "--source", "urls.csv", "--out", "x")
    one.lacks("train", "train", "--shards", "run", "--out", "x")
    detector = ("--shards", "run", "--model", "small", "--out", "x")
    one.lacks("detector", "overlap,train", "train", *detector)


def train(one: Environment, port: int) -> None:
    """A few steps, every measure that needs no second set, and weights for others."""
    one.openwit(
        "train", "--shards", "run", "--model", "tiny", "--batch-size", "4", "--max-steps", "2",
        "--device", "cpu", "--out", "model", says="2 of 2",
    )  # fmt: skip
    one.openwit(
        "eval", "--checkpoint", "model", "--task", "zeroshot", "--task", "linear-probe", "--task", "few-shot",
        "--shots", "1", "--data", "few=eval", "--train", "few=eval-train", "--out", "evaluation",
        says="linear-probe",
    )  # fmt: skip
    for form in ("open_clip", "openai"):
        one.openwit("export", "--checkpoint", "model", "--format", form, "--out", f"weights-{form}")
    one.lacks("overlap", "overlap", "--run", "run", "--eval", "few=eval", "--out", "x")
    one.lacks("crawl", "crawl", "--queries", "queries.txt", "--source", "urls.csv", "--out", "x")


def everything(one: Environment, port: int) -> None:
    """The short demonstration, whole."""
    one.openwit(
        "demo", "--out", "demo", "--images", "64", "--sites", "16", "--train-minutes", "0.05",
        says="evaluation/report.html",
    )  # fmt: skip


def s3(one: Environment, port: int) -> None:
    """It asks the store, which has no such run."""
    store = {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
    }
    one.openwit("status", "--run", "s3://bucket/run", code=2, says="holds no run", env=store)
    one.lacks("crawl", "crawl")


def gcp(one: Environment, port: int) -> None:
    """It asks the store, which has no such run."""
    store = {"STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{port}"}
    one.openwit("status", "--run", "gs://bucket/run", code=2, says="holds no run", env=store)
    one.python("import apache_beam.runners.dataflow.dataflow_runner")
    one.lacks("crawl", "crawl")


# The order matters: the crawl makes what the others read, and `all` grows the environment that has torch.
DONE = {"crawl": crawl, "": core, "overlap": overlap, "s3": s3, "gcp": gcp, "train": train, "all": everything}


def built(base: Path, work: Path) -> Path:
    """Build the wheel with the C modules, and once more as on a machine without a compiler, without them."""
    run([sys.executable, "-m", "venv", str(base / "build")], work)
    pip = [str(base / "build/bin/python"), "-m", "pip", "--disable-pip-version-check"]
    gcc = shutil.which("gcc")
    modules = [file.stem for top in TOPS for file in (ROOT / top).rglob("*.c")] if gcc else []
    for folder, compiler, wanted in (("plain", "/nonexistent", []), ("dist", gcc or "gcc", modules)):
        source = (
            base / folder / "source"
        )  # anew each time: setuptools keeps what it has built beside the source
        source.mkdir(parents=True)
        for name in (*TOPS, "beam_job.py", "pyproject.toml", "README.md", "LICENSE", "NOTICE"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, source / name)
        argv = [*pip, "wheel", "--quiet", "--no-deps", "--wheel-dir", str(base / folder), str(source)]
        run(argv, work, env={"CC": compiler})
        (wheel,) = (base / folder).glob("openwit-*.whl")
        with zipfile.ZipFile(wheel) as members:
            named = members.namelist()
            held = [Path(name).name.partition(".")[0] for name in named if name.endswith(".so")]
        if sorted(held) != sorted(wanted):
            sys.exit(f"the wheel that {compiler} built holds {held}, not {wanted}")
        detector = {f"dedup/detector/lite.{ending}" for ending in ("safetensors", "md")}
        if lost := detector.difference(named):
            sys.exit(f"the wheel that {compiler} built lacks {sorted(lost)}")
    shutil.rmtree(base / "build")
    return wheel


def main(wanted: list[str]) -> None:
    """Build the wheel, and try each installation; ends with 1 at the first thing that is wrong."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="openwit-installs-") as temporary:
        base = Path(temporary)
        work = base / "empty"
        work.mkdir()
        wheel = built(base, work)
        with served(work) as port:
            for extra, check in DONE.items():
                if wanted and extra and extra not in {"crawl", *wanted}:
                    continue
                begun = time.monotonic()
                grown = extra == "all" and (base / "train").exists()
                one = Environment(base / ("train" if grown else extra or "core"), work, wheel)
                one.install(extra)
                installed = time.monotonic()
                one.helps()
                check(one, port)
                sys.stdout.write(
                    f"openwit{f'[{extra}]' if extra else ''}: installed in {installed - begun:.0f} s, "
                    f"tried in {time.monotonic() - installed:.0f} s\n"
                )
                sys.stdout.flush()
                if extra != "train" or (wanted and "all" not in wanted):
                    shutil.rmtree(one.folder)
    sys.stdout.write(f"every installation works: {(time.monotonic() - started) / 60:.1f} minutes\n")


if __name__ == "__main__":
    main(sys.argv[1:])
