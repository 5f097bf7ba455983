"""Rounds: which images are fetched when, as work units.

A round takes the samples between each query's old and new threshold, and tries transient failures of the
previous round again if a query is still short of them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from pipeline import schemas, storage, urls
from pipeline.balance import U64
from pipeline.fetch.lanes import SiteShare, beyond, cut, put_off_parts
from pipeline.fetch.parts import UNIT_ROWS, Fetched, Unit, Units
from pipeline.flow.markers import read_vector
from pipeline.flow.worker import partition_name
from pipeline.http.rate_limit import site_delay
from pipeline.options import FetchOptions
from pipeline.options.fetch import UnitLimits
from pipeline.reasons import REASONS
from pipeline.select.parts import Samples
from pipeline.select.workers import QueryTable, SampleQueryPairs, chosen, concat, read_samples, slices

_HOST = r"^https?://(?P<host>[a-z0-9.-]+)(?::[0-9]+)?(?:[/?]|$)"
_TRANSIENT = pa.array(sorted(word for word, reason in REASONS.items() if reason.transient))


def worth_retrying(fetched: pa.Table, unit: pa.Table, query_hash: U64, arrived: U64) -> np.ndarray:
    """Return for each image of a unit whether the next round tries it again, bool [images].

    Only transient failures, and only if one of its queries would keep the image: `arrived` holds the
    thresholds of all images so far, which let everything in where a query has too few.
    """
    passing: np.ndarray = pc.is_in(fetched["reason"], value_set=_TRANSIENT).to_numpy()
    kept: np.ndarray = passing & chosen(SampleQueryPairs.of(unit, len(query_hash)), query_hash, arrived)
    return kept


@dataclass(frozen=True, kw_only=True)
class UnitShuffler:
    """Bring the images of a site together and cut the units of a round."""

    folder: str
    queries: QueryTable
    fetch: FetchOptions
    limits: UnitLimits
    number: int  # of the round
    thresholds: str
    previous: str = ""  # the round before: its thresholds,
    arrived: str = ""  # and the thresholds of the images that had arrived by then

    def split(self, task: Samples | Fetched, partitions: int) -> Iterator[tuple[int, bytes]]:
        """Yield the new samples of a samples file, or the retries of a fetched unit."""
        table = self._retries(task) if isinstance(task, Fetched) else self._new(task)
        table, put_off = self._put_off(table)
        sites = table["site"].combine_chunks().dictionary_encode()
        hashes = [xxhash.xxh3_64_intdigest(site.encode()) for site in sites.dictionary.to_pylist()]
        of_row = np.array(hashes, np.uint64)[sites.indices.to_numpy()]
        of_row[put_off] = schemas.high_bits(table["uid"])[put_off]
        partition = schemas.partition_of(of_row, partitions)
        yield from slices(table, partition)

    def _new(self, task: Samples) -> pa.Table:
        table = read_samples(task.path, task.shared)
        pairs = SampleQueryPairs.of(table, self.queries.queries)
        wanted = chosen(pairs, self.queries.hashes, read_vector(self.thresholds))
        if self.previous:
            wanted &= ~chosen(pairs, self.queries.hashes, read_vector(self.previous))
        table = table.filter(pa.array(pairs.rows_of(wanted, len(table))))
        return _to_fetch(table, table["url"].combine_chunks())

    def _retries(self, task: Fetched) -> pa.Table:
        unit, fetched = schemas.read_table(task.unit), schemas.read_table(task.path)
        again = worth_retrying(fetched, unit, self.queries.hashes, read_vector(self.arrived))
        starts = schemas.run_starts(unit["uid"])
        lengths = np.diff(np.append(starts, len(unit)))
        elsewhere = pc.equal(fetched["reason"], "redirect_elsewhere")
        old = unit["fetch_url"].take(pa.array(starts))
        targets = pc.if_else(elsewhere, fetched["final_url"], old).to_pylist()
        of_row = np.repeat(np.arange(len(starts)), lengths)
        mask = np.repeat(again, lengths)
        table = unit.filter(pa.array(mask)).select(schemas.CAPTION_ROWS.names)
        return _to_fetch(table, pa.array([targets[image] for image in of_row[mask]], pa.string()))

    def _put_off(self, table: pa.Table) -> tuple[pa.Table, np.ndarray]:
        """Give no lanes to images that their site has no time for; return the table and their rows, bool."""
        starts, lengths = _images(table)
        hashes = schemas.high_bits(table["uid"])[starts]
        late = beyond(_sites(table, starts), hashes, self._delay, self.limits, self.number)
        put_off = np.repeat(late, lengths)
        return _with_lanes(table, np.where(put_off, 0, 1)), put_off

    def _delay(self, site: str) -> float:
        return site_delay(site, self.fetch)

    def reduce(self, partition: int, data: Iterable[bytes]) -> Units:
        """Write one file a unit, its rows sorted by (uid, caption_hash)."""
        table = schemas.sort_rows(concat(data, UNIT_ROWS))
        starts, lengths = _images(table)
        in_time = table["lanes"].to_numpy()[starts] > 0
        images = np.flatnonzero(in_time)
        units = [
            [lane._replace(images=images[lane.images]) for lane in lanes]
            for lanes in cut(_sites(table, starts[in_time]), self._delay, self.limits)
        ]
        units += [[SiteShare("", part, 0, 0.0, 0)] for part in put_off_parts(np.flatnonzero(~in_time))]
        unit_of, lanes_of = np.zeros(len(starts), np.int32), np.zeros(len(starts), np.int16)
        for number, lanes in enumerate(units):
            for lane in lanes:
                unit_of[lane.images], lanes_of[lane.images] = number, lane.lanes
        table = _with_lanes(table, np.repeat(lanes_of, lengths))
        of_row = np.repeat(unit_of, lengths)
        order = np.argsort(of_row, kind="stable")  # a unit's rows stay sorted
        begin = np.searchsorted(of_row[order], np.arange(len(units) + 1))
        results = []
        for number, lanes in enumerate(units):
            name = f"{partition_name(partition)}-{number:04d}"
            rows = table.take(pa.array(order[begin[number] : begin[number + 1]]))
            path = storage.join(self.folder, f"{name}.parquet")
            schemas.write_table(path, rows)
            count, seconds = sum(len(lane.images) for lane in lanes), max(lane.seconds for lane in lanes)
            results.append(Unit(name=name, path=path, images=count, seconds=seconds))
        return Units(name=partition_name(partition), units=tuple(results))


def _images(table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Return each image's first row and its number of rows."""
    starts = schemas.run_starts(table["uid"])
    return starts, np.diff(np.append(starts, len(table)))


