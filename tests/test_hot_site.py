"""A site with most of all images: no partition gets more of it than a round can ask it for."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline import querylist, schemas
from pipeline.fetch.parts import Fetched
from pipeline.fetch.units import UnitShuffler
from pipeline.flow.markers import write_vector
from pipeline.options import FetchOptions
from pipeline.options.fetch import UnitLimits
from pipeline.select.parts import Samples
from pipeline.select.workers import QueryTable
from tests.rows import caption_table, uid_of

IMAGES, ROUND, FILES, PARTITIONS = 3_000, 50, 5, 8


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """Return files of samples, cut by uid as select cuts them: 3,000 images of one site, 300 of others."""
    urls = [f"https://hot.example/{i}.jpg" for i in range(IMAGES)]
    urls += [f"https://site{i % 100}.example/{i}.jpg" for i in range(300)]
    table = schemas.sort_rows(caption_table([(url, "a caption", [0]) for url in urls]))
    paths = [str(tmp_path / f"samples-{number}.parquet") for number in range(FILES)]
    for path, rows in zip(paths, np.array_split(np.arange(len(table)), FILES), strict=True):
        schemas.write_table(path, table.take(pa.array(rows)))
    return paths


def samples(path: str) -> Samples:
    """Return the part of a file of samples, of which the shuffler reads the path alone."""
    return Samples(name="", path=path, rejects="", counts="", rows=0, samples=0, rejected={})


def shuffler(folder: Path, number: int = 0) -> UnitShuffler:
    querylist.save(str(folder / "queries.parquet"), ["q"])
    write_vector(str(folder / "thresholds"), np.array([2**64 - 1], np.uint64))
    write_vector(str(folder / "arrived"), np.array([2**64 - 1], np.uint64))
    return UnitShuffler(
        folder=str(folder / "units"),
        queries=QueryTable(path=str(folder / "queries.parquet"), seed=0, queries=1),
        fetch=FetchOptions(contact="a@b.test", host_delay=1.0),
        limits=UnitLimits(unit_images=20, unit_seconds=ROUND), number=number,
        thresholds=str(folder / "thresholds"), arrived=str(folder / "arrived"),
    )  # fmt: skip


def cut(
    one: UnitShuffler, tasks: list[Samples | Fetched], partitions: int
) -> tuple[list[str], dict[str, int], int]:
    """Shuffle; return the units' files, the lanes of each image, and the most rows of a partition."""
    slices = defaultdict(list)
    for task in tasks:
        for partition, data in one.split(task, partitions):
            slices[partition].append(data)
    paths, lanes = [], {}
    for partition, data in sorted(slices.items()):
        for unit in one.reduce(partition, data).units:
            paths.append(unit.path)
            table = schemas.read_table(paths[-1])
            assert unit.images == len(table)
            assert table["uid"].to_pylist() == sorted(table["uid"].to_pylist())
            lanes |= dict(zip(table["url"].to_pylist(), table["lanes"].to_pylist(), strict=True))
    return paths, lanes, max(sum(len(schemas.decode(part)) for part in data) for data in slices.values())


def test_what_a_round_asks_a_hot_site_for_does_not_depend_on_the_cut(
    files: list[str], tmp_path: Path
) -> None:
    _, lanes, largest = cut(shuffler(tmp_path), [samples(path) for path in files], PARTITIONS)
    hot = {url for url in lanes if "hot" in url}
    assert len(hot) == IMAGES and len(lanes) == IMAGES + 300
    first = sorted(hot, key=uid_of)[:ROUND]
    assert {url for url in hot if lanes[url]} == set(first)
    assert all(lanes[url] == 1 for url in lanes if "hot" not in url)
    # 50 images of each file travel to the site's partition; the others are spread, 344 a partition.
    assert largest <= FILES * ROUND + 1.5 * (IMAGES + 300) / PARTITIONS
    assert cut(shuffler(tmp_path), [samples(path) for path in files], 1)[1] == lanes
    rows = pa.concat_tables([schemas.read_table(path) for path in files])
    whole = str(tmp_path / "whole.parquet")
    schemas.write_table(whole, rows)
    assert cut(shuffler(tmp_path), [samples(whole)], PARTITIONS)[1] == lanes


def test_the_next_round_gets_a_hot_sites_next_images(files: list[str], tmp_path: Path) -> None:
    paths, lanes, _ = cut(shuffler(tmp_path), [samples(path) for path in files], PARTITIONS)
    tasks = []
    for path in paths:
        unit = schemas.read_table(path)
        reasons = ["" if lane else "deferred" for lane in unit["lanes"].to_pylist()]
        fetched = pa.table(
            {"uid": unit["uid"], "reason": reasons, "final_url": pa.array([""] * len(unit), pa.string())}
        )
        schemas.write_table(f"{path}.fetched", fetched)
        one = Fetched(
            name="", unit=path, path=f"{path}.fetched", blob="", log="", images=len(unit), bytes=0,
            seconds=0.0, reasons={},
        )  # fmt: skip
        tasks.append(one)
    _, again, largest = cut(shuffler(tmp_path, 1), tasks, PARTITIONS)
    assert set(again) == {url for url, lane in lanes.items() if not lane}
    order = sorted(again, key=uid_of)
    assert {url for url in again if again[url]} == set(order[:ROUND])
    assert largest <= PARTITIONS * ROUND + 1.5 * IMAGES / PARTITIONS
