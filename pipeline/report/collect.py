"""Gather a finished run's figures from its files: a shard, a log, a file of rejected rows at a time."""

from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from pipeline import checked_manifest, finished_set, schemas
from pipeline.checked_manifest import Manifest
from pipeline.finished_set import FinishedSet
from pipeline.manifest import rejected_files
from pipeline.report import balance, network, rejects, samples, thumbnails
from pipeline.report.balance import Balance
from pipeline.report.funnel import FunnelStep, funnel
from pipeline.report.network import CrawlFigures
from pipeline.report.rejects import ShownRejection
from pipeline.report.samples import Measure
from pipeline.run_folder import Layout

_GALLERY: Final = 48
_GALLERY_SHARDS: Final = 12


@dataclass(frozen=True)
class ShownSample:
    """A sample to look at."""

    row: dict[str, Any]
    """Its row of the shard's Parquet file."""
    thumbnail: bytes
    """JPEG, b"" if it cannot be decoded."""
    queries: tuple[str, ...]
    """The texts of row["query_ids"]."""


@dataclass(frozen=True)
class Collected:
    """All that the report and the card say of a run."""

    manifest: Manifest
    steps: list[FunnelStep]
    samples: samples.SampleFigures
    balance: Balance
    network: CrawlFigures
    gallery: list[ShownSample]
    extremes: list[tuple[Measure, list[tuple[float, ShownSample]]]]
    rejected: dict[str, list[ShownRejection]]
    merged_images: int | None
    """None where only a sample of the rejected rows is kept."""


def collect(layout: Layout) -> Collected:
    """Read a run that has a manifest; ValueError if it has none."""
    manifest = checked_manifest.read(layout.published)
    if manifest is None:
        raise ValueError(f"{layout.manifest} does not exist: is the run finished?")
    state = finished_set.load(layout, manifest)
    found = samples.read(state)
    counts = layout.query_counts
    shown = _gallery(state)
    wanted = [*shown, *((one.shard, one.key) for _, rows in found.extremes for one in rows)]
    pictured = _pictures(layout, wanted, counts)
    rejected = rejects.look(rejected_files(layout, manifest))
    return Collected(
        manifest=manifest,
        steps=funnel(manifest.counts),
        samples=found,
        balance=balance.read(counts, manifest.per_query),
        network=network.read(layout, len(manifest.extensions)),
        gallery=[pictured[key] for _, key in shown],
        extremes=[
            (measure, [(one.value, pictured[one.key]) for one in rows]) for measure, rows in found.extremes
        ],
        rejected=rejected.examples,
        merged_images=None if manifest.rejected_sampled else rejected.merged_images,
    )  # fmt: skip


def _gallery(state: FinishedSet) -> list[tuple[str, str]]:
    """Return (shard, key) of the first samples of shards spread evenly.

    Samples lie in the order of a seeded hash, so the first samples are a fair sample, and little is read.
    """
    if not state.shards:
        return []
    count = min(_GALLERY_SHARDS, len(state.shards))
    chosen = [state.shards[index * len(state.shards) // count] for index in range(count)]
    wanted: list[tuple[str, str]] = []
    for shard in chosen:
        table = state.table(shard, ["key"])
        keys = table["key"].filter(pa.array(state.stays(shard, table))).to_pylist()
        wanted += [(shard, key) for key in keys[: -(-_GALLERY // count)]]
    return wanted[:_GALLERY]


def _pictures(layout: Layout, wanted: list[tuple[str, str]], counts: str) -> dict[str, ShownSample]:
    rows = thumbnails.read(layout.shards, wanted)
    needed = sorted({query for row, _ in rows.values() for query in row["query_ids"]})
    names = dict(
        zip(needed, schemas.read_table(counts, ["query"])["query"].take(needed).to_pylist(), strict=True)
        if needed else ()
    )  # fmt: skip
    return {
        key: ShownSample(row, thumbnail, tuple(names[query] for query in row["query_ids"]))
        for key, (row, thumbnail) in rows.items()
    }
