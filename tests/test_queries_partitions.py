"""Cutting tables into files by key, and reading one partition of many files."""

from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from queries import partitions

SCHEMA = pa.schema([pa.field("key", pa.string(), nullable=False)])


@given(
    st.lists(st.lists(st.lists(st.text(max_size=3), max_size=9), max_size=3), max_size=3), st.integers(1, 4)
)
def test_each_row_is_in_the_partition_of_its_key(
    tmp_path_factory, files: list[list[list[str]]], count: int
) -> None:  # type: ignore[no-untyped-def]
    folder: Path = tmp_path_factory.mktemp("cut")
    paths = []
    for number, batches in enumerate(files):
        batches = [[key.encode("utf-8", "ignore").decode() for key in keys] for keys in batches]
        files[number] = batches
        cut = [
            partitions.cut(pa.table([keys], SCHEMA), partitions.of_strings(keys, count), count)
            for keys in batches
        ]
        paths.append(str(folder / f"{number}.parquet"))
        assert partitions.write(paths[-1], cut, SCHEMA) == sum(map(len, batches))
    for partition in range(count):
        found = partitions.read(paths, partition, count, SCHEMA)["key"].to_pylist()
        expected = [
            key
            for batches in files
            for keys in batches
            for key, place in zip(keys, partitions.of_strings(keys, count), strict=True)
            if place == partition
        ]
        assert found == expected
