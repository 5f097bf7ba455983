"""A few rejected rows of each reason: a filter is best judged by looking at the rows it refuses."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import storage

_EXAMPLES: Final = 4
_BATCH: Final = 65_536  # rows
_COLUMNS: Final = ["uid", "url", "caption", "reason", "detail"]


class ShownRejection(NamedTuple):
    """One rejected row; fields only. Rows are ordered by uid, a hash: the first rows are a fair sample."""

    uid: str
    url: str
    caption: str
    detail: str


class Rejected(NamedTuple):
    """Hold examples of rejected rows, and a count; fields only."""

    examples: dict[str, list[ShownRejection]]
    """The rows of smallest uid, by reason."""
    merged_images: int
    """Images that were merged into another, whose captions are counted where they went."""


def look(paths: Iterable[str]) -> Rejected:
    """Read all files once; of an image all rows are in one file."""
    found: dict[str, list[ShownRejection]] = {}
    merged_images = 0
    for path in paths:
        merged = [pa.array([], pa.string())]
        with storage.open_input(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=_COLUMNS):
                for reason in pc.unique(batch["reason"]).to_pylist():
                    own = batch.filter(pc.equal(batch["reason"], reason))
                    found[reason] = sorted({*found.get(reason, []), *_smallest(own)})[:_EXAMPLES]
                    if reason == "merged_into":
                        merged.append(pc.unique(own["uid"]))
        merged_images += len(pc.unique(pa.chunked_array(merged)))
    return Rejected(dict(sorted(found.items())), merged_images)


def _smallest(rows: pa.RecordBatch) -> list[ShownRejection]:
    keys = [(name, "ascending") for name in ShownRejection._fields]
    columns = pa.table([rows[name] for name in ShownRejection._fields], names=list(ShownRejection._fields))
    return [
        ShownRejection(**row)
        for row in columns.take(pc.select_k_unstable(columns, _EXAMPLES, keys)).to_pylist()
    ]
