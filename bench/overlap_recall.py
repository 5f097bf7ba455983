"""Recall at fixed false-positive rates on altered photographs: hashes, detectors and encoders in one table.

    python -m bench.overlap_recall --sources PHOTOS_DIR --negatives DIR_OR_TAR ... [--detector lite FILE ...]

Each source photograph is altered in every way of `dedup.distortions`; the copies are queries, the sources the
references. False positives are counted over all pairs of a source and an unrelated image; a rate below one
pair is given as the threshold that no pair reaches. A source that stands among --negatives too, pixel for
pixel, is not counted against itself: name the sources' own collection to measure within a kind.

--detector takes what `openwit overlap --detector` takes: lite, a file of `openwit detector train`, or an
encoder such as SSCD. "openwit, 94 views" is the search of `openwit overlap` as it runs. "reversed": the copy
is the evaluation image, and the source the training image, with its crops. "verified": the copies among the
candidates, at the floor of the hashes or at a detector's threshold, that verification keeps. PDQ is openwit's
own where pdqhash is absent (the bits are the same); pHash and dHash need imagehash. Images/s are by CPU time
of this process and its children, over the sources and their copies. Rows are printed as they come, and as a
table at the end.
"""

import argparse
import functools
import hashlib
import importlib.util
import resource
import tarfile
import time
from collections.abc import Callable, Iterator
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image

from bench.tables import show
from dedup import search
from dedup.detector import detector_file, learned_search
from dedup.detector.detector_file import LearnedDetector
from dedup.detector.neighbours import Described
from dedup.distortions import DISTORTIONS
from dedup.same_picture import GATE, PictureFeatures, aligned_correlation, features, verify
from dedup.search import References, Whitening
from dedup.training_crops import CROPS, describe_crops
from pipeline.data import views
from pipeline.data.descriptors import Descriptors, describe
from pipeline.data.views import FEW, PARTS, VIEWS, View
from pipeline.images.pdq import pdq

Bits = Callable[[np.ndarray], np.ndarray]
Pictures = list[np.ndarray]
Scores = dict[str, np.ndarray]
"""By distortion, of each copy with its source."""
RATES = (1e-4, 1e-6, 1e-7)
SUFFIXES = (".jpg", ".jpeg", ".png")
SIX = (VIEWS[0], *(PARTS[n] for n in (0, 4, 12, 20, 24)))
"""The whole, and 71% of the sides at the corners and in the centre."""


