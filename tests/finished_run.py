"""A finished run written by hand, for texts that no crawl would be so unlucky to meet."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline import config, manifest, run_folder, schemas, storage
from pipeline.checked_manifest import Crawled, Manifest, ManifestRound, ManifestShard
from pipeline.fetch.parts import Fetched, Round
from pipeline.fetch.unit_log import UnitLog
from pipeline.http.fetch_url import Outcome
from pipeline.options import CrawlConfig
from pipeline.run_folder import Layout
from pipeline.shards import Sample, write_shard
from pipeline.stages import Rounds
from tests.scenes import jpeg, scene

MOMENT = datetime(2026, 3, 1, 12, tzinfo=UTC)


def build(
    folder: Path, captions: Sequence[str], queries: Sequence[str] = ("dog",), *,
    url: str = "https://a.test/x.jpg", sites: Sequence[str] = ("a.test",), per_shard: int = 10,
    queries_path: str = "q.txt", **options: Any,
) -> Layout:  # fmt: skip
    """Write shards of one sample a caption, rejected rows with the same texts, counts, logs, manifest."""
    layout = Layout(str(folder))
    shards = tuple(
        _shard(layout, number, captions[start : start + per_shard], url, len(queries))
        for number, start in enumerate(range(0, len(captions), per_shard))
    )
    rejected = [("0" * 32, url, text, url, "candidates", "language", text, 1, "") for text in captions]
    rejected += [("0" * 32, url, text, url, "fetch", "robots_disallow", text, 1, "") for text in captions]
    schemas.write_table(f"{layout.rejected}/a.parquet", schemas.to_table(rejected, schemas.REJECTED_ROWS))
    ones = np.full(len(queries), len(captions))
    totals = manifest.write_query_counts(
        f"{layout.root}/query_counts.parquet", list(queries), 20_000, matched=ones,
        untried=np.zeros(len(queries), int), kept_present=np.stack([ones, ones]),
    )  # fmt: skip
    _log(layout, sites, len(captions))
    settings = CrawlConfig(queries=queries_path, source=("pages.warc.gz",), out=layout.root, **options)
    count, moment = len(captions), MOMENT.isoformat() if captions else None
    by_reason = {"candidates/language": count, "fetch/robots_disallow": count} if count else {}
    rounds = (ManifestRound(images=2 * count, bytes=9 * count, reasons={"": count}),)
    found = Manifest(
        configuration=config.effective(settings), versions={"openwit": "0"}, seed=0,
        crawled=Crawled(first=moment, last=moment),
        counts=manifest.counts_of(3 * count, count, count, by_reason), rejected_sampled=False,
        images_seen=3 * count, queries=totals, shards=shards, rounds=rounds,
    )  # fmt: skip
    manifest.write(layout.manifest, found)
    return layout


def _shard(layout: Layout, number: int, captions: Sequence[str], url: str, queries: int) -> ManifestShard:
    name, count = f"{number:05d}", len(captions)
    keys = [f"{name}{index:04d}" for index in range(count)]
    pictures = [jpeg(scene(index % 5, 96, 128)) for index in range(count)]
    base = f"{layout.shards}/{name}"
    Path(base).parent.mkdir(parents=True, exist_ok=True)
    samples = [Sample(*row, b"{}") for row in zip(keys, pictures, captions, strict=True)]
    tar = write_shard(Path(f"{base}.tar"), samples)
    ids = list(range(queries))
    table = pa.table(
        {
            "key": keys, "url": [url] * count, "caption": captions, "captions": [[text] for text in captions],
            "width": pa.array([128] * count, pa.int32()), "height": pa.array([96] * count, pa.int32()),
            "original_width": pa.array([128 + n for n in range(count)], pa.int32()),
            "original_height": pa.array([96] * count, pa.int32()), "sha256": ["00"] * count, "uid": keys,
            "query_ids": pa.array([ids] * count, pa.list_(pa.int32())),
            "matched_query_ids": pa.array([ids] * count, pa.list_(pa.int32())), "page_url": [url] * count,
            "source": ["pages.warc.gz"] * count, "lang": ["en"] * count,
            "lang_score": pa.array([0.5 + n / 100 for n in range(count)], pa.float32()),
            "phash": ["00"] * count, "format": ["jpeg"] * count,
            "bytes": pa.array([1000 + n for n in range(count)], pa.int64()),
            "http_status": pa.array([200] * count, pa.int16()),
            "fetched_at": pa.array([MOMENT] * count, pa.timestamp("ms", "UTC")),
            "score_sharpness": pa.array([n / 7 for n in range(count)], pa.float32()),
        }
    )  # fmt: skip
    schemas.write_table(f"{base}.parquet", table)
    return ManifestShard(
        name=f"{name}.tar", samples=count, bytes=tar.bytes, sha256=tar.sha256,
        parquet_sha256=storage.sha256_file(f"{base}.parquet"),
    )  # fmt: skip


def _log(layout: Layout, sites: Sequence[str], count: int) -> None:
    log = UnitLog()
    for number in range(count):
        answer = Outcome("u", "u", "", "", 200, b"", "", 0.02 * (number + 1), "", None)
        site = sites[number % len(sites)]
        log.add(site, answer, "", 9, MOMENT.timestamp() + number)
        log.add(site, answer._replace(status=0, elapsed=0.0), "robots_disallow", 0, MOMENT.timestamp())
    path = storage.join(layout.round(0), "00000-0000.jsonl")
    storage.write_bytes(path, log.lines(requests=count))
    unit = Fetched(
        name="00000-0000", unit="", path="", blob="", log=path, images=count, bytes=9 * count, seconds=1.0,
        reasons={"": count},
    )  # fmt: skip
    one = Round(name="0", units=(unit,), merged=(), images=count, bytes=9 * count, reasons={"": count})
    run_folder.finish_stage(layout, Rounds(rounds=(one,)))
