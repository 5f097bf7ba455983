"""The pairs of an overlap report: which training image shows which evaluation image, at any threshold."""

import functools
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage, untrusted

_COLUMNS: Final = [
    "dataset", "example_id", "uid", "url", "similarity", "verified", "refused", "view", "mirrored", "caption",
]  # fmt: skip
_BINS: Final = 60
_BATCH: Final = 65_536  # rows


class Pairs:
    """The best pair of each example of a report, by falling similarity; the report's folder is only read."""

    def __init__(self, folder: str) -> None:
        """ValueError if the folder holds no report."""
        self.folder = folder.rstrip("/")
        path = storage.join(self.folder, "matches.parquet")
        if not storage.exists(path):
            raise ValueError(
                f"{folder}: no overlap report; openwit overlap --run RUN --out {folder} writes one"
            )
        tables = list(_best(path))
        self._table = pa.concat_tables(tables).sort_by(
            [("dataset", "ascending"), ("similarity", "descending"), ("example_id", "ascending")]
        )
        report = untrusted.load_json(storage.join(self.folder, "report.json"))
        found = report.get("datasets") if isinstance(report, dict) else None
        self._sets = [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []

    def sets(self) -> list[dict[str, Any]]:
        """Return each set's name, examples, threshold, and its verified pairs by similarity."""
        return [
            {
                "name": one.get("name"), "examples": one.get("examples"), "threshold": one.get("threshold"),
                **self._counts(str(one.get("name")), one.get("threshold")),
            }
            for one in self._sets
        ]  # fmt: skip

    def _counts(self, name: str, threshold: object) -> dict[str, Any]:
        table = self._of(name)
        similarity = table["similarity"].to_numpy()
        lowest = [*similarity.tolist()[-1:], *([threshold] if isinstance(threshold, int | float) else [])]
        low = float(np.floor(min(lowest, default=0.0) * 100) / 100)
        edges = np.linspace(low, 1.0, _BINS + 1)
        verified = table["verified"].to_numpy(zero_copy_only=False)
        counts, _ = np.histogram(np.clip(similarity[verified], low, 1.0), edges)
        return {"low": low, "pairs": len(table), "bins": counts.tolist()}

    def page(self, name: str, most: float, before: int, offset: int, limit: int) -> dict[str, Any]:
        """Return pairs of a set, the most similar first: those of at most `most`, after `before` others."""
        table = self._of(name)
        similarity: npt.NDArray[np.float32] = table["similarity"].to_numpy()
        start = max(0, int(np.searchsorted(-similarity, -most, side="left")) - before) + offset
        verified = table["verified"].to_numpy(zero_copy_only=False)
        above = int((verified & (similarity >= most)).sum())
        return {"total": len(table), "above": above, "pairs": table.slice(start, limit).to_pylist()}

    def _of(self, name: str) -> pa.Table:
        names = self._table["dataset"]
        return self._table.filter(pc.equal(names, name))

    def picture(self, name: str, example: str) -> bytes:
        """Return an evaluation picture as the report's work keeps it; LookupError if it does not."""
        place = self._places.get((name, example))
        if place is None:
            raise LookupError("no such picture")
        path, offset, length = place
        return storage.read_ranges([(path, offset, offset + length)])[0]

    @functools.cached_property
    def _places(self) -> dict[tuple[str, str], tuple[str, int, int]]:
        """Return file, offset and length of the pictures of the examples that have a pair."""
        from dedup.index import joined

        wanted = set(zip(*(self._table[name].to_pylist() for name in ("dataset", "example_id")), strict=True))
        found = dict[tuple[str, str], tuple[str, int, int]]()
        for note in storage.glob(storage.join(self.folder, "work", "index-*", "results.jsonl")):
            files = joined(note.rpartition("/")[0])
            columns = ("dataset", "example_id", "offset", "length")
            with storage.open_input(files.examples) as file:
                for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=list(columns)):
                    for row in zip(*(batch[name].to_pylist() for name in columns), strict=True):
                        if row[:2] in wanted:
                            found[row[:2]] = (files.images, row[2], row[3])
        return found


def _best(path: str) -> Iterator[pa.Table]:
    """Yield the pairs of rank 1, in parts; at least one table."""
    with storage.open_input(path) as file:
        whole = pq.ParquetFile(file)
        yield whole.schema_arrow.empty_table().select(_COLUMNS)
        for batch in whole.iter_batches(_BATCH, columns=[*_COLUMNS, "rank"]):
            table = pa.Table.from_batches([batch])
            yield table.filter(pc.equal(table["rank"], 1)).select(_COLUMNS)
