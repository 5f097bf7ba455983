"""A pool of real photographs with captions as the web has them: skewed, half of them noise.

Classes are those of CIFAR-10 and of clothing; how many photographs each has follows Zipf's law. A caption
names the class in a real alt text, in place of one of its words. Noise is the web's: real alt texts at wrong
pictures, another class's caption, boilerplate and file names, and pictures that come again, encoded again,
under other captions.

Queries must not match wrong captions more often than right captions, or a choice by queries would choose the
noise: both are the same alt texts, so of the same lengths and as rich in queries, and wrong classes are as
frequent as they are among right captions.
"""

import hashlib
import io
import itertools
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from pipeline import config, manifest
from pipeline.captions.match import Matcher, tokens
from pipeline.checked_manifest import Crawled, Manifest, ManifestRound
from pipeline.data.descriptors import describe
from pipeline.data.views import thumbnail
from pipeline.options import CrawlConfig
from pipeline.run_folder import Layout
from pipeline.shards import Sample, encode_json, write_shard

SIDE = 32
SHARD = 5_000
TEST = 200  # photographs of a class at most
BOILERPLATE = (
    "click to enlarge picture", "stock photo", "thumbnail for version as of", "image", "logo",
    "embedded image permalink", "profile photo", "no image available", "share this",
)  # fmt: skip


class Photo(NamedTuple):
    """Name a photograph's class and hold its pixels as stored."""

    label: str
    jpeg: bytes


