"""The sizes of shuffles at the extremes: one row, a laptop's, a whole Common Crawl on a cluster."""

from types import SimpleNamespace
from typing import cast

import pytest

from pipeline.crawl import SLICE_ROWS, Crawl, gather
from pipeline.options import CrawlConfig

WATS = 90_000  # of one Common Crawl


def job(partition_rows: int = 1_000_000) -> Crawl:
    config = cast(CrawlConfig, SimpleNamespace(partition_rows=partition_rows))
    return Crawl(config, None, None)  # type: ignore[arg-type]


@pytest.mark.parametrize("rows", [0, 1, 10**5, 10**8, 4 * 10**9])
def test_partitions_are_bounded_and_slices_are_not_mostly_headers(rows: int) -> None:
    partitions = job().partitions(rows)
    assert rows <= partitions * 1_000_000 < rows + 2_000_000
    files = [(f"{n}.parquet", rows // WATS + (n < rows % WATS)) for n in range(WATS)]
    tasks = gather(files, SLICE_ROWS * partitions)
    sizes = dict(files)
    held = [sum(sizes[path] for path in task.paths) for task in tasks]
    assert [path for task in tasks for path in task.paths] == list(sizes)  # each once, in order
    # All but the last give every partition of the graph 200 rows or more on average...
    assert all(size >= SLICE_ROWS * partitions for size in held[:-1])
    # ...and no task holds more than that and one file: at 4e9 rows 0.85 million, some 200 MB as Arrow.
    assert max(held) < SLICE_ROWS * partitions + max(sizes.values()) + 1
    assert max(held) <= 1_000_000
    # The lists of a launcher stay small: fewer slices than rows / 200.
    assert len(tasks) * partitions <= rows / SLICE_ROWS + 2 * partitions or rows < WATS * SLICE_ROWS
