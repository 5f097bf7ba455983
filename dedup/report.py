"""The overlap report: one HTML file with the paper's table and figure, and a gallery to set thresholds in.

Nothing is loaded from elsewhere. Captions, URLs and ids come from the web: they reach the page as escaped
text only, and a content security policy lets nothing run but the page's own script, named by its hash.
"""

import base64
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dedup import index
from dedup.contamination import Conclusion
from dedup.decode_images import decode_jpeg, preview
from dedup.figures import figure
from dedup.findings import Findings, SetFindings
from dedup.parts import ExampleIndex, MatchedShard
from pipeline import safe_html, schemas, urls
from pipeline.formats import count, p_value, percent, points

_SITES: Final = 12
_SCALE: Final = 10_000  # similarities travel as whole ten-thousandths
Place = tuple[str, str]
"""Shard and key: where a training image lies."""


def previews(results: list[MatchedShard], wanted: set[Place]) -> dict[Place, bytes]:
    """Return the small pictures of some training images, from the shards' match files."""
    found: dict[Place, bytes] = {}
    shards = {shard for shard, _ in wanted}
    for result in results:
        places = schemas.read_table(result.found, ["shard", "key"])
        if not len(places) or places["shard"][0].as_py() not in shards:
            continue
        pairs = list(zip(places["shard"].to_pylist(), places["key"].to_pylist(), strict=True))
        rows = np.flatnonzero([pair in wanted for pair in pairs]).tolist()
        if rows:
            pictures = (
                schemas.read_table(result.found, ["preview"])["preview"].take(pa.array(rows)).to_pylist()
            )
            found |= {pairs[row]: picture for row, picture in zip(rows, pictures, strict=True)}
    return found


def chosen(matches: pa.Table, name: str, count: int) -> pa.Table:
    """Return the pairs of a set that the gallery shows, by falling similarity, evenly over all ranks.

    Every example appears once, with the training image that decides on it, its best.
    """
    best = matches.filter(pc.and_(pc.equal(matches["dataset"], name), pc.equal(matches["rank"], 1)))
    best = best.sort_by([("similarity", "descending"), ("example_id", "ascending")])
    if len(best) <= count:
        return best
    rows = np.unique(np.linspace(0, len(best) - 1, count).round().astype(np.int64))
    return best.take(pa.array(rows))


def render(
    found: Findings, concluded: list[Conclusion], matches: pa.Table, results: list[MatchedShard],
    files: ExampleIndex, gallery: int, links: Sequence[tuple[str, str]] = (),
) -> str:  # fmt: skip
    """Return the page."""
    shown = {one.dataset.name: chosen(matches, one.dataset.name, gallery) for one in concluded}
    pictures = previews(
        results,
        {
            pair
            for table in shown.values()
            for pair in zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True)
        },
    )
    places = _places(files)
    sets = [
        {
            "numbers": safe_html.script_json(numbers(one)),
            "gallery": safe_html.script_json(
                list(_cards(one, shown[one.dataset.name], pictures, places, files))
            ),
            "sites": sites(matches, one),
            "shown": _shown(matches, one.dataset.name, len(shown[one.dataset.name])),
        }
        for one in concluded
    ]
    return safe_html.render(
        Path(__file__).parent, {"percent": percent, "points": points, "p": p_value},
        found=found, sets=list(zip(found.datasets, sets, strict=True)), worst=worst(found.datasets),
        answer=answer(found.datasets), scored=any(one.acc_all is not None for one in found.datasets),
        panels=figure(found.datasets), links=links,
    )  # fmt: skip


def worst(entries: Sequence[SetFindings]) -> int:
    """Return the set with the largest share of overlapping examples, on which the page opens."""
    return max(range(len(entries)), key=lambda n: (entries[n].contamination, entries[n].overlap))


def answer(entries: Sequence[SetFindings]) -> str:
    """Return in a sentence or two how much of the sets the training set holds, and whether it matters."""
    one, overlapping = entries[worst(entries)], sum(entry.overlap > 0 for entry in entries)
    if not overlapping:
        return f"None of it: no training image shows an example of {_sets(len(entries))}."
    low, high = percent(one.contamination_low), percent(one.contamination_high)
    among = f", the most of {len(entries)} sets; overlap in {overlapping}" if len(entries) > 1 else ""
    found = (
        f"{one.overlap:,} of the {count(one.examples, 'example')} of {one.name}, "
        f"{percent(one.contamination)} (95% interval {low} to {high}){among}."
    )
    if all(entry.p_value is None for entry in entries):
        return found
    gained = [entry.name for entry in entries if entry.significant]
    return f"{found} The overlap raises accuracy significantly on {', '.join(gained) or 'no set'}."