def _sites(table: pa.Table, starts: np.ndarray) -> pa.Array:
    return table["site"].combine_chunks().take(pa.array(starts))


def _with_lanes(table: pa.Table, lanes: np.ndarray) -> pa.Table:
    index = table.column_names.index("lanes")
    return table.set_column(index, UNIT_ROWS.field("lanes"), pa.array(lanes, pa.int16()))


def sites_of(fetch_urls: pa.Array) -> pa.Array:
    """Return the site of each URL, str [n]: it is looked up for each host once."""
    hosts = pc.struct_field(pc.extract_regex(fetch_urls, pattern=_HOST), "host").dictionary_encode()
    names = [urls.site(f"http://{host}/") for host in hosts.dictionary.to_pylist()]
    sites = pa.array(names, pa.string()).take(hosts.indices)
    if not sites.null_count:
        return sites
    odd = pc.is_null(sites)  # an address in brackets, say
    others = [urls.site(url) for url in fetch_urls.filter(odd).to_pylist()]
    return pc.replace_with_mask(sites, odd, pa.array(others, pa.string()))


def _to_fetch(table: pa.Table, fetch_urls: pa.Array) -> pa.Table:
    columns = [fetch_urls, sites_of(fetch_urls), pa.array(np.zeros(len(fetch_urls), np.int16))]
    return pa.Table.from_arrays([*table.columns, *columns], schema=UNIT_ROWS)
