"""The commands of README, tutorials and recipes run, with --check where one needs the web or hours.

They run in one folder that holds every file they name, the entry point's own function in this process.
"""

import gzip
import logging
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import beam_job
from pipeline import reference
from pipeline.data import architectures
from pipeline.demo.server import serve
from pipeline.demo.web import Web, build

pytest.importorskip("apache_beam")
torch = pytest.importorskip("torch")

from tests import eval_models, queries_dump, train_shards  # noqa: E402
from tests.crawling import settle  # noqa: E402
from tests.test_queries_wordnet import write_wordnet  # noqa: E402
from tests.test_sources_archive import dump, img, record, wat_json  # noqa: E402

pytestmark = pytest.mark.timeout(600)

ROOT: Final = Path(__file__).resolve().parents[1]
PAGES: Final = ("README.md", "docs/howto.md", "docs/start.md", "docs/cost.md", "docs/tutorials")
"""The pages whose commands run; those of all others are parsed, by tests/test_docs_site.py."""
README: Final = "\n".join(
    path.read_text()
    for name in PAGES
    for path in ([ROOT / name] if name.endswith(".md") else sorted((ROOT / name).glob("*.md")))
)
FENCES: Final = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
LINES: Final = [
    line
    for language, block in FENCES
    if language in ("bash", "sh", "shell", "console")
    for line in block.replace("\\\n", " ").splitlines()
    if line.strip()
]
ONE_PLACE: Final = {
    " help ": "tests/test_docs.py",
    " push ": "tests/test_hub.py has a Hub",
    " pull ": "the same",
    " --retry-failed": "tests/test_retry.py has failures to try again",
}
"""Commands that are tested elsewhere."""
COMMANDS: Final = [
    line
    for line in dict.fromkeys(LINES)
    if line.startswith("openwit ") and not any(part in line for part in ONE_PLACE)
]

ELSEWHERE: Final = {
    "make demo": "tests/test_demo.py runs what it runs",
    "make test": "runs this test",
    "pip install 'openwit[crawl]'": ".ci/installs.py does, from the wheel",
    "python3 -m venv env": "the same",
    ". env/bin/activate": "the same",
    "python beam_job.py crawl --config dataflow.toml": "tests/test_running_docs.py parses it",
}
CHECKED: Final = {
    "crawl": "asks the web; the first one makes this folder's run, on a web of its own",
    "queries": "reads 25 GB; tests/test_queries_cli.py builds small lists",
    "browse": "serves until Ctrl-C; tests/test_browse.py asks it",
    "train": "takes GPUs; tests/test_train_loop.py trains small models",
    "detector train": "takes hours; tests/test_detector_train.py trains small ones",
}
"""Commands that run with --check, and must then write nothing."""
SMALLER: Final = {
    "train": ["--batch-size", "8"],
    "detector train": ["--batch-size", "8"],
    "overlap": ["--planted", "1", "--workers", "1"],
    "eval": ["--workers", "2"],
    "plan": ["--per-query", "100000000", "--host-delay", "0"],  # its pilot is of four sites
}
"""Changes that fit commands to thirty images, or let them take less time."""
ON_LOOPBACK: Final = ["--allow-network", "127.0.0.0/8", "--workers", "1", "--samples-per-shard", "20"]


def split(line: str) -> tuple[str, list[str]]:
    """Return a line's command, of one word or two, and its arguments."""
    words = shlex.split(line, comments=True)[1:]
    length = 1 if words[0] in reference.CONFIGS else 2
    return " ".join(words[:length]), words[length:]


@pytest.fixture(scope="module", autouse=True)
def as_it_was() -> Iterator[None]:
    """Undo settings that commands make for a whole process: they expect a process of their own."""
    root = logging.getLogger()
    before = root.handlers[:], root.level, torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    root.handlers[:], level, threads = before
    root.setLevel(level)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder in which every path of README's commands is."""
    root = tmp_path_factory.mktemp("readme")
    web = build(root / "web", seed=1, n_images=60, n_sites=12, evaluation_sets=False)
    write_sources(root, web)
    write_sets(root)
    train_shards.write(root / "other" / "00000.tar", range(12))
    for number in range(1, 42):
        shutil.copy(root / "other" / "00000.tar", root / "other" / f"{number:05d}.tar")
    eval_models.training_run(root / "model")
    eval_models.export(root / "downloads" / "ViT-B-32", seed=1)
    with pytest.MonkeyPatch.context() as patch, serve(web):
        patch.chdir(root)
        settle(web)
        name, argv = split(COMMANDS[0])
        assert (name == "crawl" and argv[-6:-4] == ["--out", "run"]) or "run" in argv
        assert beam_job.main([name, *argv, *ON_LOOPBACK]) == 0
        assert beam_job.main(["score", "--run", "run", "--scorer", "clip-score=model", "--workers", "1"]) == 0
    shutil.copytree(root / "run", root / "pilot")
    return root


