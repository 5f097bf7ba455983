"""Fetch: one work unit in, one staged shard out.

A staged shard is a blob of encoded images, in the order in which the finished set wants them, and a table
with one row for every image that was tried. The table is written after the blob and the marker last.

Until then each image is kept as it is judged (`flow.kept`), failures too: anyone who continues the unit asks
only for the rest, in the time that the unit has left. Requests that were under way are sent again.

Fetching a URL twice does not give the same bytes, and a worker that was given up may still be running beside
its successor. So each attempt names its files itself, and only the files named by the marker count; of two
markers the first counts.
"""

import hashlib
import json
import os
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline import balance, hashlist, schemas, storage
from pipeline.data.descriptors import NOT_DESCRIBED
from pipeline.fetch.lanes import deadline, share
from pipeline.fetch.parts import Fetched, Unit
from pipeline.fetch.terms import Terms, of_pages
from pipeline.fetch.unit_log import UnitLog
from pipeline.flow import heartbeat, kept
from pipeline.http.fetch_thread import FetchLoop
from pipeline.http.fetch_url import LinkedTerms, Outcome
from pipeline.http.scheduler import Counts
from pipeline.images import said
from pipeline.images.decoder import Decoder
from pipeline.images.process import Processed
from pipeline.images.said import NOTHING, Said
from pipeline.images.scoring import Scorer, load, score_batches
from pipeline.options import FetchOptions, ImageOptions
from pipeline.rights.statements import terms as linked_terms
from pipeline.score.keep_if import KeepIf
from pipeline.tombstones import Tombstones
from pipeline.tombstones import load as load_tombstones

_EDITED: Final = -1
"""In a row's place: the file of the images that a scorer changed."""


_NOWHERE: Final = kept.Place(0, 0, 0)


@dataclass
class _Row:
    """The facts known of an image while its unit is worked on."""

    uid: bytes
    outcome: Outcome  # without its body
    size: int = 0  # bytes of the answer
    processed: Processed | None = None
    fetched_at: int = 0  # ms
    sha256: bytes | None = None
    place: kept.Place = _NOWHERE  # of the JPEG among the kept bytes
    scores: dict[str, Any] = field(default_factory=dict)
    """Optional columns of the shards: scores, and boxes of faces."""
    reason: str = ""
    detail: str = ""
    said: Said = NOTHING

    def header(self) -> kept.Header:
        """Return the part of the row that is stored beside its JPEG."""
        answer = self.outcome
        return {
            "key": self.uid.hex(), "reason": self.reason, "detail": self.detail,
            "final_url": answer.final_url, "status": answer.status, "elapsed": answer.elapsed,
            "size": self.size, "at": self.fetched_at, "sha256": self.sha256.hex() if self.sha256 else "",
            "processed": self.processed and self.processed._asdict() | {"jpeg": ""}, "said": list(self.said),
        }  # fmt: skip

    @classmethod
    def of(cls, record: kept.KeptRecord) -> "_Row":
        """Return the row that was kept."""
        known = record.header
        outcome = Outcome(
            "", known["final_url"], known["reason"], known["detail"], known["status"], b"", "",
            known["elapsed"], "", None,
        )  # fmt: skip
        processed = Processed(**known["processed"] | {"jpeg": b""}) if known["processed"] else None
        sha256 = bytes.fromhex(known["sha256"]) or None
        return cls(
            bytes.fromhex(known["key"]), outcome, known["size"], processed, known["at"], sha256,
            record.place, {}, known["reason"], known["detail"], Said(*known.get("said", ())),
        )  # fmt: skip


