"""The prediction: yields, rates and a cluster in, one row a stage out. Pure arithmetic."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from pipeline.config import nearest
from pipeline.plan import expected
from pipeline.plan.options import PlanConfig
from pipeline.plan.yields import Yields

HOUR = 3600.0
_TURNS = 12


class PlannedStage(NamedTuple):
    """Hold the resources of a stage."""

    name: str
    core_hours: float
    wall_hours: float
    bound: str
    """The bound on its wall time: cores, requests in flight, or politeness."""


@dataclass(frozen=True, kw_only=True)
class Scale:
    """How much of everything there will be."""

    pieces: float
    source_bytes: float
    candidates: float
    rows: float
    distinct: float
    """Samples that match, before the balance."""
    tried: float
    reached: float
    """Share of them that their sites can give within the rounds, at one request every --host-delay."""
    samples: float
    fetched_bytes: float
    stored_bytes: float
    shuffled_bytes: float
    sites: np.ndarray
    """Images asked of each of the pilot's sites, float64 [sites]."""


def scale_of(yields: Yields, config: PlanConfig) -> Scale:
    """Scale a pilot up to --pieces or --pairs; ValueError if no number of pieces gives that many samples."""
    balance, arrives = yields.balance, yields.arrived / yields.tried
    # Some arrived images merge with the same bytes under another URL.
    expected_here = expected.kept(balance, 1.0, config.per_query, arrives)
    survives = min(1.0, yields.samples / expected_here) if yields.per_query == config.per_query else 1.0
    reached = 1.0
    # How much of the sites is reached in time depends on how much is asked of them, and that on how much
    # arrives; a few turns settle it.
    for _ in range(_TURNS):
        share = arrives * reached
        times: float | None = config.pieces / yields.pieces if config.pieces else expected.pieces_for(
            balance, yields.novelty, config.per_query, share * survives, config.pairs
        )  # fmt: skip
        if times is None:
            raise ValueError(
                f"no number of such pieces gives {config.pairs:,.0f} samples with --per-query "
                f"{config.per_query}, of which {share:.0%} arrive: use more queries, a larger --per-query, "
                "or more --rounds"
            )
        growth = expected.growth(times, yields.novelty)
        tried = expected.kept(balance, growth, config.per_query * max(config.headroom, 1 / share))
        sites = balance.sites * (tried / balance.samples)
        before = reached
        reached = expected.reached(sites, config.rounds * config.unit_seconds, config.host_delay)
        if reached == before:
            break
    assert times is not None
    samples = expected.kept(balance, growth, config.per_query, arrives * reached) * survives
    return Scale(
        pieces=times * yields.pieces, source_bytes=times * yields.source_bytes,
        candidates=times * yields.candidates, rows=times * yields.rows, distinct=growth * balance.samples,
        tried=tried, reached=reached, samples=samples,
        fetched_bytes=tried * reached * yields.fetched_bytes / yields.tried,
        stored_bytes=samples * yields.stored_bytes / yields.samples,
        shuffled_bytes=times * yields.rows * yields.row_bytes, sites=sites,
    )  # fmt: skip


def jobs(config: PlanConfig) -> dict[str, int]:
    """Return how many jobs each stage is on a Beam runner; a round without a unit is none."""
    crawl = {"candidates": 1, "select": 1, "fetch": config.rounds, "finish": 1}
    return {**crawl, "overlap": 2} if config.eval_images else crawl


def starts(config: PlanConfig, rates: dict[str, Any]) -> dict[str, float]:
    """Return the seconds in which each stage's jobs start; ValueError for a runner without a rate."""
    if not config.runner:
        return dict.fromkeys(jobs(config), 0.0)
    known = rates["job_start_s"]
    if config.runner not in known:
        raise ValueError(
            f"there is no rate for --runner {config.runner}{nearest(config.runner, list(known))}; give one "
            "in the table job_start_s of --rates"
        )
    return {stage: count * known[config.runner] for stage, count in jobs(config).items()}


def stages(scale: Scale, form: str, config: PlanConfig, rates: dict[str, Any]) -> list[PlannedStage]:
    """Return the resources of each stage of the crawl, in order, and of the overlap analysis if it is
    planned."""
    cores = config.workers * config.cores
    parse = rates["candidates"].get(f"{form}_s_per_mb", 0.0) * scale.source_bytes / 1e6
    https = config.https_share
    fetch = rates["fetch"]
    image_ms = https * fetch["https_image_ms"] + (1 - https) * fetch["http_image_ms"]
    cpu = {
        "candidates": parse + rates["candidates"]["caption_us"] * 1e-6 * scale.candidates,
        "select": rates["select"]["row_us"] * 1e-6 * scale.rows,
        "fetch": image_ms * 1e-3 * scale.tried * scale.reached,
        "finish": rates["finish"]["image_ms"] * 1e-3 * scale.samples,
    }
    if config.eval_images:
        cpu["overlap"] = overlap_seconds(
            scale.samples, config.eval_images, rates["overlap"], config.overlap_by
        )
    result = []
    waits = starts(config, rates)
    for name, seconds in cpu.items():
        rate = rates[name]
        again = config.rounds - 1 if name == "fetch" else 0
        start = rate["start_wall_s"] + again * rate.get("round_wall_s", 0.0)
        bounds = {"cores": start + seconds / cores}
        if name == "fetch":
            bounds["requests in flight"] = (
                scale.tried * config.request_seconds / (cores * config.max_inflight)
            )
            polite = expected.politeness(scale.sites, config.host_delay)["99%"]
            bounds["politeness"] = min(polite, config.rounds * config.unit_seconds)
        bound = max(bounds, key=lambda key: bounds[key])
        each = rate["start_s"] + again * rate.get("round_s", 0.0)
        result.append(
            PlannedStage(name, (each * cores + seconds) / HOUR, (waits[name] + bounds[bound]) / HOUR, bound)
        )
    return result


def overlap_seconds(
    samples: float, examples: float, rate: dict[str, float], by: Literal["hashes", "lite"] = "hashes"
) -> float:
    """Return the core seconds of the search of samples among all views of the examples.

    Hashes compare each sample mirrored as well, and its crops, which are described first, with one view
    alone; a detector compares one vector, by which mirrored pictures are found as well.
    """
    if by == "lite":
        search = samples * examples * rate["detector_views"] / rate["detector_pairs_per_s"]
        return search + samples * rate["detector_describe_ms"] * 1e-3
    pairs = 2 * samples * examples * (rate["views"] + rate["crops"])
    search = pairs * (1 / rate["pairs_per_s"] + rate["share"] * rate["second_look_ns"] * 1e-9)
    return search + samples * rate["describe_ms"] * 1e-3


def money(
    scale: Scale, done: list[PlannedStage], gpu_days: float, config: PlanConfig, prices: dict[str, float]
) -> dict[str, float]:
    """Return the cost of each part, in the currency of the prices.

    Cores are paid by the hour that they are held, also while they wait for other people's servers.
    """
    held = sum(stage.wall_hours for stage in done) * config.workers * config.cores
    return {
        "cores": held * prices["core_hour"],
        "traffic": scale.fetched_bytes / 1e9 * (prices["fetched_gb"] + prices["nat_gb"]),
        "storage": scale.stored_bytes / 1e9 * prices["stored_gb_month"] * prices["months"],
        "GPUs": gpu_days * 24 * prices["gpu_hour"],
    }