def write_sources(root: Path, web: Web) -> None:
    """Write queries, and a source of each kind."""
    for name in ("queries.txt", "urls.parquet", "pages.txt"):
        shutil.copy(web.folder / name, root / name)
    (root / "urls.csv").write_text("url,caption\nhttp://example.org/a.jpg,a red fox\n")
    shutil.copy(web.folder / "urls.parquet", root / "more.parquet")
    pq.write_table(pa.table({"query": ["dog", "red fox"]}), root / "queries.parquet")
    shutil.copy(web.warc, root / "pages.warc.gz")
    links = dump(wat_json([img("a.jpg", alt="a red fox")]))
    wat = record("metadata", "http://example.com/", links, "application/json")
    (root / "CC-MAIN-20240518.warc.wat.gz").write_bytes(gzip.compress(wat))
    paths = "".join(f"crawl-data/CC-MAIN-2024-22/{n}.warc.wat.gz\n" for n in range(3000))
    (root / "wat.paths.gz").write_bytes(gzip.compress(paths.encode()))
    shutil.copytree(web.folder / "sites" / web.sites[0].name, root / "site")
    dumps = root / "dumps"
    dumps.mkdir()
    pages = [queries_dump.Written("Red fox", "the red fox and the hen"), queries_dump.Written("Hen")]
    multistream, _ = queries_dump.write_multistream(dumps, pages, 1)
    for path in (multistream, multistream.with_name(multistream.name.replace(".xml.", "-index.txt."))):
        if path.exists():
            path.rename(path.with_name(path.name.replace("testwiki", "enwiki")))
    (dumps / "pageviews-20240518-user.bz2").write_bytes(b"")
    (root / "wordnet").mkdir()
    write_wordnet(root / "wordnet")
    (root / "answers.toml").write_text('provider = "Example Ltd, ai@example.org"\n')


def write_sets(root: Path) -> None:
    """Write evaluation sets of each form, and a model's predictions for one of them."""
    sets = root / "eval"
    for name, each, first in (("cifar10", 3, 0), ("cifar10-train", 8, 100), ("pets", 6, 200),
                              ("pets-train", 20, 300)):  # fmt: skip
        eval_models.colours(sets / name, each, first)
    colours = [colour for colour in eval_models.COLOURS for _ in range(3)]
    pictures = [train_shards.jpeg(colour, seed=500 + n) for n, colour in enumerate(colours)]
    pq.write_table(pa.table({"image": pictures, "label": colours}), sets / "pets.parquet")
    train_shards.write(root / "coco" / "00000.tar", range(12))
    ids = [path.relative_to(sets / "pets").as_posix() for path in sorted((sets / "pets").glob("*/*"))]
    said = root / "evaluation" / "predictions" / "pets.parquet"
    said.parent.mkdir(parents=True)
    pq.write_table(pa.table({"example_id": ids, "correct": [True] * len(ids)}), said)


def contents(root: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of every file."""
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_no_command_of_the_readme_is_left_out() -> None:
    others = {line for line in set(LINES) - set(COMMANDS) if not any(part in line for part in ONE_PLACE)}
    assert {line.partition("#")[0].strip() for line in others} == set(ELSEWHERE)
    shown = [block for language, block in FENCES if language not in ("bash", "sh", "shell", "console")]
    assert not re.findall(r"^(?:\$ )?(?:openwit|make|python|torchrun|pip) ", "".join(shown), re.MULTILINE)
    assert {split(line)[0] for line in COMMANDS} == set(reference.CONFIGS) - {"demo", "push", "pull"}


def test_speeds_are_those_of_the_benchmarks() -> None:
    """The README's table takes its figures from the first table of docs/benchmarks.md."""
    speeds = [line for line in (ROOT / "README.md").read_text().splitlines() if "**" in line and "|" in line]
    figures = [
        one for line in speeds for one in re.findall(r"[\d,.]*\d(?= ?(?:s\b|MB/s|captions/s|/s))", line)
    ]
    table = (ROOT / "docs" / "benchmarks.md").read_text().split("\n## ")[1]
    known = set(re.findall(r"[\d,.]*\d", table))
    assert len(figures) >= 9
    assert not {*figures} - known


def test_every_option_in_the_text_exists() -> None:
    known = {
        option.flag for name in reference.CONFIGS for option in reference.options(reference.config_of(name))
    }
    known |= {flag.replace("--", "--no-", 1) for flag in known}
    known |= {
        "--help",
        "--help-all",
        "--config",
        "--quiet",
        "--verbose",
        "--runner",
        "--nproc-per-node",
        "--no-deps",
    }
    assert set(re.findall(r"(?<!\S|-)`?(--[a-z][a-z0-9-]*)", README)) <= known


@pytest.mark.parametrize(
    "line", COMMANDS, ids=[f"{n}-{split(line)[0]}" for n, line in enumerate(COMMANDS, 1)]
)
def test_every_command_of_the_readme_runs(
    line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    name, argv = split(line.replace("/usr/share/wordnet", "wordnet"))
    argv = [*name.split(), *argv, *SMALLER.get(name, [])]
    if name not in CHECKED:
        assert beam_job.main(argv) == 0, capfd.readouterr().err
        return
    if name == "crawl" and "--out" in argv:  # each is the first of its reader, in a folder of its own
        argv[argv.index("--out") + 1] = "new"
    if (
        name == "train" and "--init-from" in argv
    ):  # its weights are the small ones that stand for the download
        small = replace(eval_models.model().architecture, logit_bias="siglip" in argv)
        monkeypatch.setitem(architectures.ARCHITECTURES, argv[argv.index("--model") + 1], small)
    before = contents(folder)
    assert beam_job.main([*argv, "--check"]) == 0, capfd.readouterr().err
    assert contents(folder) == before
    assert re.search(r"^(out|run) = ", capfd.readouterr().out, re.MULTILINE), "the effective configuration"
