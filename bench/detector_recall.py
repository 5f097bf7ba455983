"""Recall of a trained detector on altered photographs that it never saw, beside hashes.

    python -m bench.detector_recall --detector OUT/detector.safetensors --sources PHOTOS_DIR \\
        --negatives DIR_OR_TAR [DIR_OR_TAR ...] [--trained-on RUN ...]

The protocol is that of `bench.overlap_recall`: each source photograph is altered in every way of
`dedup.distortions`; false positives are counted over all pairs of a source and an unrelated image. Sources
that are near an image of --trained-on are left out. "raw" is the cosine of the network's vectors, "centred"
that relative to the training mean, "normalised" the similarity that openwit uses. The peers need pdqhash and
imagehash.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from bench.overlap_recall import Ours, described, encoder_scores, peer_scores, peers, photographs, rows
from bench.tables import show
from dedup import search, training_set
from dedup.decode_images import decode_jpeg
from dedup.detector import augment, detector_file
from dedup.detector.train import proxy_accuracy, views_of
from dedup.distortions import DISTORTIONS
from dedup.same_picture import features, verify
from pipeline.data import views
from pipeline.data.descriptors import describe
from pipeline.data.views import FEW, VIEWS

NEAR = 0.6  # similarity of hashes from which a source counts as trained on
RATES = (1e-4, 1e-6, 1e-7)
PROXY = 1_712  # photographs, the paper's batch


class Descriptors:
    """The descriptors of n images from which the three similarities are computed."""

    def __init__(self, detector: detector_file.LearnedDetector, thumbnails: np.ndarray) -> None:
        self.raw = detector.raw(thumbnails)
        self.centred = detector.normaliser.centred(self.raw)
        self.biases = detector.biases(self.centred)

    def similarity(self, other: "Descriptors", kind: str) -> np.ndarray:
        """Return all similarities, [n, m]."""
        if kind == "raw":
            return self.raw @ other.raw.T
        products = self.centred @ other.centred.T
        return products - self.biases[:, None] - other.biases if kind == "normalised" else products


def squeezed(images: list[np.ndarray], side: int, chosen: tuple[views.View, ...] = VIEWS[:1]) -> np.ndarray:
    return np.concatenate([views.thumbnails(views.inner(rgb), chosen, side) for rgb in images])


def best_view(similarity: np.ndarray, count: int) -> np.ndarray:
    """Return the similarity of the best view: [q, n * views] to [q, n]."""
    return similarity.reshape(len(similarity), -1, count).max(axis=2)


def unseen(sources: list[np.ndarray], shards: list[str]) -> list[np.ndarray]:
    """Return the sources that are near no image of the shards."""
    if not shards:
        return sources
    thumbs = []
    for path in shards:
        found = training_set.find(path)
        for shard in found.shards:
            for sample in training_set.read(shard, found.is_run):
                rgb = decode_jpeg(sample.image)
                if rgb is not None:
                    thumbs.append(views.thumbnail(views.inner(rgb)))
    trained = described(np.stack(thumbs))
    ours = Ours(sources, trained, views.VIEWS[:1], NEAR)
    near = set(ours.hits(trained).example.tolist())
    print(
        f"{len(near)} of {len(sources)} sources are near one of {len(thumbs):,} trained images, and left out"
    )
    return [rgb for n, rgb in enumerate(sources) if n not in near]


def verified_shares(
    found: dict[str, np.ndarray], limit: float, sources: list[np.ndarray], copies: dict[str, list[np.ndarray]]
) -> tuple[dict[str, float], dict[str, float]]:
    """Return by distortion the share of copies above a threshold, and of those that are verified too."""
    known = [features(rgb) for rgb in sources]
    candidates, kept = {}, {}
    for name, scores in found.items():
        above = np.flatnonzero(scores[: len(sources)] > limit)
        good = sum(
            any(verify(features(np.ascontiguousarray(one)), known[n]).verified for one in (rgb, rgb[:, ::-1]))
            for n in above
            for rgb in [views.inner(copies[name][n])]
        )
        candidates[name], kept[name] = len(above) / len(sources), good / len(sources)
    return candidates, kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--detector", required=True)
    parser.add_argument("--sources", type=Path, required=True)
    parser.add_argument("--negatives", type=Path, nargs="+", required=True)
    parser.add_argument("--trained-on", nargs="*", default=[], help="shards that the detector was trained on")
    parser.add_argument("--count", type=int, default=500, help="sources at most")
    parser.add_argument(
        "--negative-count", type=int, default=30_000, help="images of each negative collection at most"
    )
    parser.add_argument("--verify", type=int, default=100, help="sources whose copies are verified")
    parser.add_argument("--encoder", nargs="*", default=[], help="encoders that are compared with")
    parser.add_argument("--no-peers", action="store_true", help="measure the detector alone")
    parser.add_argument("--out", type=Path, help="write the figures as JSON as well")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    search.use_one_thread()
    torch.set_num_threads(1)
    began = time.process_time()
    detector = detector_file.read(args.detector)
    sources = [views.inner(rgb) for rgb, _ in zip(photographs(args.sources), range(args.count), strict=False)]
    sources = unseen(sources, args.trained_on)
    negatives = [
        rgb
        for path in args.negatives
        for rgb, _ in zip(photographs(path), range(args.negative_count), strict=False)
    ]
    # As the job does, images without detail are set apart.
    thumbs = [views.thumbnail(views.inner(rgb)) for rgb in negatives]
    detailed = [n for n, one in enumerate(thumbs) if describe(one[None]).qualities[0] >= 25]
    negatives, unrelated = (
        [negatives[n] for n in detailed],
        described(np.stack([thumbs[n] for n in detailed])),
    )
    pairs = len(sources) * len(negatives)
    copies = {
        name: [np.ascontiguousarray(f(rgb, np.random.default_rng([n, 7]))) for n, rgb in enumerate(sources)]
        for name, f in DISTORTIONS.items()
    }
    results: list[tuple[str, float, dict[str, Any]]] = []
    if not args.no_peers:
        for label, bits in peers().items():
            print(label, end=": ")
            results += rows(label, *_with_pairs(peer_scores(bits, sources, copies, negatives), pairs))
        for path in args.encoder:
            found = _with_pairs(encoder_scores(path, sources, copies, negatives), pairs)
            results += rows(Path(path).stem, *found)
        queries = {
            name: described(np.stack([views.thumbnail(views.inner(rgb)) for rgb in images]))
            for name, images in copies.items()
        }
        for chosen, lowest in ((views.VIEWS[:1], 0.05), (views.VIEWS, 0.2)):
            ours = Ours(sources, unrelated, chosen, lowest)
            scores = {name: ours.own(one) for name, one in queries.items()}
            results += rows(
                f"sign hash and colour-DCT, {len(chosen)} views",
                ours.hits(unrelated).similarity,
                pairs,
                scores,
            )

    spent = time.process_time()
    others = Descriptors(detector, squeezed(negatives, detector.side))
    rate = len(negatives) / (time.process_time() - spent)
    altered = {name: Descriptors(detector, squeezed(one, detector.side)) for name, one in copies.items()}
    limit, final = 0.0, {}
    for chosen in dict.fromkeys((VIEWS[:1], FEW, detector.views)):
        references = Descriptors(detector, squeezed(sources, detector.side, chosen))
        for kind in ("raw", "centred", "normalised"):
            against = best_view(others.similarity(references, kind), len(chosen)).ravel()
            scores = {
                name: np.diagonal(best_view(one.similarity(references, kind), len(chosen)))
                for name, one in altered.items()
            }
            label = f"detector, {kind}, {len(chosen)} view{'s' if len(chosen) > 1 else ''}"
            found = rows(label, against, pairs, scores)
            results += found
            limit, final = found[RATES.index(1e-6)][1], scores
    some = sources[: args.verify]
    candidates, kept = verified_shares(final, limit, some, copies)
    results.append((f"candidates at 1e-06, of {len(some)}", limit, candidates))
    results.append((f"verified, of {len(some)}", limit, kept))
    everything = [*sources, *negatives][:PROXY]
    pairs_of_views = views_of([augment.source(rgb, detector.side) for rgb in everything], detector.side)
    first, second = (detector.network.embed(part.numpy()) for part in pairs_of_views)
    accuracy = proxy_accuracy(torch.from_numpy(first), torch.from_numpy(second))

    show(
        f"{len(sources)} sources, {len(negatives):,} unrelated images, {pairs:.2e} pairs",
        ("method, false-positive rate", "threshold", *DISTORTIONS),
        [(label, f"{t:.3g}", *(f"{row[name]:.3f}" for name in DISTORTIONS)) for label, t, row in results],
    )
    print(
        f"Proxy task, {len(everything):,} photographs never trained on: {accuracy:.1%} find their other view"
    )
    print(f"{rate:,.0f} images/s described on one core; CPU time {time.process_time() - began:.0f} s")
    if args.out:
        args.out.write_text(
            json.dumps(
                {
                    "about": detector.about, "proxy_accuracy": accuracy, "images_per_second": rate,
                    "rows": [[label, t, {k: float(v) for k, v in row.items()}] for label, t, row in results],
                },
                indent=1,
            )
        )  # fmt: skip


def _with_pairs(
    found: tuple[np.ndarray, dict[str, np.ndarray]], pairs: int
) -> tuple[np.ndarray, int, dict[str, np.ndarray]]:
    return found[0], pairs, found[1]


if __name__ == "__main__":
    main()
