"""A pilot: a hash sample of the source pieces, and the expected numbers for the whole source."""

from collections.abc import Sequence
from typing import Any

import xxhash

from pipeline.checked_manifest import ManifestShard, Pieces, PilotYields, WholeSource
from pipeline.fetch.parts import Round
from pipeline.formats import size
from pipeline.run_folder import Layout, read_json
from pipeline.stages import Candidates

FILE = "source.list"  # in work/candidates: how many pieces the source has, and how many of them are read


def path_of(layout: Layout) -> str:
    """Return where the numbers of pieces are noted."""
    return layout.stage("candidates", FILE)


def pieces_read(layout: Layout) -> Pieces:
    """Return the numbers of pieces that were noted."""
    return Pieces(**read_json(path_of(layout)))


def sample(pieces: list[Any], share: float, seed: int) -> list[Any]:
    """Return a hash sample of the pieces, at least one piece; all of them for a share of 1."""
    if share >= 1:
        return pieces
    order = sorted(pieces, key=lambda piece: xxhash.xxh3_64_intdigest(repr(piece).encode(), seed=seed))
    chosen = set(order[: max(1, round(len(pieces) * share))])
    return [piece for piece in pieces if piece in chosen]


def yields(
    pieces: Pieces, candidates: Candidates, rounds: Sequence[Round], shards: Sequence[ManifestShard]
) -> PilotYields:
    """Return the yields of a piece, which shares each step kept, and the same rates over all pieces.

    The extrapolation is linear, an upper bound: more pieces repeat each other's URLs, and the cap on a query
    leaves more out.
    """
    tries = sum(one.images for one in rounds)
    arrived = sum(one.reasons.get("", 0) for one in rounds)
    received = sum(one.bytes for one in rounds)
    samples, stored = sum(shard.samples for shard in shards), sum(shard.bytes for shard in shards)
    factor = pieces.all / pieces.read
    return PilotYields(
        pieces=pieces,
        candidates_per_piece=candidates.candidates / pieces.read,
        matched_share=_share(candidates.rows, candidates.candidates),
        fetched_share=_share(arrived, tries),
        kept_share=_share(samples, arrived),
        received_bytes_per_try=_share(received, tries),
        stored_bytes_per_sample=_share(stored, samples),
        whole=WholeSource(
            candidates=round(candidates.candidates * factor), tries=round(tries * factor),
            samples=round(samples * factor), received_bytes=round(received * factor),
            stored_bytes=round(stored * factor),
        ),
    )  # fmt: skip


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def lines(found: PilotYields) -> list[tuple[str, str]]:
    """Return (name, value) rows for the final table of a pilot."""

    def percent(share: float | None) -> str:
        return "" if share is None else f"{share:.1%}"

    def average(count: float | None) -> str:
        return "" if count is None else size(count)

    whole = found.whole
    return [
        ("pieces read", f"{found.pieces.read:,} of {found.pieces.all:,}"),
        ("captions a piece", f"{found.candidates_per_piece:,.1f}"),
        ("matched, of captions", percent(found.matched_share)),
        ("fetched, of tries", percent(found.fetched_share)),
        ("kept, of fetched", percent(found.kept_share)),
        ("received a try", average(found.received_bytes_per_try)),
        ("stored a sample", average(found.stored_bytes_per_sample)),
        ("whole source, at most: captions", f"{whole.candidates:,}"),
        ("tries", f"{whole.tries:,}"),
        ("samples", f"{whole.samples:,}"),
        ("received", size(whole.received_bytes)),
        ("stored", size(whole.stored_bytes)),
    ]
