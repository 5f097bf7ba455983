"""Every job that runs on Beam, on small inputs: for tests and benchmarks of runners."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dedup.cli import main as overlap
from dedup.detector.cli import embed_main as embed
from pipeline.cli import main as crawl
from pipeline.data.views import squeeze
from pipeline.demo.web import Web
from queries.cli import main as queries
from tests.crawling import arguments, contents, settle
from tests.queries_dump import Written, write_multistream
from tests.scenes import sample, scene, write_folder, write_run
from tests.test_queries_wordnet import write_wordnet

COMMANDS = {"queries": queries, "crawl": crawl, "overlap": overlap, "embed": embed}
QUICK = ("queries", "crawl", "overlap")
"""Those without torch, whose import takes every worker seconds."""
_URLS = 60
_SHARDS, _PICTURES = 4, 3


def write_inputs(root: Path, web: Web) -> None:
    """Write the inputs of the jobs: a table of URLs of the web, an encyclopedia, an evaluation set."""
    settle(web)
    pq.write_table(pq.read_table(web.folder / "urls.parquet").slice(0, _URLS), root / "urls.parquet")
    (root / "wordnet").mkdir()
    write_wordnet(root / "wordnet")
    articles = [
        Written("Taxi", "A yellow taxi is a car in New York. " * 9),
        Written("Car", "A car. " * 9),
    ]
    write_multistream(root, articles, 2)
    (root / "pageviews-20260101-user").write_text("en Taxi 900 0\nen Car 500 0\n")
    write_folder(root / "eval", {f"a/{n}.jpg": scene(n) for n in range(3)})


def write_photos(root: Path) -> None:
    """Write the inputs of `embed`: several shards of a run, and a small detector that has learned nothing."""
    import torch

    from dedup.detector import detector_file
    from dedup.detector.model import DetectorNetwork, ResNetArchitecture
    from dedup.detector.normalise import Normaliser

    write_run(root / "photos", [
        [sample(f"{shard:05d}{n:04d}", scene(_PICTURES * shard + n), f"https://a.test/{shard}/{n}.jpg", "")
         for n in range(_PICTURES)]
        for shard in range(_SHARDS)
    ])  # fmt: skip
    thumbs = np.stack([squeeze(scene(n), 32) for n in range(300, 320)])
    sizes = ResNetArchitecture(side=32, layers=(1, 1, 1, 1), width=8, dims=16)
    network = DetectorNetwork(sizes).initialise(0, torch.from_numpy(thumbs)).eval()
    path = str(root / "detector.safetensors")
    detector_file.write(path, network, Normaliser.fit(network.embed(thumbs)), {})


def arguments_of(job: str, root: Path, web: Web, out: Path) -> list[str]:
    """Return the arguments of one job that reads from `root` and writes below `out`."""
    if job == "queries":
        dump = next(root.glob("*multistream.xml.bz2"))
        return [
            "--wordnet", str(root / "wordnet"), "--wikipedia", str(dump), "--min-count", "2",
            "--pageviews", str(root / "pageviews-*"), "--size", "60", "--min-bigram-count", "2",
            "--out", str(out / "queries.parquet"),
        ]  # fmt: skip
    if job == "crawl":
        argv = arguments(web, out / "run", "--lang", "any", "--unit-images", "30", "--rounds", "1")
        argv[argv.index(str(web.warc))] = str(root / "urls.parquet")
        return argv
    if job == "embed":  # several shards to describe, and pieces of a set to search for
        photos = f"{root}/photos/shards/*.tar"
        return [
            "--run", str(root / "photos"), "--eval", f"e={root}/eval", "--eval", f"photos={photos}",
            "--detector", str(root / "detector.safetensors"), "--neighbours", "4",
            "--out", str(out / "embedded"),
        ]  # fmt: skip
    return [
        "--run", str(root / "run"), "--eval", f"e={root}/eval", "--planted", "1",
        "--out", str(out / "overlap"),
    ]  # fmt: skip


def run(job: str, root: Path, web: Web, out: Path, *more: str) -> None:
    """Run one job to its end; `overlap` reads the files of the first `crawl`."""
    out.mkdir(exist_ok=True)
    if job == "embed" and not (root / "photos").exists():
        write_photos(root)
    assert COMMANDS[job]([*arguments_of(job, root, web, out), *more]) == 0
    if job == "crawl" and not (root / "run").exists():
        (root / "run").symlink_to(out / "run")


def written(job: str, out: Path) -> dict[str, Any]:
    """Return the files of a job that must be the same whatever the runner and the workers."""
    if job == "queries":
        return {"queries.parquet": (out / "queries.parquet").read_bytes()}
    if job == "crawl":
        return contents(out / "run")
    if job == "embed":
        folder = out / "embedded"
        files = [folder / "neighbours.parquet", *folder.glob("eval/*"), *folder.glob("shards/*")]
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}
    names = ("matches.parquet", "report.json", "clean/e.txt")
    return {name: (out / "overlap" / name).read_bytes() for name in names}
