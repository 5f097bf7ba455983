"""Rounds: which images are fetched when, as work units.

A round takes the samples between each query's old and new threshold, and once more what failed in the round
before for a reason that may pass, if a query is still short of it.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import xxhash

from pipeline import records, storage, urls
from pipeline.balance import U64
from pipeline.http.politeness import site_delay
from pipeline.options import FetchOptions
from pipeline.reasons import REASONS
from pipeline.stages.files import read_vector
from pipeline.stages.select import Pairs, QueryTable, chosen, concat, slices
from pipeline.units import UnitLimits, cut

UNIT_ROWS = (
    records.CAPTION_ROWS.append(pa.field("fetch_url", pa.string(), nullable=False))
    .append(pa.field("site", pa.string(), nullable=False))
    .append(pa.field("lanes", pa.int16(), nullable=False))
)

_TRANSIENT = pa.array(sorted(word for word, reason in REASONS.items() if reason.transient))


def worth_retrying(fetched: pa.Table, unit: pa.Table, query_hash: U64, arrived: U64) -> np.ndarray:
    """Return for each image of a unit whether the next round tries it again, bool [images].

    Only what failed for a passing reason, and only if one of its queries would keep it: `arrived` holds the
    thresholds of what is there so far, which let everything in where a query has too few.
    """
    passing: np.ndarray = pa.compute.is_in(fetched["reason"], value_set=_TRANSIENT).to_numpy()
    kept: np.ndarray = passing & chosen(Pairs.of(unit, len(query_hash)), query_hash, arrived)
    return kept


@dataclass(frozen=True, kw_only=True)
class UnitShuffler:
    """Bring the images of a site together and cut the units of a round."""

    folder: str
    partitions: int
    queries: QueryTable
    fetch: FetchOptions
    limits: UnitLimits
    thresholds: str
    previous: str = ""  # the round before: its thresholds,
    arrived: str = ""  # and the thresholds of what had arrived by then

    def split(self, task: dict[str, str]) -> Iterator[tuple[int, bytes]]:
        """Yield the new samples of a samples file, or the retries of a fetched unit."""
        table = self._retries(task) if "fetched" in task else self._new(task)
        partition = np.array(
            [xxhash.xxh3_64_intdigest(site.encode()) >> 32 for site in table["site"].to_pylist()], np.uint64
        )
        partition = (partition * np.uint64(self.partitions) >> np.uint64(32)).astype(np.int64)
        yield from slices(table, partition)

    def _new(self, task: dict[str, str]) -> pa.Table:
        table = records.read_table(task["path"])
        pairs = Pairs.of(table, self.queries.queries)
        wanted = chosen(pairs, self.queries.hashes, read_vector(self.thresholds))
        if self.previous:
            wanted &= ~chosen(pairs, self.queries.hashes, read_vector(self.previous))
        table = table.filter(pa.array(pairs.rows_of(wanted, len(table))))
        return _to_fetch(table, table["url"].to_pylist())

    def _retries(self, task: dict[str, str]) -> pa.Table:
        unit, fetched = records.read_table(task["unit"]), records.read_table(task["fetched"])
        again = worth_retrying(fetched, unit, self.queries.hashes, read_vector(self.arrived))
        starts = records.run_starts(unit["uid"])
        lengths = np.diff(np.append(starts, len(unit)))
        elsewhere = pa.compute.equal(fetched["reason"], "redirect_elsewhere")
        old = unit["fetch_url"].take(pa.array(starts))
        targets = pa.compute.if_else(elsewhere, fetched["final_url"], old).to_pylist()
        of_row = np.repeat(np.arange(len(starts)), lengths)
        mask = np.repeat(again, lengths)
        table = unit.filter(pa.array(mask)).select(records.CAPTION_ROWS.names)
        return _to_fetch(table, [targets[image] for image in of_row[mask]])

    def reduce(self, partition: int, data: Iterable[bytes]) -> dict[str, object]:
        """Write one file a unit, its rows sorted by (uid, caption_hash)."""
        table = records.sort_rows(concat(data, UNIT_ROWS))
        starts = records.run_starts(table["uid"])
        lengths = np.diff(np.append(starts, len(table)))
        sites = np.array(table["site"].take(pa.array(starts)).to_pylist(), dtype=object)
        names = []
        delays = {site: site_delay(site, self.fetch) for site in set(sites.tolist())}
        for number, lanes in enumerate(cut(sites.astype(str), delays.__getitem__, self.limits)):
            of_image = np.full(len(starts), -1, np.int16)  # lanes of the image's site; -1: in another unit
            for lane in lanes:
                of_image[lane.images] = lane.lanes
            of_row = np.repeat(of_image, lengths)
            unit = table.filter(pa.array(of_row >= 0))
            column = pa.array(of_row[of_row >= 0], pa.int16())
            unit = unit.set_column(unit.column_names.index("lanes"), UNIT_ROWS.field("lanes"), column)
            name = f"{partition:05d}-{number:04d}"
            records.write_table(storage.join(self.folder, f"{name}.parquet"), unit)
            seconds = max(lane.seconds for lane in lanes)
            names.append({"name": name, "images": int((of_image >= 0).sum()), "seconds": seconds})
        return {"units": names}


def _to_fetch(table: pa.Table, fetch_urls: list[str]) -> pa.Table:
    sites = [urls.site(url) for url in fetch_urls]
    columns = [
        pa.array(fetch_urls, pa.string()),
        pa.array(sites, pa.string()),
        pa.array([0] * len(sites), pa.int16()),
    ]
    return pa.Table.from_arrays([*table.columns, *columns], schema=UNIT_ROWS)
