"""Recall at fixed false-positive rates on altered photographs, beside PDQ, pHash and dHash.

    python -m bench.overlap_recall --sources PHOTOS_DIR --negatives DIR_OR_TAR ... [--encoder FILE ...]

Each source photograph is altered in every way of `dedup.distortions`; the copies are queries, the sources the
references. False positives are counted over all pairs of a source and an unrelated image; a rate below one
pair is given as the threshold that no pair reaches. "views" is the search of `openwit overlap` as it runs,
"verified" its candidates at the floor that verification keeps. "reversed": the copy is the evaluation image,
and the source the training image, with its crops. --encoder: SSCD or any other, as `overlap --detector` takes
it. PDQ is openwit's own where pdqhash is absent (the bits are the same); pHash and dHash need imagehash.
"""

import argparse
import importlib.util
import resource
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from bench.tables import show
from dedup import search
from dedup.detector.encoder import EncoderDetector
from dedup.distortions import DISTORTIONS
from dedup.same_picture import GATE, aligned_correlation, features, verify
from dedup.search import References, Whitening
from dedup.training_crops import CROPS, describe_crops
from pipeline.data import views
from pipeline.data.descriptors import Descriptors, describe
from pipeline.images.pdq import pdq

Bits = Callable[[np.ndarray], np.ndarray]
RATES = (1e-4, 1e-6, 1e-7)
SUFFIXES = (".jpg", ".jpeg", ".png")


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


class Ours:
    """The search over some views; scores of pairs under the floor are not computed."""

    def __init__(
        self, sources: list[np.ndarray], negatives: Descriptors, chosen: tuple[views.View, ...], floor: float
    ) -> None:
        thumbs = np.concatenate([views.thumbnails(rgb, chosen) for rgb in sources])
        self.whitening, self.floor, self.chosen = Whitening.fit(negatives.colours), floor, chosen
        found = described(thumbs)
        self.references = References(
            found.hashes, search.quantised(self.whitening.apply(found.colours)), len(chosen)
        )

    def hits(self, queries: Descriptors) -> search.Hits:
        return search.search(queries, self.references, self.whitening, floor=self.floor)

    def own(self, queries: Descriptors) -> np.ndarray:
        """Return each query's similarity to the source of the same number, -1 under the floor."""
        hits, scores = self.hits(queries), np.full(len(queries.hashes), -1.0)
        mine = hits.query == hits.example
        scores[hits.query[mine]] = hits.similarity[mine]
        return scores


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


def threshold(scores: np.ndarray, pairs: int, rate: float) -> float:
    """Return the score that `rate` of the pairs exceeds; `scores` holds at least the highest ones."""
    allowed = int(rate * pairs)
    falling = np.sort(scores)[::-1]
    assert len(falling) > allowed, "the floor is too high to count this rate"
    return float(falling[allowed])


def rows(
    label: str, against: np.ndarray, pairs: int, found: dict[str, np.ndarray]
) -> list[tuple[str, float, dict[str, Any]]]:
    """Return label, threshold and recall by distortion at each rate."""
    limits = [(rate, threshold(against, pairs, rate)) for rate in RATES]
    return [(f"{label}, {rate:.0e}", t, {n: (s > t).mean() for n, s in found.items()}) for rate, t in limits]


