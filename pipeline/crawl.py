"""The state that the stages of one crawl share, and the sums over their results."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline import schemas
from pipeline.flow.markers import read_vector
from pipeline.http.user_agent import NO_CONTACT, requires_contact
from pipeline.options import CrawlConfig, FetchOptions
from pipeline.run_folder import Layout
from pipeline.select.parts import CaptionFiles
from pipeline.select.workers import QueryTable

if TYPE_CHECKING:
    from pipeline.extend.steps import Base

# A slice of fewer rows is mostly headers; tables are gathered until the average slice has that many.
SLICE_ROWS = 200


@dataclass(frozen=True)
class Crawl:
    """The state that all steps of a crawl share; small and picklable, since steps are planned on workers."""

    config: CrawlConfig
    layout: Layout
    queries: QueryTable
    base: "Base | None" = None  # the run that is extended

    def partitions(self, rows: int) -> int:
        """Return how many partitions hold that many rows."""
        return max(1, -(-rows // self.config.partition_rows))


def require_contact(options: FetchOptions, units: list[str], column: str = "fetch_url") -> None:
    """Raise ValueError if somebody else's host is to be fetched and nobody could say to whom it belongs."""
    for path in [] if options.contact else units:
        references = schemas.read_table(path, [column])[column].to_pylist()
        if requires_contact(references, options.allow_network):
            raise ValueError(f"{NO_CONTACT}; the same command then continues")


def gather(files: Iterable[tuple[str, int]], rows: int) -> list[CaptionFiles]:
    """Group (path, rows) files of captions into split tasks of at least that many rows."""
    tasks: list[CaptionFiles] = []
    batch: list[str] = []
    total = 0
    for path, count in files:
        batch.append(path)
        total += count
        if total >= rows:
            tasks.append(CaptionFiles(name=f"{len(tasks):06d}", paths=tuple(batch)))
            batch, total = [], 0
    return [*tasks, CaptionFiles(name=f"{len(tasks):06d}", paths=tuple(batch))] if batch else tasks


def add_counts(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Return the sum of dictionaries of counts, sorted by key."""
    total: dict[str, int] = {}
    for part in counts:
        for key, value in part.items():
            total[key] = total.get(key, 0) + value
    return dict(sorted(total.items()))


def add_vectors(paths: Iterable[str], queries: int, rows: int) -> np.ndarray:
    """Return the sum of count files, int64 [rows, Q]."""
    total = np.zeros((rows, queries), np.int64)
    for path in paths:
        total += read_vector(path)
    return total