@dataclass(frozen=True)
class Refused:
    """The images that may not be stored: those of --hash-list, and those taken down."""

    listed: hashlist.HashList = field(default_factory=hashlist.HashList)
    tombstones: Tombstones = field(default_factory=Tombstones)

    def answer(self, outcome: Outcome, sha256: bytes) -> tuple[str, str]:
        """Return why the bytes of an answer are refused, reason and detail, or ("", "")."""
        if kind := self.listed.of_bytes(outcome.body, sha256):
            return "hash_listed", kind
        is_gone = self.tombstones.has_url(outcome.final_url) or self.tombstones.images.of_bytes(b"", sha256)
        return ("taken_down" if is_gone else ""), ""

    def picture(self, phash: str, pdq: str) -> tuple[str, str]:
        """Return why a picture is refused, however it is encoded, or ("", "")."""
        if kind := self.listed.of_picture(phash, pdq):
            return "hash_listed", kind
        return ("taken_down" if self.tombstones.images.of_picture(phash) else ""), ""


def receive(uid: bytes, outcome: Outcome, decoder: Decoder, now: int, refused: Refused) -> _Row:
    """Decode and resize one answer; whatever goes wrong becomes the row's reason.

    Nothing of a refused image is kept, neither hashes nor sizes.
    """
    row = _Row(uid, outcome._replace(body=b""), len(outcome.body), fetched_at=now)
    row.reason, row.detail = outcome.reason, outcome.detail
    if row.reason:
        return row
    sha256 = hashlib.sha256(outcome.body).digest()
    row.reason, row.detail = refused.answer(outcome, sha256)
    processed = None if row.reason else decoder.process(outcome.body)
    if processed is not None and processed.reason in ("decode_crash", "decode_memory"):
        processed = decoder.process(outcome.body)  # a stop of the crawl may have ended the decoder first
    if processed is not None:
        row.reason, row.detail = refused.picture(processed.phash, processed.pdq)
    if processed is None or row.reason:
        row.outcome = row.outcome._replace(final_url="")
        return row
    row.sha256, row.processed = sha256, processed
    row.reason, row.detail = processed.reason, processed.detail
    return row


def receive_safely(uid: bytes, outcome: Outcome, decoder: Decoder, refused: Refused, terms: Terms) -> _Row:
    """Return the row of an answer of now, by the terms that are honoured; an error becomes its reason."""
    now = int(time.time() * 1000)
    try:
        found = said.read(outcome.body, outcome.links) if not outcome.reason else Said()
        row = receive(uid, terms.judge(uid, outcome, found), decoder, now, refused)
        row.said = found if row.sha256 or row.reason == "licence" else Said()
        return row
    except OSError:  # the disk, not the image
        raise
    except Exception as error:  # noqa: BLE001 - one image must not end a unit: it is counted
        row = _Row(uid, outcome._replace(body=b""), len(outcome.body), fetched_at=now)
        row.reason, row.detail = "internal_error", f"{type(error).__name__}: {error}"
        return row


def score(
    rows: list[_Row],
    captions: list[list[str]],
    body: Callable[[kept.Place], bytes],
    edited: IO[bytes],
    scorer: Scorer,
    keep_if: KeepIf | None,
) -> None:
    """Score the fetched images in order, reject by `keep_if`; images the scorer changed go to `edited`."""
    samples = ((body(row.place), texts) for row, texts in zip(rows, captions, strict=True))
    scored = score_batches(scorer, samples)
    for index, row in enumerate(rows):
        row.scores = {name: float(values[index]) for name, values in scored.columns.items()}
        if keep_if is not None and not keep_if.check(row.scores):
            row.reason, row.detail = "score_filter", json.dumps(row.scores, sort_keys=True)
        if scored.boxes is not None:
            row.scores["faces"] = scored.boxes[index]
    for index, jpeg in scored.replacements.items():
        rows[index].place = kept.Place(_EDITED, edited.tell(), len(jpeg))
        edited.write(jpeg)