def peer_scores(
    bits: Bits, sources: list[np.ndarray], copies: dict[str, list[np.ndarray]], negatives: list[np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return minus the distances of all unrelated pairs, and of each copy to its source."""
    began = time.process_time()
    signs = {name: np.stack([bits(rgb) for rgb in images]).astype(np.float32) * 2 - 1
             for name, images in [*copies.items(), ("", sources), ("-", negatives)]}  # fmt: skip
    print_rate(sum(map(len, signs.values())), began)
    against = (signs["-"] @ signs[""].T - signs[""].shape[1]).ravel() / 2
    return against, {name: ((signs[name] * signs[""]).sum(1) - signs[""].shape[1]) / 2 for name in copies}


def print_rate(images: int, began: float) -> None:
    """Print how many images per second this process describes."""
    print(f"{images / max(time.process_time() - began, 1e-9):,.0f} images/s of one core")


def encoder_scores(
    path: str, sources: list[np.ndarray], copies: dict[str, list[np.ndarray]], negatives: list[np.ndarray]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Return the similarities of all unrelated pairs, and of each copy to its source, by an encoder."""
    detector, spent = EncoderDetector(path), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    vectors = {name: np.concatenate([detector.embed(views.squeeze(views.inner(rgb), detector.side)[None])
                                     for rgb in images])
               for name, images in [*copies.items(), ("", sources), ("-", negatives)]}  # fmt: skip
    detector.close()  # only then is its child's time counted
    spent = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - spent
    print(f"{path}: {sum(map(len, vectors.values())) / max(spent, 1e-9):,.0f} images/s of one core")
    return (vectors["-"] @ vectors[""].T).ravel(), {
        name: (vectors[name] * vectors[""]).sum(1) for name in copies
    }


def crop_scores(ours: "Ours", pictures: list[np.ndarray]) -> np.ndarray:
    """Return each picture's similarity, by its crops, to the example of its number, -1 under the floor."""
    hits, scores = ours.hits(describe_crops(pictures)), np.full(len(pictures), -1.0)
    mine = hits.query // len(CROPS) == hits.example
    np.maximum.at(scores, hits.example[mine], hits.similarity[mine])
    return scores


def verified(
    ours: Ours, sources: list[np.ndarray], images: list[np.ndarray], queries: Descriptors
) -> tuple[set[tuple[int, int]], int]:
    """Return the (query, source) candidates that are verified, and how many there were."""
    hits, known, kept = ours.hits(queries), {}, set()
    for query, example, view, mirrored in zip(
        hits.query, hits.example, hits.view, hits.mirrored, strict=True
    ):
        rgb = views.inner(images[query])[:, ::-1] if mirrored else views.inner(images[query])
        rgb = np.ascontiguousarray(rgb)
        shown = views.thumbnail(sources[example], ours.chosen[view])
        if aligned_correlation(views.thumbnail(rgb), shown) < GATE:
            continue
        if example not in known:
            known[example] = features(sources[example])
        if verify(features(rgb), known[example]).verified:
            kept.add((int(query), int(example)))
    return kept, len(hits.query)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--negatives", type=Path, nargs="+", required=True)
    parser.add_argument("--count", type=int, default=500, help="sources at most")
    parser.add_argument(
        "--negative-count", type=int, default=30_000, help="images of each negative collection at most"
    )
    parser.add_argument("--verify", type=int, default=100, help="sources whose copies are verified")
    parser.add_argument("--encoder", nargs="*", default=[], help="encoders that are compared with")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    search.use_one_thread()
    began = time.process_time()
    sources = [views.inner(rgb) for rgb, _ in zip(photographs(args.sources), range(args.count), strict=False)]
    negatives = [
        rgb
        for path in args.negatives
        for rgb, _ in zip(photographs(path), range(args.negative_count), strict=False)
    ]
    copies = {
        name: [np.ascontiguousarray(f(rgb, np.random.default_rng([n, 7]))) for n, rgb in enumerate(sources)]
        for name, f in DISTORTIONS.items()
    }
    # As the job does, images without detail are set apart.
    detailed = [
        rgb for rgb in negatives if describe(views.thumbnail(views.inner(rgb))[None]).qualities[0] >= 25
    ]
    print(f"{len(negatives) - len(detailed)} of {len(negatives)} unrelated images have too little detail")
    negatives, pairs = detailed, len(sources) * len(detailed)
    unrelated = described(np.stack([views.thumbnail(views.inner(rgb)) for rgb in negatives]))
    queries = {
        name: described(np.stack([views.thumbnail(views.inner(rgb)) for rgb in images]))
        for name, images in copies.items()
    }

    results: list[tuple[str, float, dict[str, Any]]] = []
    for label, bits in peers().items():
        print(label, end=": ")
        against, found = peer_scores(bits, sources, copies, negatives)
        results += rows(label, against, pairs, found)
    for path in args.encoder:
        against, found = encoder_scores(path, sources, copies, negatives)
        results += rows(Path(path).stem, against, pairs, found)
    whole = Ours(sources, unrelated, views.VIEWS[:1], 0.05)
    every = Ours(sources, unrelated, views.VIEWS, 0.2)
    for label, ours in (("openwit, 1 view", whole), (f"openwit, {len(views.VIEWS)} views", every)):
        against, found = (
            ours.hits(unrelated).similarity,
            {name: ours.own(one) for name, one in queries.items()},
        )
        results += rows(label, against, pairs, found)

    limit, reverse = threshold(against, pairs, 1e-6), {}
    described_sources = described(np.stack([views.thumbnail(rgb) for rgb in sources[: args.verify]]))
    for name, images in copies.items():
        cut = [views.inner(rgb) for rgb in images[: args.verify]]
        whole = Ours(cut, unrelated, views.VIEWS, 0.2).own(described_sources)
        parts = crop_scores(Ours(cut, unrelated, views.VIEWS[:1], 0.2), sources[: args.verify])
        reverse[name] = (np.maximum(whole, parts) > limit).mean()
    results.append((f"reversed, of {args.verify}, 1e-06", limit, reverse))

    floor = Ours(sources[: args.verify], unrelated, views.VIEWS, search.FLOOR)
    floor.references = References(
        *(part[: args.verify * len(views.VIEWS)] for part in every.references[:2]), len(views.VIEWS)
    )
    candidates, kept = {}, {}
    for name, one in queries.items():
        first = Descriptors(*(part[: args.verify] for part in one))
        candidates[name] = (floor.own(first) >= search.FLOOR).mean()
        kept[name] = sum(q == e for q, e in verified(floor, sources, copies[name], first)[0]) / args.verify
    results.append((f"candidates, of {args.verify}", search.FLOOR, candidates))
    results.append((f"verified, of {args.verify}", search.FLOOR, kept))
    floor.references = every.references
    false, tried = verified(floor, sources, negatives, unrelated)

    show(
        f"{len(sources)} sources, {len(negatives):,} unrelated images, {pairs:.2e} pairs",
        ("method, false-positive rate", "threshold", *DISTORTIONS),
        [(label, f"{t:.3g}", *(f"{found[name]:.3f}" for name in DISTORTIONS)) for label, t, found in results],
    )
    print(
        f"Of {tried} unrelated pairs at or above the floor {len(false)} were verified: {sorted(false)[:20]}"
    )
    print(f"CPU time {time.process_time() - began:.0f} s")


if __name__ == "__main__":
    main()