def _sets(number: int) -> str:
    return "the set" if number == 1 else f"any of the {number} sets"


def _shown(matches: pa.Table, name: str, shown: int) -> str:
    mask = pc.and_(pc.equal(matches["dataset"], name), pc.equal(matches["rank"], 1))
    total = int(pc.sum(mask).as_py() or 0)
    if not total:
        return "No training image comes near any example of this set."
    spread = "" if shown == total else f", evenly from the most to the least similar of {total:,}"
    return f"{shown:,} pairs{spread}."


def numbers(conclusion: Conclusion) -> dict[str, Any]:
    """Return the data by which the page counts at any threshold: examples with a verified match, best
    first."""
    data = conclusion.dataset
    rows = np.flatnonzero(np.isfinite(data.similarity))
    rows = rows[np.argsort(-data.similarity[rows], kind="stable")]
    return {
        "name": data.name,
        "examples": len(data.example_ids),
        "threshold": round(conclusion.threshold * _SCALE),
        "similarity": np.rint(data.similarity[rows] * _SCALE).astype(int).tolist(),
        "correct": None if data.correct is None else data.correct[rows].astype(int).tolist(),
        "right": None if data.correct is None else int(data.correct.sum()),
    }


def _places(files: ExampleIndex) -> dict[Place, tuple[int, int, str]]:
    table = schemas.read_table(files.examples)
    columns = (table[name].to_pylist() for name in ("dataset", "example_id", "offset", "length", "label"))
    return {
        (name, one): (offset, length, label)
        for name, one, offset, length, label in zip(*columns, strict=True)
    }


def _cards(
    conclusion: Conclusion,
    table: pa.Table,
    pictures: dict[Place, bytes],
    places: dict[Place, tuple[int, int, str]],
    files: ExampleIndex,
) -> Iterator[dict[str, Any]]:
    correct = (
        dict(zip(conclusion.dataset.example_ids, conclusion.dataset.correct.tolist(), strict=True))
        if conclusion.dataset.correct is not None
        else {}
    )
    rows = table.to_pylist()
    spots = [places[row["dataset"], row["example_id"]] for row in rows]
    jpegs = index.read_jpegs(files, [spot[:2] for spot in spots])
    for row, spot, jpeg in zip(rows, spots, jpegs, strict=True):
        rgb = decode_jpeg(jpeg)
        yield {
            "id": row["example_id"], "label": spot[2], "similarity": round(row["similarity"] * _SCALE),
            "verified": row["verified"], "refused": row["refused"], "inliers": row["inliers"],
            "correlation": round(row["correlation"], 2), "view": row["view"], "mirrored": row["mirrored"],
            "uid": row["uid"], "url": row["url"], "caption": row["caption"],
            "correct": correct.get(row["example_id"]), "hashes": _digits(row["hashes"]),
            "learned": _digits(row["learned"]),
            "left": "" if rgb is None else base64.b64encode(preview(rgb)).decode(),
            "right": base64.b64encode(pictures.get((row["shard"], row["key"]), b"")).decode(),
        }  # fmt: skip


def _digits(similarity: float | None) -> str:
    return "" if similarity is None else f"{similarity:.4f}"


def sites(matches: pa.Table, conclusion: Conclusion) -> list[tuple[str, int]]:
    """Return the sites that the overlapping training images of a set came from, most images first."""
    mask = pc.and_(pc.equal(matches["dataset"], conclusion.dataset.name), matches["verified"])
    own = matches.filter(pc.and_(mask, pc.greater_equal(matches["similarity"], conclusion.threshold - 1e-6)))
    found = dict(zip(own["uid"].to_pylist(), own["url"].to_pylist(), strict=True))
    counts: Counter[str] = Counter()
    for url in found.values():
        try:
            counts[urls.site(urls.canonical(url)) if url else "no URL"] += 1
        except urls.BadUrl:
            counts["no URL"] += 1
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_SITES]