def _to_table(rows: list[_Row], blob: str, places: dict[bytes, tuple[int, int]]) -> pa.Table:
    def values(row: _Row) -> tuple[object, ...]:
        image, answer = row.processed, row.outcome
        size = (
            (image.width, image.height, image.original_width, image.original_height)
            if image
            else (0, 0, 0, 0)
        )
        exif, phash, quality = (image.exif, image.phash, image.quality) if image else ("", "", 0)
        offset, length = places.get(row.uid, (0, 0))
        detail = row.detail.encode("utf-8", "replace").decode()[: schemas.DETAIL_CHARACTERS]
        optional = row.scores | ({"iscc": image.iscc} if image and image.iscc else {})
        return (
            row.uid, row.reason, detail, answer.final_url, answer.status, row.fetched_at, row.size,
            row.sha256, image.format if image else "", *size, exif, phash, quality,
            json.dumps(optional, sort_keys=True) if optional else "", *row.said[:3],
            blob if length else "", offset, length,
        )  # fmt: skip

    return schemas.to_table(map(values, rows), schemas.FETCHED_ROWS)


class _State:
    """The state of a worker process between units: an event loop with its caches, and the decode child."""

    def __init__(self, worker: "FetchWorker") -> None:
        self.loop = FetchLoop(worker.fetch)
        self.scorer = load(*worker.scorer) if worker.scorer else None
        self.keep_if = KeepIf.parse(worker.keep_if) if worker.keep_if else None
        tombstones = load_tombstones(worker.root) if worker.root else Tombstones()
        self.refused = Refused(hashlist.load(worker.hash_list), tombstones)
        process = "process_with_pdq" if self.refused.listed.pdqs else "process"
        self.decoder = Decoder(worker.images, function=f"pipeline.images.process:{process}")
        # Several DoFns of a process share it; the last to let go ends the thread and the child.
        weakref.finalize(self, _close, self.loop, self.decoder)


def _close(loop: FetchLoop, decoder: Decoder) -> None:
    loop.close()
    decoder.close()