def photographs(path: Path) -> Iterator[np.ndarray]:
    """Yield RGB images, the shorter side 256 at most, of a folder, a tar or a file."""
    for data in members(path):
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        if bgr is None:
            continue
        scale = 256 / min(bgr.shape[:2])
        if scale < 1:
            bgr = cv2.resize(bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        yield np.ascontiguousarray(bgr[..., ::-1])


def members(path: Path) -> Iterator[bytes]:
    if path.suffix.lower() in SUFFIXES:
        yield path.read_bytes()
        return
    if path.is_dir():
        yield from (p.read_bytes() for p in sorted(path.rglob("*")) if p.suffix.lower() in SUFFIXES)
        return
    with tarfile.open(path) as archive:
        for member in archive:
            if member.isfile() and member.name.lower().endswith(SUFFIXES):
                yield archive.extractfile(member).read()  # type: ignore[union-attr]


def described(thumbnails: np.ndarray) -> Descriptors:
    parts = [describe(thumbnails[start : start + 512]) for start in range(0, len(thumbnails), 512)]
    return Descriptors(*(np.concatenate(column) for column in zip(*parts, strict=True)))


class Row(NamedTuple):
    """A row of the table; fields only."""

    label: str
    threshold: float
    rate: float | None
    """Images described a second of a core."""
    recall: dict[str, float]

    def texts(self) -> tuple[str, ...]:
        rate = "" if self.rate is None else f"{self.rate:,.0f}"
        return (
            self.label,
            rate,
            f"{self.threshold:.3g}",
            *(f"{self.recall[name]:.3f}" for name in DISTORTIONS),
        )


class Test:
    """The sources, their copies and the unrelated images, and the rows that were measured with them."""

    def __init__(self, sources: Pictures, negatives: Pictures, verify: int) -> None:
        self.sources = sources
        # As the job does, images without detail are set apart.
        thumbs = [views.thumbnail(views.inner(rgb)) for rgb in negatives]
        detailed = [n for n, one in enumerate(thumbs) if describe(one[None]).qualities[0] >= 25]
        print(f"{len(negatives) - len(detailed)} of {len(negatives)} unrelated images have too little detail")
        self.unrelated = [negatives[n] for n in detailed]
        self.described_unrelated = described(np.stack([thumbs[n] for n in detailed]))
        self.copies = {
            name: [
                np.ascontiguousarray(f(rgb, np.random.default_rng([n, 7]))) for n, rgb in enumerate(sources)
            ]
            for name, f in DISTORTIONS.items()
        }
        marks = [
            np.array([_mark(rgb) for rgb in some]) for some in (map(views.inner, self.unrelated), sources)
        ]
        self.counted = marks[0][:, None] != marks[1]
        """bool [unrelated, sources]: False for a source and itself."""
        self.pairs = int(self.counted.sum())
        self.verified_of = min(verify, len(sources))
        self.rows: list[Row] = []
        print(f"{len(sources)} sources, {len(self.unrelated):,} unrelated images, {self.pairs:,} pairs, "
              f"{self.counted.size - self.pairs} of a source and itself left out")  # fmt: skip
        print(*_COLUMNS, sep=" | ", flush=True)

    def photographs(self) -> Pictures:
        """Return the copies, by distortion, and then the sources."""
        return [*chain.from_iterable(self.copies.values()), *self.sources]

    def apart(self, found: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Divide what was computed of all photographs into that of copies and that of sources."""
        parts = np.split(found, len(self.copies) + 1)
        return dict(zip(self.copies, parts, strict=False)), parts[-1]

    def add(self, row: Row) -> None:
        self.rows.append(row)
        print(*row.texts(), sep=" | ", flush=True)

    def measure(
        self, label: str, rate: float | None, against: np.ndarray, own: Scores, floor: float
    ) -> float:
        """Add the rows of a method: `against` has the scores of unrelated pairs, all or those above a floor.

        Return the threshold of one false pair in a million.
        """
        limits = {one: threshold(against, self.pairs, one, floor) for one in RATES}
        for one, limit in limits.items():
            recall = {name: float((scores > limit).mean()) for name, scores in own.items()}
            self.add(Row(f"{label}, {one:.0e}", limit, rate, recall))
        return limits[1e-6]

    @functools.cache  # noqa: B019 - there is one test in a process
    def features(self, kind: str, number: int, mirrored: bool = False) -> PictureFeatures:
        """Return the keypoints of a copy by its distortion, of a source ("sources") or an unrelated image."""
        rgb = views.inner({"sources": self.sources, "unrelated": self.unrelated, **self.copies}[kind][number])
        return features(np.ascontiguousarray(rgb[:, ::-1] if mirrored else rgb))

    def is_verified(self, kind: str, number: int, source: int, mirrored: bool) -> bool:
        return verify(self.features(kind, number, mirrored), self.features("sources", source)).verified


def _mark(rgb: np.ndarray) -> str:
    return hashlib.sha256(str(rgb.shape).encode() + np.ascontiguousarray(rgb).tobytes()).hexdigest()


def cpu_seconds() -> float:
    """Return the CPU time of this process, and of children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def threshold(scores: np.ndarray, pairs: int, rate: float, floor: float) -> float:
    """Return the score that `rate` of the pairs exceeds; the floor where fewer reach it."""
    allowed = int(rate * pairs)
    return float(np.sort(scores)[::-1][allowed]) if len(scores) > allowed else floor


def peers() -> dict[str, Bits]:
    """Return functions from an image to the bits of its hash."""
    found: dict[str, Bits] = {}
    if importlib.util.find_spec("pdqhash"):
        import pdqhash

        found["PDQ"] = lambda rgb: pdqhash.compute(rgb)[0]
    else:
        found["PDQ"] = lambda rgb: np.unpackbits(np.frombuffer(bytes.fromhex(pdq(rgb).digits), np.uint8))
    if importlib.util.find_spec("imagehash"):
        import imagehash

        found["pHash 64"] = lambda rgb: imagehash.phash(Image.fromarray(rgb)).hash.ravel()
        found["pHash 256"] = lambda rgb: imagehash.phash(Image.fromarray(rgb), hash_size=16).hash.ravel()
        found["dHash 64"] = lambda rgb: imagehash.dhash(Image.fromarray(rgb)).hash.ravel()
    return found


def by_bits(test: Test, label: str, bits: Bits) -> None:
    """Measure a hash of others, by minus the distance."""

    def signs(images: Pictures) -> np.ndarray:
        return np.stack([bits(rgb) for rgb in images]).astype(np.float32) * 2 - 1

    photos = test.photographs()
    signs(photos[:1])  # what it imports when it is first called is not counted
    began = cpu_seconds()
    found = signs(photos)
    rate = len(photos) / (cpu_seconds() - began)
    copies, sources = test.apart(found)
    against = (signs(test.unrelated) @ sources.T - sources.shape[1])[test.counted] / 2
    own = {name: ((one * sources).sum(1) - sources.shape[1]) / 2 for name, one in copies.items()}
    test.measure(label, rate, against, own, -np.inf)


class Ours:
    """The search over some views; scores of pairs under the floor are not computed."""

    def __init__(
        self, sources: Pictures, whitening: Whitening, chosen: tuple[View, ...], floor: float
    ) -> None:
        found = described(np.concatenate([views.thumbnails(rgb, chosen) for rgb in sources]))
        colours = search.quantised(whitening.apply(found.colours))
        self.references = References(found.hashes, colours, len(chosen))
        self.whitening, self.floor, self.chosen = whitening, floor, chosen

    def hits(self, queries: Descriptors) -> search.Hits:
        return search.search(queries, self.references, self.whitening, floor=self.floor)

    def own(self, queries: Descriptors) -> np.ndarray:
        """Return each query's similarity to the source of the same number, -1 under the floor."""
        hits, scores = self.hits(queries), np.full(len(queries.hashes), -1.0)
        mine = hits.query == hits.example
        scores[hits.query[mine]] = hits.similarity[mine]
        return scores


def crop_scores(ours: Ours, pictures: Pictures) -> np.ndarray:
    """Return each picture's similarity, by its crops, to the example of its number, -1 under the floor."""
    hits, scores = ours.hits(describe_crops(pictures)), np.full(len(pictures), -1.0)
    mine = hits.query // len(CROPS) == hits.example
    np.maximum.at(scores, hits.example[mine], hits.similarity[mine])
    return scores


def verified(
    test: Test, ours: Ours, kind: str, images: Pictures, queries: Descriptors
) -> tuple[set[tuple[int, int]], int]:
    """Return the (query, source) candidates that are verified, and how many there were."""
    hits = ours.hits(queries)
    keep = test.counted[hits.query, hits.example] if kind == "unrelated" else np.ones(len(hits.query), bool)
    kept = set()
    for query, example, view, mirrored in zip(
        *(column[keep].tolist() for column in (hits.query, hits.example, hits.view, hits.mirrored)),
        strict=True,
    ):
        rgb = views.inner(images[query])[:, ::-1] if mirrored else views.inner(images[query])
        shown = views.thumbnail(test.sources[example], ours.chosen[view])
        if aligned_correlation(views.thumbnail(np.ascontiguousarray(rgb)), shown) < GATE:
            continue
        if test.is_verified(kind, query, example, bool(mirrored)):
            kept.add((query, example))
    return kept, int(keep.sum())


def by_hashes(test: Test) -> None:
    """Measure openwit's hashes and colours: one view, all, reversed, and with verification."""
    photos, unrelated = test.photographs(), test.described_unrelated
    began = cpu_seconds()
    found = described(np.stack([views.thumbnail(views.inner(rgb)) for rgb in photos]))
    rate = len(photos) / (cpu_seconds() - began)
    columns = [test.apart(column)[0] for column in found]
    queries = {name: Descriptors(*(column[name] for column in columns)) for name in test.copies}
    whitening, limit = Whitening.fit(unrelated.colours), 0.0
    for chosen, floor in ((VIEWS[:1], 0.05), (VIEWS, 0.2)):
        ours = Ours(test.sources, whitening, chosen, floor)
        hits = ours.hits(unrelated)
        against = hits.similarity[test.counted[hits.query, hits.example]]
        own = {name: ours.own(one) for name, one in queries.items()}
        limit = test.measure(f"openwit, {_views(chosen)}", rate, against, own, floor)

    some, reverse = test.sources[: test.verified_of], {}
    described_some = described(np.stack([views.thumbnail(rgb) for rgb in some]))
    for name, images in test.copies.items():
        cut = [views.inner(rgb) for rgb in images[: len(some)]]
        whole = Ours(cut, whitening, VIEWS, 0.2).own(described_some)
        parts = crop_scores(Ours(cut, whitening, VIEWS[:1], 0.2), some)
        reverse[name] = float((np.maximum(whole, parts) > limit).mean())
    test.add(Row(f"reversed, of {len(some)}, 1e-06", limit, None, reverse))

    floor = Ours(some, whitening, VIEWS, search.FLOOR)
    candidates, kept = {}, {}
    for name, one in queries.items():
        first = Descriptors(*(part[: len(some)] for part in one))
        candidates[name] = float((floor.own(first) >= search.FLOOR).mean())
        true = verified(test, floor, name, test.copies[name], first)[0]
        kept[name] = sum(q == e for q, e in true) / len(some)
    test.add(Row(f"candidates, of {len(some)}", search.FLOOR, None, candidates))
    test.add(Row(f"verified, of {len(some)}", search.FLOOR, None, kept))
    ours.floor = search.FLOOR
    false, tried = verified(test, ours, "unrelated", test.unrelated, unrelated)
    print(f"Of {tried:,} unrelated pairs at or above {search.FLOOR} {len(false)} were verified: "
          f"{sorted(false)[:20]}", flush=True)  # fmt: skip


def _views(chosen: tuple[View, ...]) -> str:
    return f"{len(chosen)} view{'s' if len(chosen) > 1 else ''}"


def _embedded(detector: detector_file.AnyDetector, images: Pictures, chosen: tuple[View, ...]) -> Described:
    parts = [
        learned_search.described(detector, learned_search.shown(images[n : n + 32], detector.side, chosen))
        for n in range(0, len(images), 32)
    ]
    return Described(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def by_detector(test: Test, path: str) -> None:
    """Measure a detector or encoder: by few views and by those that it asks for, and with verification."""
    photos = [views.inner(rgb) for rgb in test.photographs()]
    detector = detector_file.of_any_kind(path)
    _embedded(detector, photos[:1], VIEWS[:1])  # as it is compiled
    began = cpu_seconds()
    found = _embedded(detector, photos, VIEWS[:1])
    detector.close()  # only then is its child's time counted
    rate = len(photos) / (cpu_seconds() - began)

    detector, own_model = detector_file.of_any_kind(path), isinstance(detector, LearnedDetector)
    kinds = (VIEWS[:1], FEW, SIX, detector.views) if own_model else (detector.views,)
    union = tuple(dict.fromkeys(chain.from_iterable(kinds)))
    references = _embedded(detector, test.sources, union)
    others = _embedded(detector, [views.inner(rgb) for rgb in test.unrelated], VIEWS[:1])
    detector.close()
    copies = [test.apart(column)[0] for column in found]
    for chosen in dict.fromkeys(kinds):
        places = [union.index(view) for view in chosen]
        shown = Described(*(
            column.reshape(len(test.sources), len(union), -1)[:, places].reshape(-1, *column.shape[1:])
            for column in references
        ))  # fmt: skip
        against = _best_view(others, shown, len(chosen))[test.counted]
        own = {
            name: np.diagonal(_best_view(Described(*(column[name] for column in copies)), shown, len(chosen)))
            for name in test.copies
        }
        limit = test.measure(f"{Path(path).stem}, {_views(chosen)}", rate, against, own, -np.inf)
        if chosen == detector.views:
            kept = {
                name: sum(
                    any(test.is_verified(name, n, n, mirrored) for mirrored in (False, True))
                    for n in np.flatnonzero(scores[: test.verified_of] > limit).tolist()
                )
                / test.verified_of
                for name, scores in own.items()
            }
            test.add(Row(f"{Path(path).stem}, verified, of {test.verified_of}, 1e-06", limit, None, kept))


def _best_view(queries: Described, shown: Described, count: int) -> np.ndarray:
    """Return the similarity of the best view of each source: [queries, sources]."""
    found = queries.vectors @ shown.vectors.T - queries.biases[:, None] - shown.biases
    return np.asarray(found.reshape(len(found), -1, count).max(axis=2))


_COLUMNS = ("method, false-positive rate", "images/s", "threshold", *DISTORTIONS)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--negatives", type=Path, nargs="+", required=True)
    parser.add_argument("--detector", nargs="*", default=[], help="lite, detectors and encoders")
    parser.add_argument("--no-hashes", action="store_true", help="measure the detectors alone")
    parser.add_argument("--count", type=int, default=500, help="sources at most")
    parser.add_argument(
        "--negative-count", type=int, default=30_000, help="images of each negative collection at most"
    )
    parser.add_argument("--verify", type=int, default=100, help="sources whose copies are verified")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    search.use_one_thread()
    torch.set_num_threads(1)
    test = Test(
        [views.inner(rgb) for rgb in islice(photographs(args.sources), args.count)],
        [rgb for path in args.negatives for rgb in islice(photographs(path), args.negative_count)],
        args.verify,
    )
    if not args.no_hashes:
        for label, bits in peers().items():
            by_bits(test, label, bits)
        by_hashes(test)
    for path in args.detector:
        by_detector(test, path)
    show(
        f"{len(test.sources)} sources, {len(test.unrelated):,} unrelated images, {test.pairs:.2e} pairs",
        _COLUMNS,
        [row.texts() for row in test.rows],
    )
    print(f"CPU time {cpu_seconds():.0f} s")


if __name__ == "__main__":
    main()
