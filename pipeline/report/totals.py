"""Exact counts by key in bounded memory: Arrow tables that are summed whenever they have grown."""

from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_PENDING_ROWS: Final = 200_000


class Totals:
    """Sums and maxima by one or more key columns.

    Memory follows the number of different keys, some 100 bytes each: five million sites are half a gigabyte.
    """

    def __init__(
        self, keys: dict[str, pa.DataType], sums: dict[str, pa.DataType], maxima: tuple[str, ...] = ()
    ):
        self._keys = list(keys)
        self._sums = [name for name in sums if name not in maxima]
        self._maxima = list(maxima)
        self._schema = pa.schema({**keys, **sums})
        self._tables = [self._schema.empty_table()]
        self._pending = 0

    def add(self, rows: pa.Table | list[dict[str, Any]]) -> None:
        """Add rows; a table may hold the columns in any order."""
        if isinstance(rows, list):
            rows = pa.Table.from_pylist(rows, schema=self._schema)
        self._tables.append(rows.select(self._schema.names).cast(self._schema))
        self._pending += len(rows)
        if self._pending > max(_PENDING_ROWS, len(self._tables[0])):
            self.table()

    @property
    def rows(self) -> int:
        """Return how many rows are held: at least as many as there are keys."""
        return len(self._tables[0]) + self._pending

    def table(self) -> pa.Table:
        """Return one row a key, sorted by key."""
        if self._pending:
            aggregates = [(n, "sum") for n in self._sums] + [(n, "max") for n in self._maxima]
            found = pa.concat_tables(self._tables).group_by(self._keys).aggregate(aggregates)
            names = {f"{name}_{kind}": name for name, kind in aggregates}
            found = found.rename_columns([names.get(name, name) for name in found.column_names])
            found = found.select(self._schema.names).sort_by([(key, "ascending") for key in self._keys])
            self._tables, self._pending = [found.cast(self._schema)], 0
        return self._tables[0]


def largest(table: pa.Table, column: str, count: int) -> pa.Table:
    """Return the rows of the largest values, largest first; equal ones in the table's order."""
    values = table[column].to_numpy()
    return table.take(pa.array(np.lexsort((np.arange(len(values)), -values))[:count]))


def counts_by(table: pa.Table, key: str, count: str) -> dict[str, int]:
    """Return {key: count}, largest count first, equal ones by key."""
    pairs = zip(table[key].to_pylist(), table[count].to_pylist(), strict=True)
    return dict(sorted(pairs, key=lambda pair: (-pair[1], pair[0])))


def value_counts(column: pa.ChunkedArray, key: str) -> pa.Table:
    """Return a table (key, samples) of a column's values."""
    found = pc.value_counts(column.combine_chunks())
    return pa.table({key: found.field("values"), "samples": found.field("counts")})