@dataclass(frozen=True, kw_only=True)
class FetchWorker:
    """Fetch one unit."""

    folder: str
    blobs: str
    """The name of the blobs' folder in the rows: it does not depend on the run's place."""
    fetch: FetchOptions
    images: ImageOptions
    seed: int
    scorer: tuple[str, ...] = ()
    keep_if: str = ""
    hash_list: str = ""
    licences: tuple[str, ...] = ()
    """Those that are kept, or () for all."""
    drop_synthetic: bool = False
    root: str = ""
    """Folder of the run, whose tombstones are honoured."""

    def open(self) -> _State:
        """Start the loop and the decode child, once a process."""
        return _State(self)

    def run(self, state: _State, task: Unit) -> Fetched:
        """Write NAME@ATTEMPT.blob, .parquet and .jsonl, and the marker; a row for each image, by uid."""
        return kept.attempt(self.folder, task.name, partial(self._fetch, state, task))

    def _fetch(self, state: _State, task: Unit, attempt: str, store: kept.Kept) -> Fetched:
        unit = schemas.read_table(task.path)
        base = storage.join(self.folder, task.name) + attempt
        starts = schemas.run_starts(unit["uid"])
        first = unit.take(pa.array(starts))
        uids = first["uid"].to_pylist()
        order = balance.sample_order(schemas.high_bits(first["uid"]), self.seed)
        started, log, requests = time.monotonic(), UnitLog(), Counts()
        rows = self._known(first, store, log)
        # An interruption gives a site no more time, nor less, so that the arrived images stay the same.
        left = deadline(task.seconds, len(starts)) - store.spent
        missing = first.filter(pa.array(np.array([uid not in rows for uid in uids], bool)))
        pages = of_pages(unit)
        terms = Terms(self.fetch.opt_out, self.drop_synthetic, self.licences, pages)
        for row in self._receive_all(state, missing, store, log, requests, left, terms):
            rows[row.uid] = row
        ordered = [rows[uid] for uid in uids]
        with storage.atomic_output(f"{base}.blob") as blob:
            places = self._finish(state, unit, starts, ordered, order, store, blob)
        table = _to_table(ordered, f"{self.blobs}/{task.name}{attempt}", places)
        schemas.write_table(f"{base}.parquet", table)
        storage.write_bytes(f"{base}.jsonl", log.lines(store.requests + requests.requests))
        reasons = table.group_by("reason").aggregate([([], "count_all")])
        counts = dict(zip(reasons["reason"].to_pylist(), reasons["count_all"].to_pylist(), strict=True))
        return Fetched(
            name=task.name, unit=task.path, path=f"{base}.parquet", blob=f"{base}.blob", log=f"{base}.jsonl",
            images=len(ordered), bytes=int(pc.sum(table["bytes"]).as_py() or 0),
            seconds=round(store.spent + time.monotonic() - started, 3), reasons=dict(sorted(counts.items())),
        )  # fmt: skip

    def _known(self, first: pa.Table, store: kept.Kept, log: UnitLog) -> dict[bytes, _Row]:
        """Return the rows that earlier attempts kept, of the images that are still wanted."""
        sites = dict(zip(first["uid"].to_pylist(), first["site"].to_pylist(), strict=True))
        rows = {row.uid: row for row in map(_Row.of, store.records) if row.uid in sites}
        for row in rows.values():
            log.add(sites[row.uid], row.outcome, row.reason, row.size, row.fetched_at / 1000)
        heartbeat.count(images=len(rows), bytes=sum(row.size for row in rows.values()))
        return rows

    def _receive_all(
        self, state: _State, first: pa.Table, store: kept.Kept, log: UnitLog, requests: Counts,
        deadline: float, terms: Terms,
    ) -> Iterator[_Row]:  # fmt: skip
        uids, sites, lanes = (first[name].to_pylist() for name in ("uid", "site", "lanes"))
        shares = {site: share(n) for site, n in zip(sites, lanes, strict=True)}
        site_of = dict(zip(uids, sites, strict=True))
        rows = zip(uids, first["fetch_url"].to_pylist(), strict=True)
        linked: dict[object, LinkedTerms] = {
            uid: found for uid, text in terms.pages.items() if (found := linked_terms(text))
        }
        answers = state.loop.run(rows, shares=shares, deadline=deadline, counts=requests, terms=linked)
        for uid, outcome in answers:
            assert isinstance(uid, bytes)
            row = receive_safely(uid, outcome, state.decoder, state.refused, terms)
            if row.reason not in kept.NO_VERDICTS:
                jpeg = row.processed.jpeg if row.processed and not row.reason else b""
                row.place = store.add(row.header(), jpeg, requests.requests)
            if row.processed is not None:
                row.processed = row.processed._replace(jpeg=b"")
            heartbeat.count(images=1, bytes=row.size)
            log.add(site_of[uid], outcome, row.reason, row.size, row.fetched_at / 1000)
            yield row

    def _finish(
        self, state: _State, unit: pa.Table, starts: np.ndarray, rows: list[_Row], order: np.ndarray,
        store: kept.Kept, blob: Path,
    ) -> dict[bytes, tuple[int, int]]:  # fmt: skip
        """Score if asked, then write the blob in the set's order; return where each image is."""
        good = [int(i) for i in np.argsort(order, kind="stable") if not rows[i].reason]
        places: dict[bytes, tuple[int, int]] = {}
        with tempfile.TemporaryFile(dir=blob.parent) as edited, blob.open("wb") as sink:
            if state.scorer is not None and good:
                stops = np.append(starts, len(unit))[1:]
                texts = unit["caption"].to_pylist()
                captions = [texts[starts[i] : stops[i]] for i in good]
                score([rows[i] for i in good], captions, store.body, edited, state.scorer, state.keep_if)
                edited.flush()
            for row in (rows[i] for i in good if not rows[i].reason):
                place = row.place
                places[row.uid] = (sink.tell(), place.length)
                if place.file == _EDITED:
                    sink.write(os.pread(edited.fileno(), place.length, place.offset))
                else:
                    sink.write(store.body(place))
                assert row.processed is not None, "a row without a reason was decoded"
                sink.write(bytes.fromhex(row.processed.descriptor) or NOT_DESCRIBED)
        return places