def stored(data: bytes, quality: int = 92) -> bytes:
    """Return a photograph cut to a square of 32 pixels, as JPEG."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    image = image.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=quality)
    return sink.getvalue()


def photographs(data: Path) -> tuple[dict[str, list[bytes]], dict[str, list[bytes]]]:
    """Return the training and the test photographs by class, in an order of hashes."""
    found: dict[str, dict[str, list[bytes]]] = {"train": {}, "test": {}}
    with tarfile.open(data / "images/cifar10-images.tar.gz") as tar:
        for member in tar:
            if member.name.endswith(".jpg"):
                *_, split, label, _ = member.name.split("/")
                found[split].setdefault(label, []).append(tar.extractfile(member).read())  # type: ignore[union-attr]
    for split in ("train", "validation", "test"):
        for path in sorted((data / "images/clothing_cc0" / split).glob("*/*")):
            kind = "train" if split == "train" else "test"
            found[kind].setdefault(path.parent.name, []).append(path.read_bytes())
    for by_class in found.values():
        for photos in by_class.values():
            photos.sort(key=lambda one: hashlib.sha256(one).digest())
    return found["train"], found["test"]


def zipf(train: dict[str, list[bytes]], largest: int, exponent: float) -> dict[str, int]:
    """Return how many photographs of each class the pool has, the most frequent class first."""
    most = min(largest, max(map(len, train.values())))
    many = sorted((one for one in train if len(train[one]) >= most), key=_order)
    rest = sorted((one for one in train if one not in many), key=lambda one: (-len(train[one]), one))
    # The heads are classes that have as many; then the two kinds take turns.
    turns = itertools.chain.from_iterable(itertools.zip_longest(many[4:], rest))
    ranked = [*many[:4], *filter(None, turns)]
    return {one: min(len(train[one]), round(largest / rank**exponent)) for rank, one in enumerate(ranked, 1)}


def _order(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def pairs(
    train: dict[str, list[bytes]], counts: dict[str, int], alts: list[str], seed: int
) -> Iterator[tuple[Photo, str, str]]:
    """Yield (photograph, caption, kind of pair)."""
    rng = np.random.default_rng(seed)
    clean = [
        (Photo(label, stored(data)), label)
        for label, count in counts.items()
        for data in train[label][:count]
    ]

    def caption(label: str) -> str:
        alt = alts[int(rng.integers(len(alts)))].split()
        place = int(rng.integers(len(alt)))
        return " ".join([*alt[:place], label, *alt[place + 1 :]])

    for photo, label in clean:
        yield photo, caption(label), "clean"
    for alt in itertools.islice(itertools.cycle(alts), int(0.7 * len(clean))):
        photo, _ = clean[int(rng.integers(len(clean)))]
        other = stored(photo.jpeg, int(rng.integers(60, 90)))
        yield Photo(photo.label, other), alt, "wrong alt"
    for _ in range(int(0.15 * len(clean))):
        photo, _ = clean[int(rng.integers(len(clean)))]
        yield (
            Photo(photo.label, stored(photo.jpeg, 91)),
            caption(clean[int(rng.integers(len(clean)))][1]),
            "wrong class",
        )
    for number in range(int(0.15 * len(clean))):
        photo, _ = clean[int(rng.integers(len(clean)))]
        text = (
            BOILERPLATE[int(rng.integers(len(BOILERPLATE)))]
            if rng.random() < 0.6
            else f"IMG_{number:04d}.JPG"
        )
        yield Photo(photo.label, stored(photo.jpeg, 89)), text, "boilerplate"
    for _ in range(int(0.3 * len(clean))):  # of few pictures, many times
        photo, label = clean[int(len(clean) * rng.random() ** 6)]
        yield Photo(label, stored(photo.jpeg, int(rng.integers(70, 95)))), caption(label), "again"


def write(folder: Path, data: Path, largest: int, exponent: float, words: int, seed: int = 0) -> None:
    """Write FOLDER/run, a finished run of the pool, and FOLDER/test, class folders; again the same bytes."""
    train, test = photographs(data)
    counts = zipf(train, largest, exponent)
    for label in counts:
        (folder / "test" / label).mkdir(parents=True, exist_ok=True)
        for number, photo in enumerate(test[label][:TEST]):
            (folder / "test" / label / f"{number:03d}.jpg").write_bytes(stored(photo, 95))
    alts = [
        text
        for text in pq.read_table(data / "text/img2dataset_test_10000.parquet")["TEXT"].to_pylist()
        if text
    ]
    common = Counter(word for alt in alts for word in {*tokens(alt)} if word.isalpha()).most_common(words)
    queries = [
        *counts,
        *(word for word, _ in sorted(common, key=lambda one: (-one[1], one[0])) if word not in counts),
    ]
    rows = _rows(list(pairs(train, counts, alts, seed)), Matcher(queries))
    (folder / "classes.json").write_text(json.dumps(counts))
    _write_run(Layout(str(folder / "run")), rows, queries)


def _rows(found: list[tuple[Photo, str, str]], matcher: Matcher) -> list[dict[str, Any]]:
    rows = []
    for number, (photo, caption, kind) in enumerate(found):
        pixels = np.asarray(Image.open(io.BytesIO(photo.jpeg)))
        matched = sorted(matcher.match(caption))
        rows.append({
            "uid": hashlib.sha256(f"{number}".encode() + photo.jpeg).hexdigest()[:32], "jpeg": photo.jpeg,
            "caption": caption, "kind": kind, "label": photo.label, "matched_query_ids": matched,
            "phash": describe(thumbnail(pixels)[None]).hashes.tobytes().hex(),
        })  # fmt: skip
    return sorted(rows, key=lambda row: row["uid"])


def _sample(key: str, row: dict[str, Any]) -> Sample:
    inside = {"key": key, "uid": row["uid"], "captions": [row["caption"]]}
    return Sample(key, row["jpeg"], row["caption"], encode_json(inside))


def _write_run(layout: Layout, rows: list[dict[str, Any]], queries: list[str]) -> None:
    shards = []
    Path(layout.shards).mkdir(parents=True, exist_ok=True)
    ids = pa.list_(pa.int32())
    for number, start in enumerate(range(0, len(rows), SHARD)):
        own, name = rows[start : start + SHARD], f"{number:05d}"
        keys = [f"{name}{index:04d}" for index in range(len(own))]
        base = f"{layout.shards}/{name}"
        tar = write_shard(Path(f"{base}.tar"), map(_sample, keys, own))
        columns = {
            column: [row[column] for row in own] for column in ("uid", "caption", "kind", "label", "phash")
        }
        matched = pa.array([row["matched_query_ids"] for row in own], ids)
        table = pa.table({"key": keys, **columns, "captions": [[row["caption"]] for row in own],
                          "matched_query_ids": matched, "query_ids": matched})  # fmt: skip
        shards.append(manifest.describe_shard(base, name, table, tar).entry)
    found = np.bincount([one for row in rows for one in row["matched_query_ids"]], minlength=len(queries))
    totals = manifest.write_query_counts(
        layout.query_counts, queries, len(rows), matched=found, untried=np.zeros(len(queries), int),
        kept_present=np.stack([found, found]),
    )  # fmt: skip
    settings = CrawlConfig(queries="queries.txt", source=("photographs",), out="run")
    counts = manifest.counts_of(len(rows), len(rows), len(rows), {})
    manifest.write(layout.manifest, Manifest(
        configuration=config.effective(settings), versions={}, seed=0,
        crawled=Crawled(first=None, last=None), counts=counts, rejected_sampled=False, queries=totals,
        shards=tuple(shards), rounds=(ManifestRound(images=len(rows), bytes=0, reasons={}),),
    ))  # fmt: skip
