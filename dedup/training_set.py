"""Read the training side: an openwit run or anybody's WebDataset, one sample at a time."""

import posixpath
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import checked_manifest, dropped_samples, patterns, storage, untrusted, urls
from pipeline.data import webdataset
from pipeline.data.descriptors import Descriptors, unpack
from pipeline.parquet import BoundedFile
from pipeline.shards import read_shard

_MAX_CAPTIONS: Final = 64


class TrainingImage(NamedTuple):
    """One training sample; fields only."""

    uid: str
    """Of the run; for others the row's uid, else the URL's, else shard/key."""
    key: str
    url: str
    captions: tuple[str, ...]
    image: bytes


class TrainingSet(NamedTuple):
    """The shards of a training set; fields only."""

    shards: list[str]
    is_run: bool
    """Written by openwit: the strict reader takes them."""
    last_fetch: str
    """ISO 8601 moment of the last fetch, from a run's manifest; else empty."""


def find(path: str) -> TrainingSet:
    """Return the shards of a run, or of a folder or glob of .tar files; ValueError if there are none."""
    root = path.rstrip("/")
    manifest_path = storage.join(root, "manifest.json")
    if storage.exists(manifest_path):
        run = checked_manifest.shards_of(root)
        # Only shards in the manifest exist: a stopped job may have left other files.
        shards = [storage.join(root, "shards", shard.name) for shard in run.shards]
        if not shards:
            raise ValueError(f"{root} is a run without shards; `openwit crawl --out {root}` continues it")
        return TrainingSet(shards, True, (run.crawled and run.crawled.last) or "")
    if storage.exists(storage.join(root, "work")):
        raise ValueError(f"{root} is a run that is not finished; `openwit crawl --out {root}` continues it")
    shards = patterns.find(path, ".tar")
    if not shards:
        raise ValueError(f"no .tar shards at {path}; give a run's folder or a glob such as 'data/*.tar'")
    return TrainingSet(shards, False, "")


def read(path: str, is_run: bool, bad: Counter[str] | None = None) -> Iterator[TrainingImage]:
    """Yield the samples of a shard that have an image; those left out are counted in `bad`.

    Samples that extending a run has dropped are no part of it. ValueError for anything that is no tar.
    """
    bad = Counter() if bad is None else bad
    stem = patterns.archive_stem(path)
    with storage.open_input(path) as file:
        if is_run:
            gone = _dropped_keys(path)
            for sample in read_shard(file, bad):
                if sample.key in gone:
                    continue
                yield _image(stem, sample.key, sample.jpg, sample.json, sample.txt)
            return
        try:
            for other in webdataset.read(file, bad):
                if other.image is None:
                    bad["no_image"] += 1
                    continue
                text = other.parts.get("txt", b"").decode("utf-8", "replace")
                yield _image(stem, other.key, other.image, other.parts.get("json", b""), text)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


class StoredDescriptors(NamedTuple):
    """Samples of a run as its Parquet files know them: with descriptors, without images; fields only."""

    samples: list[TrainingImage]
    """`image` is empty."""
    descriptors: Descriptors


def read_described(path: str, batch: int) -> Iterator[StoredDescriptors] | None:
    """Yield a run's shard in batches from the Parquet file beside it; None if that holds no descriptors."""
    parquet = storage.sibling(path, ".parquet")
    if not storage.exists(parquet):
        return None
    with storage.open_input(parquet) as file:
        if "descriptor" not in pq.read_schema(file).names:
            return None
    return _described(parquet, batch)


def _dropped_keys(shard: str) -> frozenset[str]:
    """Return the keys of a run's shard that were dropped when the run was extended."""
    root = posixpath.dirname(posixpath.dirname(shard))
    manifest = storage.join(root, "manifest.json")
    if not storage.exists(manifest):
        return frozenset()
    return _dropped(root, storage.file_info(manifest)).keys(posixpath.basename(shard))


@lru_cache(maxsize=4)
def _dropped(root: str, manifest: storage.FileInfo) -> dropped_samples.Dropped:
    return dropped_samples.load(root, len(checked_manifest.shards_of(root).extensions))


def _described(parquet: str, batch: int) -> Iterator[StoredDescriptors]:
    columns = ["uid", "key", "url", "captions", "descriptor"]
    gone = _dropped_keys(storage.sibling(parquet, ".tar"))
    with storage.open_input(parquet) as file:
        reader = BoundedFile(file)
        groups = range(reader.metadata.num_row_groups)
        for rows in (found for group in groups for found in reader.batches(columns, group, rows=batch)):
            if gone:
                rows = rows.filter(pa.array([key not in gone for key in rows["key"].to_pylist()]))
            *texts, packed = (rows[name].to_pylist() for name in columns)
            samples = [
                TrainingImage(uid, key, url, tuple(captions[:_MAX_CAPTIONS]), b"")
                for uid, key, url, captions in zip(*texts, strict=True)
            ]
            yield StoredDescriptors(samples, unpack(packed))


def _image(stem: str, key: str, image: bytes, row_json: bytes, text: str) -> TrainingImage:
    row = _row(row_json)
    url = row.get("url")
    url = url if isinstance(url, str) else ""
    listed = row.get("captions")
    captions = [text, row.get("caption"), *(listed if isinstance(listed, list) else [])]
    unique = dict.fromkeys(c.strip() for c in captions if isinstance(c, str) and c.strip())
    return TrainingImage(_uid(row, url) or f"{stem}/{key}", key, url, tuple(unique)[:_MAX_CAPTIONS], image)


def _row(data: bytes) -> dict[str, Any]:
    try:
        return untrusted.parse_row(data) if data else {}
    except ValueError:
        return {}  # a foreign sample is found by shard and key as well


def _uid(row: dict[str, Any], url: str) -> str:
    uid = row.get("uid")
    if isinstance(uid, str) and 0 < len(uid) <= 200:
        return uid
    try:
        return urls.uid(urls.canonical(url)) if url else ""
    except urls.BadUrl:
        return ""
