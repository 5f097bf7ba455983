"""`import openwit`: every name has an example that runs, and so has every snippet of docs/python.md."""

import doctest
import functools
import http.server
import inspect
import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pytest

import openwit
from pipeline import balance, dropped_samples, extras, schemas, transforms
from tests import eval_models, finished_run, train_shards
from tests.scenes import jpeg, scene

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).resolve().parents[1]
DOCUMENTED = (ROOT / "docs" / "python.md").read_text()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serve a folder without a log."""

    def log_message(self, *args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all that the examples name: a run, a model, an evaluation set, a list and its web."""
    folder = tmp_path_factory.mktemp("python")
    finished_run.build(folder / "run", [f"a dog number {n}" for n in range(13)])
    eval_models.export(folder / "model")
    for number, shade in enumerate((0, 1, 77)):  # the first two are in the run
        (folder / "copies" / "scene").mkdir(parents=True, exist_ok=True)
        (folder / "copies" / "scene" / f"{number}.jpg").write_bytes(jpeg(scene(shade, 96, 128), 80))
    (folder / "queries.txt").write_text("red house\nlake\n")
    (folder / "list.csv").write_text("url,caption\nhttp://example.com/1.jpg,a red house at the lake\n")
    (folder / "web").mkdir()
    (folder / "web" / "1.jpg").write_bytes(jpeg(scene(5)))
    handler = functools.partial(Quiet, directory=str(folder / "web"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/1.jpg"
        (folder / "urls.csv").write_text(f"url,caption\n{address},a red house at the lake\n")
        yield folder
        server.shutdown()


@pytest.fixture
def inside(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_the_names_are_few_and_documented() -> None:
    assert openwit.__all__ == sorted(openwit.__all__, key=lambda name: (name[0].islower(), name))
    assert len(openwit.__all__) <= 21 and set(openwit.__all__) < set(dir(openwit))
    for name in openwit.__all__:
        assert re.search(rf"^\| `{name}\b", DOCUMENTED, re.MULTILINE), f"{name} is not in docs/python.md"
    assert openwit.__version__


TRANSFORMED = ("Sample", "Picture", "Rejected")
"""Elements of the transforms, which docs/transforms.md names."""


def examples_of(one: object, name: str) -> list[doctest.DocTest]:
    """Return the examples of an object and of its methods, in its module's own names."""
    names = {"openwit": openwit, "beam": beam}
    finder = doctest.DocTestFinder(recurse=bool(name))
    return finder.find(one, name or "openwit", module=inspect.getmodule(one), extraglobs=names)


@pytest.mark.parametrize("name", [*openwit.__all__, *(f"transforms.{name}" for name in TRANSFORMED), ""])
def test_every_name_has_an_example_that_runs(name: str, inside: Path) -> None:
    kind, _, short = name.rpartition(".")
    one = getattr(transforms if kind else openwit, short) if name else openwit
    found = examples_of(one, short)
    tests = [test for test in found if test.examples]
    assert tests or f"openwit.{name}(" in str(openwit.__doc__), "no example"
    for test in tests:
        said: list[str] = []
        result = doctest.DocTestRunner().run(test, out=said.append)
        assert not result.failed, "".join(said)


def test_every_public_method_has_an_example() -> None:
    """Options, whose fields are documented, and Beam's own `expand` need none."""
    bare = [
        test.name
        for one in (openwit.Dataset, openwit.Sample, openwit.Model, openwit.Reader, openwit.Matcher)
        for test in examples_of(one, one.__name__)
        if not test.examples and not test.name.rpartition(".")[2].startswith("_")
    ]
    assert not bare


def test_the_documented_snippets_run_in_order(inside: Path) -> None:
    names: dict[str, object] = {}
    snippets = re.findall(r"^```python\n(.*?)^```$", DOCUMENTED, re.MULTILINE | re.DOTALL)
    assert len(snippets) >= 6
    for code in snippets:
        exec(code.replace('contact="you@example.org"', 'allow_network=("127.0.0.0/8",)'), names)


LAZY = """
import sys, json
before = set(sys.modules)
import openwit
openwit.open, openwit.Dataset, openwit.balance, dir(openwit)
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def test_importing_openwit_imports_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=True)
    own = {*sys.stdlib_module_names, "openwit"}
    assert not set(json.loads(done.stdout)) - own


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extras, "is_installed", lambda package: package != "torch")
    openwit.__dict__.pop("Reader", None)
    with pytest.raises(ImportError, match=r"openwit\.Reader needs torch: pip install 'openwit\[train\]'"):
        openwit.Reader  # noqa: B018
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        openwit.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_a_webdataset_opens_as_a_run_does(tmp_path: Path) -> None:
    train_shards.write(tmp_path / "0.tar", range(5))
    dataset = openwit.open(str(tmp_path / "*.tar"))
    first = next(dataset.samples())
    assert (first.key, first.caption) == ("000000000", "a photo of red 0") and len(first.captions) == 2
    assert len(dataset) == 5 and first.picture().size == (40, 32)
    assert [one.key for one in dataset.query("BLUE paint")] == ["000000002"]
    rows = dataset.table(["uid", "caption"]).to_pylist()
    assert rows[4] == {"uid": f"{4:032x}", "caption": "a photo of red 4"}
    with pytest.raises(ValueError, match="no column captoin; did you mean caption"):
        dataset.table(["captoin"])
    with pytest.raises(ValueError, match="not a run of openwit: it has no rejected rows"):
        dataset.rejected()
    with pytest.raises(ValueError, match=r"no finished run, and no \.tar files"):
        openwit.open(str(tmp_path / "nothing"))


def test_what_an_extension_dropped_is_not_there(place: Path, tmp_path: Path) -> None:
    run = shutil.copytree(place / "run", tmp_path / "run")
    row = {"uid": "000000003", "key": "000000003", "shard": "00000", "reason": "over_cap", "captions": 1}
    dropped = pa.Table.from_pylist([{**row, "extension": 1}], schema=dropped_samples.ROWS)
    schemas.write_table(str(run / dropped_samples.FILE), dropped)
    found = json.loads((run / "manifest.json").read_text())
    found["extensions"] = [{"source": ["x"], "sources": {}, "fingerprints": {}}]
    (run / "manifest.json").write_text(json.dumps(found))
    keys = [f"00000{n:04d}" for n in range(10) if n != 3] + [f"00001{n:04d}" for n in range(3)]
    assert [sample.key for sample in openwit.open(str(run)).samples()] == keys
    table = openwit.open(str(run)).table(["query_ids", "key"])
    assert table["key"].to_pylist() == keys and table.column_names == ["query_ids", "key"]


def test_balance_is_that_of_the_transform() -> None:
    """As `test_each_query_keeps_its_smallest` computes it, one priority after the other."""
    queries = ["red house", "lake", "boat"]
    uids = [openwit.uid(f"http://h.example/{n}.jpg") for n in range(200)]
    matches = [sorted({n % 3, n % 2}) for n in range(200)]
    hashes = balance.query_hashes(queries, 7)
    expected: list[list[int]] = [[] for _ in uids]
    for query in range(3):
        mine = [n for n in range(200) if query in matches[n]]
        high = np.array([int(uids[n][:16], 16) for n in mine], np.uint64)
        priority = balance.priorities(high, np.full(len(mine), hashes[query]))
        for place in np.argsort(priority)[:9]:
            expected[mine[place]].append(query)
    assert openwit.balance(uids, matches, queries, per_query=9, seed=7) == expected
    assert openwit.balance(uids, matches, queries) == matches and openwit.balance([], [], queries) == []
    with pytest.raises(ValueError, match="the numbers of queries, 0 to 2"):
        openwit.balance(uids[:1], [[3]], queries)


def test_a_model_takes_pictures_in_every_form(inside: Path) -> None:
    from PIL import Image

    model = openwit.load_model("model", device="cpu")
    path = inside / "copies" / "scene" / "0.jpg"
    with Image.open(path) as opened:
        picture = opened.convert("RGB")
    found = model.encode_image([path, str(path), path.read_bytes(), picture, np.asarray(picture)])
    assert found.dtype == np.float32 and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.abs(found[1:3] - found[0]).max() == 0
    assert np.abs(found[3:] - found[0]).max() < 2e-2, "another decoder of JPEG"
    with pytest.raises(ValueError, match="image 1 cannot be decoded"):
        model.encode_image([path.read_bytes(), b"no picture"])
    with pytest.raises(ValueError, match="a list of images"):
        model.encode_image(str(path))
    with pytest.raises(ValueError, match="a list of texts"):
        model.encode_text("a dog")
    assert model.encode_image([]).shape == (0, model.dims) == model.encode_text([]).shape


def test_options_of_commands_are_checked_by_name(inside: Path) -> None:
    with pytest.raises(ValueError, match="there is no option imagesize; did you mean image_size"):
        openwit.crawl("x", queries="queries.txt", source="urls.csv", imagesize=3)
    with pytest.raises(ValueError, match="contact"):
        openwit.crawl("x", queries="queries.txt", source="list.csv")
    with pytest.raises(ValueError, match=r"Expected `int`, got `str`"):
        openwit.crawl("x", queries="queries.txt", source="list.csv", image_size="large")
    assert not Path("x").exists()
