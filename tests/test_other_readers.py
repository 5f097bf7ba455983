"""Shards open unchanged in the readers of others, which get the same keys, captions and pictures.

They are looked for in .peers/NAME, where `pip install --target .peers/NAME` puts a package:
webdataset-0.2.86, open_clip (open_clip_torch torchvision), energon (megatron-energon), webshart, litdata,
mteb. A test whose package is missing is skipped. test_shards.py has the newest webdataset, test_card.py has
`datasets`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.index.offsets import write_energon, write_webshart
from tests import eval_models, finished_run

pytestmark = pytest.mark.timeout(900)
ROOT = Path(__file__).resolve().parents[1]
EXPECTED = [[f"{n // 10:05d}{n % 10:04d}", f"a dog number {n}", [128, 96]] for n in range(13)]

WEBDATASET = """
import webdataset as wds
shards = wds.WebDataset("run/shards/{00000..00001}.tar", shardshuffle=False).decode("pil")
found = [[one["__key__"], one["txt"], one["jpg"].size] for one in shards]
"""
OPEN_CLIP = """
import argparse, torch
from open_clip_train.data import get_wds_dataset
args = argparse.Namespace(
    train_data="run/shards/{00000..00001}.tar", val_data=None, train_num_samples=13, batch_size=13, workers=1,
    world_size=1, seed=0, dataset_resampled=False, train_data_upsampling_factors=None, rank=0)
data = get_wds_dataset(args, lambda image: torch.tensor(image.size), True, tokenizer=lambda text: [text])
(pictures, texts), = list(data.dataloader)
number = lambda text: int(text.rpartition(" ")[2])
key = lambda text: f"{number(text) // 10:05d}{number(text) % 10:04d}"
found = sorted([key(text), text, size.tolist()] for size, text in zip(pictures, texts))
"""
ENERGON = """
import contextlib, io, pathlib
from megatron.energon import WorkerConfig, get_savable_loader, get_val_dataset
from megatron.energon.flavors import BaseWebdatasetFactory
with contextlib.redirect_stdout(io.StringIO()):
    BaseWebdatasetFactory.prepare_dataset(
        pathlib.Path("run/shards"), ["00000.tar", "00001.tar"], split_parts_ratio=[("val", 1.0)], workers=1)
for ours in pathlib.Path("energon").iterdir():  # of `openwit index --energon`: the same bytes
    theirs = pathlib.Path("run/shards", ours.name)
    assert theirs.read_bytes() == ours.read_bytes()
    theirs.unlink()
    ours.rename(theirs)
pathlib.Path("run/shards/.nv-meta/dataset.yaml").write_text(
    "__module__: megatron.energon\\n__class__: CaptioningWebdataset\\n"
    "field_map: {image: jpg, caption: txt}\\n")
worker = WorkerConfig(rank=0, world_size=1, num_workers=0)
batches = get_savable_loader(get_val_dataset("run/shards", batch_size=1, worker_config=worker))
key = lambda one: one.__key__[0].rpartition("/")[2]
found = sorted([key(one), one.caption[0], list(one.image.shape[:0:-1])[:2]] for one in batches)
"""
WEBSHART = """
import io, webshart
from PIL import Image
dataset = webshart.discover_dataset("run/shards", metadata="offsets")
found = []
for shard in range(dataset.num_shards):
    reader = dataset.open_shard(shard)
    files = {name: reader.read_file(n) for n, name in enumerate(reader.filenames())}
    for name in sorted(files):
        if name.endswith(".jpg"):
            text = bytes(files[name[:-3] + "txt"]).decode()
            found.append([name[:-4], text, Image.open(io.BytesIO(bytes(files[name]))).size])
"""
LITDATA = """
import io, tarfile, litdata
from PIL import Image
dataset = litdata.StreamingRawDataset("run/shards", cache_dir="cache")
found = []
for data in [dataset[n] for n in range(len(dataset))]:
    if len(data) > 512 and data[257:262] == b"ustar":
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            for name in tar.getnames():
                if name.endswith(".jpg"):
                    text = tar.extractfile(name[:-3] + "txt").read().decode()
                    found.append([name[:-4], text, Image.open(tar.extractfile(name)).size])
found.sort()
"""

MTEB = """
import pathlib, datasets, mteb, openwit
files = sorted(pathlib.Path("colours").rglob("*.jpg"))
names = sorted({path.parent.name for path in files})
features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=names)})
rows = {"img": [str(path) for path in files], "label": [names.index(path.parent.name) for path in files]}
task = mteb.get_task("CIFAR10ZeroShot")  # its form, with our pictures
task.dataset = {"test": datasets.Dataset.from_dict(rows, features=features)}
task.data_loaded = True
task.load_data = lambda *given, **named: None
task.unload_data = lambda: None
model = openwit.load_model("model", device="cpu")
(result,) = mteb.evaluate(model.for_mteb(), task, cache=None, show_progress_bar=False).task_results
labels = model.zero_shot(files, names, templates=["a photo of a {}."]).argmax(axis=1)
own = float((labels == rows["label"]).mean())
found = [result.scores["test"][0]["accuracy"], own, len(files)]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("readers")
    layout = finished_run.build(folder / "run", [f"a dog number {n}" for n in range(13)])
    tars = sorted(str(path) for path in Path(layout.shards).glob("*.tar"))
    write_webshart(tars, str(folder / "offsets"))
    write_energon(tars, str(folder / "energon"))
    eval_models.export(folder / "model", seed=2)
    eval_models.colours(folder / "colours", 6)
    return folder


def told(place: Path, peer: str, module: str, code: str) -> list[Any]:
    """Return the value of `found` after code has run with a peer's packages in front; skip without them."""
    folders = [ROOT / ".peers" / name for name in peer.split()]
    path = [str(ROOT), *map(str, folders)]
    if missing := next((folder.name for folder in folders if not folder.exists()), ""):
        pytest.skip(f"no {missing} in .peers")
    run = f"{code}\nimport json\nprint('found', json.dumps(found))"
    look = "import importlib.util, sys\nif importlib.util.find_spec(sys.argv[1]) is None: sys.exit(77)\n"
    done = subprocess.run(
        [sys.executable, "-c", look + run, module], cwd=place, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path), "HF_HUB_OFFLINE": "1", "HOME": str(place)},
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"no {module} for {peer}")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("found ")]
    found: list[Any] = json.loads(line.removeprefix("found "))
    return found


@pytest.mark.parametrize(
    ("peer", "module", "code"),
    [
        ("webdataset-0.2.86", "webdataset", WEBDATASET),
        ("open_clip webdataset-0.2.86", "torchvision", OPEN_CLIP),  # it asks for webdataset below 0.2.87
        ("energon", "megatron", ENERGON),
        ("webshart", "webshart", WEBSHART),
        ("litdata", "litdata", LITDATA),
    ],
    ids=["webdataset-0.2.86", "open_clip", "energon", "webshart", "litdata"],
)
def test_the_shards_open_elsewhere(place: Path, peer: str, module: str, code: str) -> None:
    assert told(place, peer, module, code) == EXPECTED


def test_mteb_measures_what_zero_shot_gives(place: Path) -> None:
    """One of MIEB's tasks, run by mteb itself."""
    measured, own, count = told(place, "mteb", "mteb", MTEB)
    assert count == 24 and measured == pytest.approx(own, abs=1e-9) and 0 < own < 1
