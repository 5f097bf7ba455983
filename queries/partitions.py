"""Tables cut by key into files' row groups, so that all rows of a key can be read from many files at once.

This is the shuffle of the query job: a task writes its rows cut into P partitions, in one file; a later task
reads one partition of every file. Partition p of a file is its row groups p, p + P, p + 2P, ...
"""

import itertools
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage


def of_strings(values: Sequence[str], partitions: int) -> npt.NDArray[np.int64]:
    """Return the partition of each string: CRC-32 of its UTF-8, which no run and no machine changes."""
    crc32 = zlib.crc32
    return np.fromiter((crc32(value.encode()) for value in values), np.int64, len(values)) % partitions


def write(path: str, batches: Iterable[Sequence[pa.Table]], schema: pa.Schema, **options: Any) -> int:
    """Publish batches, each a table for every partition; return the number of rows."""
    rows = 0
    with (
        storage.atomic_output(path) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd", **options) as writer,
    ):
        for tables in batches:
            for table in tables:
                # Not split further, whatever its size: the row group's number says what it holds.
                writer.write_table(table, row_group_size=max(table.num_rows, 1))
                rows += table.num_rows
    return rows


def cut(table: pa.Table, partition: npt.NDArray[np.int64], partitions: int) -> list[pa.Table]:
    """Return the rows of each partition, in the order in which they stand."""
    order = np.argsort(partition, kind="stable")
    bounds = np.searchsorted(partition[order], np.arange(partitions + 1))
    ordered = table.take(pa.array(order))
    return [ordered.slice(low, high - low) for low, high in itertools.pairwise(bounds)]


def read(paths: Sequence[str], partition: int, partitions: int, schema: pa.Schema) -> pa.Table:
    """Return one partition of all files, in the order of the files."""
    tables = [schema.empty_table()]
    for path in paths:
        tables.extend(read_one(path, partition, partitions))
    return pa.concat_tables(tables)


def read_one(path: str, partition: int, partitions: int) -> list[pa.Table]:
    """Return the row groups of one partition of one file."""
    with storage.open_input(path) as source, pq.ParquetFile(source) as file:
        groups = range(partition, file.num_row_groups, partitions)
        return [file.read_row_group(group) for group in groups]
