"""Score one shard of a finished run: the work of the processes of `openwit score`."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO

import pyarrow as pa

from pipeline import schemas, storage
from pipeline.flow.parts import Part
from pipeline.images.scoring import Scorer, Several, load, score_batches
from pipeline.score import files as score_files
from pipeline.score import names as scorer_names
from pipeline.score.files import ScoredShard
from pipeline.shards import read_shard


@dataclass(frozen=True, kw_only=True)
class ScoreWorker:
    """Score one shard."""

    root: str
    """Folder of the run."""
    scorer: tuple[str, ...]

    def open(self) -> list[Scorer]:
        """Load the scorers, once a process."""
        return [load(spec) for spec in self.scorer]

    def run(self, state: list[Scorer], task: Part) -> ScoredShard:
        """Write a table for each scorer; RuntimeError if tar and Parquet file hold other samples."""
        base = storage.join(self.root, "shards", task.name)
        rows = schemas.read_table(f"{base}.parquet", ["uid", "key", "captions"])
        with storage.open_input(f"{base}.tar") as file:
            found = score_batches(Several(state), _samples(file, rows, base))
        sums = []
        for spec, scorer in zip(self.scorer, state, strict=True):
            table = rows.select(["uid", "key"])
            for name in scorer.columns:
                table = table.append_column(name, pa.array(found.columns[name], from_pandas=True))
            path = score_files.folder(self.root, scorer_names.name_of(spec), f"{task.name}.parquet")
            schemas.write_table(path, table)
            sums.append(storage.sha256_file(path))
        tar = storage.sha256_file(f"{base}.tar")
        return ScoredShard(name=task.name, rows=len(rows), of=tar, sha256=tuple(sums))


def _samples(file: IO[bytes], rows: pa.Table, base: str) -> Iterator[tuple[bytes, list[str]]]:
    """Yield the images of a shard with their captions."""
    captions = dict(zip(rows["key"].to_pylist(), rows["captions"].to_pylist(), strict=True))
    count = 0
    for sample in read_shard(file):
        if sample.key not in captions:
            break
        count += 1
        yield sample.jpg, captions[sample.key]
    if count != len(rows):
        raise RuntimeError(f"{base}.tar and its Parquet file differ: openwit verify says more")
