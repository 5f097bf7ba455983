"""A few rejected rows of each reason: a filter is best judged by looking at the rows it refuses."""

from collections.abc import Iterable
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline import schemas, storage

_EXAMPLES: Final = 4
_BATCH: Final = 65_536  # rows
_COLUMNS: Final = ["uid", "url", "caption", "reason", "detail"]


class ShownRejection(NamedTuple):
    """One rejected row; fields only. Rows are ordered by uid, a hash: the first rows are a fair sample."""

    uid: str
    url: str
    caption: str
    detail: str


def examples(paths: Iterable[str]) -> dict[str, list[ShownRejection]]:
    """Return the rows of smallest uid by reason, of all files."""
    found: dict[str, list[ShownRejection]] = {}
    for path in paths:
        with storage.open_input(path) as file:
            for batch in pq.ParquetFile(file).iter_batches(_BATCH, columns=_COLUMNS):
                for reason in pc.unique(batch["reason"]).to_pylist():
                    own = _smallest(batch.filter(pc.equal(batch["reason"], reason)))
                    found[reason] = sorted({*found.get(reason, []), *own})[:_EXAMPLES]
    return dict(sorted(found.items()))


def merged_images(paths: Iterable[str]) -> int:
    """Return how many images were merged into another, whose captions are counted where they went."""
    found = 0
    for path in paths:
        table = schemas.read_table(path, ["uid", "reason"])
        merged = table.filter(pc.equal(table["reason"], "merged_into"))
        found += len(pc.unique(merged["uid"]))  # an image's rows are in one file
    return found


def _smallest(rows: pa.RecordBatch) -> list[ShownRejection]:
    keys = [(name, "ascending") for name in ShownRejection._fields]
    columns = pa.table([rows[name] for name in ShownRejection._fields], names=list(ShownRejection._fields))
    return [
        ShownRejection(**row)
        for row in columns.take(pc.select_k_unstable(columns, _EXAMPLES, keys)).to_pylist()
    ]
