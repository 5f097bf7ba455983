"""Which samples `--keep-if` takes, by numbers in the shards' Parquet files and by scores beside a run."""

import functools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline import storage
from pipeline.dropped_samples import Dropped
from pipeline.score import files as score_files
from pipeline.score.keep_if import KeepIf

_THREADS = 8


class Listed(NamedTuple):
    """Name a source, the paths of its tars, and their dropped samples; fields only."""

    name: str
    shards: tuple[str, ...]
    gone: Dropped


class ScoreFilter:
    """Say which samples of each shard satisfy a condition.

    `top(COLUMN, SHARE)` takes the share of all sources together, before --keep and --drop.
    """

    def __init__(self, text: str, sources: Sequence[Listed]) -> None:
        """Read the columns needed of all samples; ValueError for columns that a source does not have."""
        condition = KeepIf.parse(text)
        self._folders: dict[str, tuple[dict[str, str], Dropped]] = {}
        for source in sources:
            folders = _folders(source, condition.names)
            self._folders |= dict.fromkeys(source.shards, (folders, source.gone))
        if condition.tops:
            columns = tuple({top.column for top in condition.tops})
            with ThreadPoolExecutor(_THREADS) as pool:
                parts = list(pool.map(functools.partial(self._stored, columns=columns), self._folders))
            condition = condition.resolve(
                {name: np.concatenate([part[1][name] for part in parts]) for name in columns}
            )
        self._condition = condition

    def keys(self, path: str) -> frozenset[str]:
        """Return the keys of a shard's samples that satisfy the condition."""
        keys, columns = self._stored(path, self._condition.names)
        return frozenset(keys.filter(pa.array(self._condition.mask(columns))).to_pylist())

    def _stored(
        self, path: str, columns: Sequence[str]
    ) -> tuple[pa.ChunkedArray, dict[str, NDArray[np.float64]]]:
        """Return the keys of a shard's samples that are part of its source, and columns of theirs."""
        folders, gone = self._folders[path]
        stem = storage.stem(path)
        tables = {
            "": _read(storage.sibling(path, ".parquet"), ["key", *(c for c in columns if c not in folders)])
        }
        for column in columns:
            folder = folders.get(column)
            if folder and folder not in tables:
                own = [name for name in columns if folders.get(name) == folder]
                tables[folder] = _read(storage.join(folder, f"{stem}.parquet"), ["key", *own])
                if not tables[folder]["key"].equals(tables[""]["key"]):
                    raise ValueError(f"{folder}/{stem}.parquet does not have the rows of its shard")
        keys = tables[""]["key"]
        stays = gone.stays(stem, keys.to_pylist()) if gone.keys(stem) else np.ones(len(keys), bool)
        return keys.filter(pa.array(stays)), {
            name: _numbers(tables[folders.get(name, "")][name], name, path)[stays] for name in columns
        }


def _folders(source: Listed, columns: Sequence[str]) -> dict[str, str]:
    """Return the folder of the scores of each column that the shards' own files do not have."""
    parquet = storage.sibling(source.shards[0], ".parquet")
    if not storage.exists(parquet):
        raise ValueError(f"--keep-if reads Parquet files beside the shards, and {parquet} is missing")
    with storage.open_input(parquet) as file:
        known = set(pq.ParquetFile(file).schema_arrow.names)
    missing = [name for name in columns if name not in known]
    found = score_files.by_column(source.name, missing) if missing else {}
    if unknown := [name for name in missing if name not in found]:
        numbers = sorted(name for name in known if name.startswith("score_"))
        raise ValueError(
            f"--keep-if reads {', '.join(unknown)}, which --shards {source.name} does not have (scores: "
            f"{', '.join(numbers) or 'none'}): `openwit score` adds them"
        )
    return {name: score_files.folder(source.name, folder) for name, folder in found.items()}


def _read(path: str, columns: list[str]) -> pa.Table:
    with storage.open_input(path) as file:
        parquet = pq.ParquetFile(file)
        if missing := set(columns) - set(parquet.schema_arrow.names):
            raise ValueError(f"{path} has no column {sorted(missing)[0]}, which --keep-if reads")
        return parquet.read(columns)


def _numbers(column: pa.ChunkedArray, name: str, path: str) -> NDArray[np.float64]:
    """Return a column of numbers, NaN for missing ones; ValueError for anything else."""
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ValueError(f"{path}: the column {name} holds {kind}, not numbers")
    found: NDArray[np.float64] = pc.fill_null(column.cast(pa.float64()), np.nan).to_numpy()
    return found
