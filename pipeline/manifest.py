"""The manifest of a finished run: what it is, from what, and that its counts add up."""

import importlib.metadata
import json
import platform
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import config, pilot, records, storage
from pipeline.options import CrawlConfig
from pipeline.reasons import REASONS
from pipeline.run import Layout, read_json
from pipeline.shards import read_shard

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


def write_query_counts(
    path: str,
    queries: list[str],
    per_query: int,
    *,
    matched: np.ndarray,
    untried: np.ndarray,
    kept_present: np.ndarray,
) -> dict[str, int]:
    """Publish query_counts.parquet and return its totals.

    short: what a query lacks although there was more to try, min(per_query - kept, matched - tried).
    """
    kept, present = kept_present
    assert (kept <= per_query).all(), "a query keeps more than --per-query samples"
    short = np.minimum(per_query - kept, untried)
    table = pa.table(
        {
            "query_id": pa.array(np.arange(len(queries)), pa.int32()),
            "query": queries,
            **{name: pa.array(values, pa.int64()) for name, values in
               (("matched", matched), ("kept", kept), ("present", present), ("short", short))},
        }
    )  # fmt: skip
    records.write_table(path, table)
    return {
        "queries": len(queries),
        "matched": int((matched > 0).sum()),
        "full": int((kept == per_query).sum()),
        "short": int((short > 0).sum()),
    }


def write(
    layout: Layout, options: CrawlConfig, found: dict[str, Any], done: dict[str, Any],
    prints: dict[str, str], semantics: dict[str, dict[str, Any]],
) -> None:  # fmt: skip
    """Publish manifest.json, after all that it names."""
    candidates, rounds = done["candidates"], done["fetch"]["rounds"]
    shards = [
        {"name": f"{r['name']}.tar", **{name: r[name] for name in ("samples", "bytes")},
         "sha256": r["tar"], "parquet_sha256": r["parquet"]}
        for r in found["shards"]
    ]  # fmt: skip
    yields = None
    if options.sample < 1:
        yields = pilot.yields(read_json(pilot.path_of(layout)), candidates, rounds, shards)
    write_json(
        layout.manifest,
        {
            "format": "openwit run", "format_version": 1,
            "configuration": config.effective(options), "semantics": semantics, "fingerprints": prints,
            "versions": versions(), "seed": options.seed,
            "crawled": {"first": found["first_fetch"], "last": found["last_fetch"]},
            "counts": counts_of(
                candidates["candidates"], found["captions"], found["samples"], found["rejected"]
            ),
            "rejected_sampled": found["rejected_sampled"], "images_seen": candidates["images"],
            "rounds": [{key: r[key] for key in ("images", "bytes", "reasons")} for r in rounds],
            "queries": found["queries"],
            "near_duplicates": found["near_duplicates"],
            "shards": shards,
            "pilot": yields,
        },
    )  # fmt: skip


def verify_shards(layout: Layout) -> list[str]:
    """Return what is wrong with the shards: names, hashes, counts, tar against Parquet; [] if nothing."""
    listed = read_json(layout.manifest)["shards"]
    stems = {shard["name"].removesuffix(".tar") for shard in listed}
    problems = [
        f"{path} is not in the manifest"
        for kind in (".tar", ".parquet")
        for path in storage.list_files(layout.shards, kind)
        if path.rpartition("/")[2].removesuffix(kind) not in stems
    ]
    for shard in listed:
        tar = storage.join(layout.shards, shard["name"])
        parquet = tar.removesuffix(".tar") + ".parquet"
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
