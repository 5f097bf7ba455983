"""Numbers that the page and report.json derive alike from a run: the cost of opt-outs, and the sites."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report.collect import Collected
from pipeline.report.funnel import is_opt_out
from pipeline.report.network import edge, quantile
from pipeline.report.totals import largest

_BUSIEST: Final = 60
_FAILING: Final = 30


class OptOut(NamedTuple):
    """The cost of honouring one signal; fields only."""

    reason: str
    meaning: str
    stage: str
    captions: int
    of_stage: float
    sites: int | None
    """Sites that sent it, where it was seen while fetching."""
    expected: int | None
    """Captions that the set would hold more, had these fared as those that did not opt out."""


class Site(NamedTuple):
    """One site; fields only. Times are seconds."""

    site: str
    samples: int
    images: int
    asked: int
    arrived: int
    bytes: int
    latency: float | None
    slowest: float
    failure: str
    """The most frequent reason, or ""."""


def opt_out_costs(run: Collected) -> list[OptOut]:
    """Return the signals that were honoured, in the order of the stages, the costliest first."""
    final = run.manifest.counts.captions
    by_reason = run.network.failures.group_by("reason").aggregate([("site", "count_distinct")])
    sites = dict(
        zip(by_reason["reason"].to_pylist(), by_reason["site_count_distinct"].to_pylist(), strict=True)
    )
    costs = []
    for step in run.steps:
        others = step.entered - sum(c.captions for c in step.causes if is_opt_out(c.reason))
        for cause in step.causes:
            if is_opt_out(cause.reason):
                expected = round(cause.captions * final / others) if others else None
                costs.append(
                    OptOut(cause.reason, cause.meaning, step.stage, cause.captions, cause.of_stage,
                           sites.get(cause.reason), expected)
                )  # fmt: skip
    return costs


def all_sites(run: Collected) -> Iterator[Site]:
    """Yield every site that was asked or has samples, by name."""
    joined = run.network.sites.join(run.samples.sites, "site", join_type="full outer").sort_by("site")
    yield from _sites(run, joined)


def busiest(run: Collected) -> list[Site]:
    """Return the sites with the most images and those with the most failures, by falling number of images."""
    table = run.network.sites
    failed = pc.subtract(table["images"], table["arrived"])
    table = table.append_column("failed", failed)
    chosen = {*largest(table, "images", _BUSIEST)["site"].to_pylist()}
    chosen |= {*largest(table.filter(pc.greater(failed, 0)), "failed", _FAILING)["site"].to_pylist()}
    table = table.filter(pc.is_in(table["site"], pa.array(sorted(chosen), pa.string()))).drop_columns(
        ["failed"]
    )
    joined = table.join(run.samples.sites, "site", join_type="left outer").sort_by("site")
    return sorted(_sites(run, joined), key=lambda one: (-one.images, one.site))


def _sites(run: Collected, joined: pa.Table) -> Iterator[Site]:
    failures = run.network.failures
    order = failures.sort_by([("site", "ascending"), ("images", "ascending"), ("reason", "descending")])
    for batch in joined.to_batches(10_000):
        names = batch["site"]
        own = order.filter(pc.is_in(order["site"], names))
        worst = dict(zip(own["site"].to_pylist(), own["reason"].to_pylist(), strict=True))  # the last stays
        for row in batch.to_pylist():
            asked = row["asked"] or 0
            name, slowest = row["site"], row["slowest"] or 0.0
            yield Site(
                name, row["samples"] or 0, row["images"] or 0, asked, row["arrived"] or 0, row["bytes"] or 0,
                row["seconds"] / asked if asked else None, slowest, worst.get(name, ""),
            )  # fmt: skip


def as_json(run: Collected) -> dict[str, Any]:
    """Return report.json: all that the page says in numbers."""
    found, network, balance = run.samples, run.network, asdict(run.balance)
    sides = {int(side): int(found.by_side[side]) for side in found.by_side.nonzero()[0]}
    extremes = {
        measure.name: [{"value": value, "key": one.row["key"], "uid": one.row["uid"]} for value, one in rows]
        for measure, rows in run.extremes
    }
    return {
        "format": "openwit report", "format_version": 1, "crawled": asdict(run.manifest.crawled),
        "counts": asdict(run.manifest.counts),
        "funnel": [
            step._asdict() | {"causes": [cause._asdict() for cause in step.causes]} for step in run.steps
        ],
        "merged_images": run.merged_images,
        "opt_outs": [one._asdict() for one in opt_out_costs(run)],
        "balance": balance | {
            "curves": {name: curve._asdict() for name, curve in run.balance.curves.items()},
            **{name: [row._asdict() for row in getattr(run.balance, name)]
               for name in ("head", "zero", "lost", "lacking")},
        },
        "samples": found.samples, "captions": found.captions, "words": found.words,
        "text_bytes": found.text_bytes, "image_bytes": found.image_bytes,
        "languages": found.languages, "formats": found.formats, "sources": found.sources,
        "licences": found.licences, "synthetic": found.synthetic,
        "captions_by_words": found.by_words.tolist(), "samples_by_captions": found.by_captions.tolist(),
        "samples_by_queries": found.by_queries.tolist(),
        "images_by_shorter_side": sides,
        "images_by_aspect": found.by_aspect.tolist(), "scores": found.scores,
        "repeated_captions": found.repeated, "captions_with_contacts": found.contacts,
        "extremes": extremes,
        "gallery": [one.row["key"] for one in run.gallery],
        "rounds": [asdict(one) for one in run.manifest.rounds],
        "crawl": {
            "units": network.units, "requests": network.requests,
            "statuses": dict(sorted(network.statuses.items())),
            "latency": {f"{edge(number):.6g}": n for number, n in enumerate(network.latency) if n},
            "latency_median": quantile(network.latency, 0.5), "latency_95": quantile(network.latency, 0.95),
            "sites": len(network.sites),
        },
        "sites": [one._asdict() for one in busiest(run)],
    }  # fmt: skip
