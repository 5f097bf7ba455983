"""The manifest of a finished run: what it is, from what, and that its counts add up."""

import importlib.metadata
import json
import platform
import re
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import config, finished, pilot, publishing, records, storage
from pipeline.balance import EVERYTHING
from pipeline.options import CrawlConfig
from pipeline.reasons import REASONS
from pipeline.run import Layout, read_json
from pipeline.shards import ShardFile, read_shard

_EXTENSION = re.compile(r"/extension-(\d+)-[^/]*$")
_PACKAGES = [
    "aiohttp", "apache-beam", "can-ada", "fasttext-predict", "fastwarc", "numpy", "opencv-python-headless",
    "pillow", "protego", "publicsuffixlist", "pyarrow", "selectolax", "simplejpeg",
]  # fmt: skip


def versions() -> dict[str, str]:
    """Return the versions of what may change the bytes of a run."""
    found = {"python": platform.python_version(), "machine": platform.machine(), "openwit": own_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def own_version() -> str:
    """Return openwit's version, or 0 where it is not installed."""
    try:
        return importlib.metadata.version("openwit")
    except importlib.metadata.PackageNotFoundError:
        return "0"


def write_json(path: str, value: object) -> None:
    """Publish readable JSON with sorted keys."""
    storage.write_bytes(path, (json.dumps(value, indent=1, sort_keys=True) + "\n").encode())


def counts_of(candidates: int, captions: int, samples: int, rejected: dict[str, int]) -> dict[str, Any]:
    """Return the manifest's counts; RuntimeError if a candidate is lost or counted twice.

    rejected: candidates by "stage/reason".
    """
    by_stage: dict[str, dict[str, int]] = {}
    for key, count in rejected.items():
        stage, _, reason = key.partition("/")
        assert reason in REASONS, f"{reason} is not in the closed set of reasons"
        by_stage.setdefault(stage, {})[reason] = count
    total = sum(rejected.values())
    if candidates != captions + total:
        raise RuntimeError(
            f"the counts do not add up: {candidates} candidates, but {captions} captions in shards and "
            f"{total} rejected; please report this, and keep the run's work/ folder"
        )
    return {
        "candidates": candidates, "captions": captions, "samples": samples, "rejected": total,
        "rejected_by_stage": by_stage,
    }  # fmt: skip


def by_stage_and_reason(counts: dict[str, Any]) -> dict[str, int]:
    """Return a manifest's counts of rejected candidates by "stage/reason"."""
    return {
        f"{stage}/{reason}": count
        for stage, reasons in counts["rejected_by_stage"].items()
        for reason, count in reasons.items()
    }


def write_query_counts(
    path: str,
    queries: list[str],
    per_query: int,
    *,
    matched: np.ndarray,
    untried: np.ndarray,
    kept_present: np.ndarray,
    thresholds: np.ndarray | None = None,
) -> dict[str, int]:
    """Publish query_counts.parquet and return its totals.

    short: what a query lacks although there was more to try, min(per_query - kept, untried); untried: matched
    - tried. threshold: a query keeps the samples of the set whose priority is not above it (all of them, if
    `thresholds` is not given).
    """
    kept, present = kept_present
    assert (kept <= per_query).all(), "a query keeps more than --per-query samples"
    short = np.minimum(per_query - kept, untried)
    thresholds = np.full(len(queries), EVERYTHING) if thresholds is None else thresholds
    table = pa.table(
        {
            "query_id": pa.array(np.arange(len(queries)), pa.int32()),
            "query": queries,
            **{name: pa.array(values, pa.int64()) for name, values in
               (("matched", matched), ("kept", kept), ("present", present), ("short", short),
                ("untried", untried))},
            "threshold": pa.array(thresholds, pa.uint64()),
        }
    )  # fmt: skip
    records.write_table(path, table)
    return {
        "queries": len(queries),
        "matched": int((matched > 0).sum()),
        "full": int((kept == per_query).sum()),
        "short": int((short > 0).sum()),
    }


def shard_entries(shards: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the manifest says of shards, from the results of writing them."""
    return [
        {"name": f"{r['name']}.tar", **{name: r[name] for name in ("samples", "bytes")},
         "sha256": r["tar"], "parquet_sha256": r["parquet"]}
        for r in shards
    ]  # fmt: skip


def describe_shard(base: str, rows: pa.Table, tar: ShardFile) -> dict[str, object]:
    """Write BASE.parquet and BASE_stats.json beside a written tar; return what `shard_entries` takes."""
    records.write_table(f"{base}.parquet", rows)
    stats = {
        "count": len(rows), "successes": len(rows), "failed_to_download": 0, "failed_to_resize": 0,
        "status_dict": {"success": len(rows)}, "tar_bytes": tar.bytes, "tar_sha256": tar.sha256,
    }  # fmt: skip
    storage.write_bytes(f"{base}_stats.json", json.dumps(stats, sort_keys=True, indent=1).encode())
    parquet = storage.sha256_file(f"{base}.parquet")
    return {"samples": len(rows), "bytes": tar.bytes, "tar": tar.sha256, "parquet": parquet}


def round_entries(rounds: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the manifest says of rounds of fetching."""
    return [{key: r[key] for key in ("images", "bytes", "reasons")} for r in rounds]


def rejected_files(layout: Layout, found: dict[str, Any]) -> list[str]:
    """Return the files of rejected rows that count; an unfinished extension may have left others."""
    count = len(found.get("extensions", []))
    return [
        path
        for path in storage.list_files(layout.rejected, ".parquet")
        if (number := _EXTENSION.search(path)) is None or int(number[1]) <= count
    ]


def write(
    layout: Layout, options: CrawlConfig, found: dict[str, Any], done: dict[str, Any],
    prints: dict[str, str], semantics: dict[str, dict[str, Any]],
) -> None:  # fmt: skip
    """Publish manifest.json, after all that it names."""
    candidates, rounds = done["candidates"], done["fetch"]["rounds"]
    shards = shard_entries(found["shards"])
    yields = None
    if options.sample < 1:
        yields = pilot.yields(read_json(pilot.path_of(layout)), candidates, rounds, shards)
    write_json(
        layout.manifest,
        {
            "format": "openwit run", "format_version": 1,
            "configuration": publishing.publishable(config.effective(options)),
            "semantics": semantics, "fingerprints": prints,
            "versions": versions(), "seed": options.seed,
            "crawled": {"first": found["first_fetch"], "last": found["last_fetch"]},
            "counts": counts_of(
                candidates["candidates"], found["captions"], found["samples"], found["rejected"]
            ),
            "rejected_sampled": found["rejected_sampled"], "images_seen": candidates["images"],
            "rounds": round_entries(rounds),
            "queries": found["queries"],
            "near_duplicates": found["near_duplicates"],
            "shards": shards,
            "pilot": yields,
        },
    )  # fmt: skip


def verify_shards(layout: Layout, names: Collection[str] | None = None) -> list[str]:
    """Return what is wrong with the shards: hashes, counts, tar against Parquet; [] if nothing.

    names: of the shards to look at, all if it is not given.
    """
    problems: list[str] = []
    for shard in _shards(layout):
        if names is not None and shard["name"] not in names:
            continue
        tar = storage.join(layout.shards, shard["name"])
        parquet = storage.sibling(tar, ".parquet")
        wrong = []
        for path, expected in ((tar, shard["sha256"]), (parquet, shard["parquet_sha256"])):
            if not storage.exists(path):
                wrong.append(f"{path} is missing")
            elif storage.sha256_file(path) != expected:
                wrong.append(f"{path} has another sha256 than the manifest")
        problems += wrong
        if not wrong:
            keys = records.read_table(parquet, ["key"])["key"].to_pylist()
            with storage.open_input(tar) as file:
                inside = [sample.key for sample in read_shard(file)]
            if keys != inside or len(keys) != shard["samples"]:
                problems.append(f"{tar} and {parquet} do not hold the same {shard['samples']} keys")
    return problems


def _shards(layout: Layout) -> list[dict[str, Any]]:
    found = finished.read(layout.published)
    return found["shards"] if found is not None else []


def stray_shards(layout: Layout) -> list[str]:
    """Return what is wrong with the names in the folder of the shards; [] if nothing."""
    stems = {storage.stem(shard["name"]) for shard in _shards(layout)}
    return [
        f"{path} is not in the manifest"
        for kind in (".tar", ".parquet")
        for path in storage.list_files(layout.shards, kind)
        if storage.stem(path) not in stems
    ]
