"""The page: sentences, tables and figures of one collected run, as one HTML file that loads nothing.

Captions, URLs and queries come from the web: they reach the page as escaped text with controls made visible,
never as links, and a content security policy lets nothing run but the page's own script.
"""

import posixpath
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from pipeline import querylist, safe_html, storage
from pipeline.captions import contacts
from pipeline.checked_manifest import ManifestRound
from pipeline.formats import count, percent, seconds, size
from pipeline.reasons import REASONS
from pipeline.report import figures
from pipeline.report.collect import Collected
from pipeline.report.funnel import Cause, is_opt_out
from pipeline.report.network import quantile
from pipeline.report.numbers import Site, busiest, opt_out_costs
from pipeline.report.statements import is_balanced, options_of, timeframe

_SECTIONS: Final = {
    "funnel": "Funnel", "opt-outs": "Opt-outs", "balance": "Balance", "content": "Content",
    "gallery": "Gallery", "extremes": "Worth a look", "crawl": "Crawl", "rejected": "Left out",
    "provenance": "Provenance",
}  # fmt: skip
_STAGES: Final = {
    "candidates": "Captions that pass the filters",
    "select": "Chosen to be fetched, each caption of a URL once",
    "fetch": "Arrived as good images, within robots.txt and opt-outs",
    "finish": "In the set",
}
_ROWS: Final = 12
_SHOWN_AT_ONCE: Final = 18  # pictures of the gallery that are not folded away
_WEBTEXT_BYTES: Final = 40e9


def render(run: Collected, root: str) -> str:
    """Return the page of a run whose folder is `root`."""
    found, shown, listed = run.samples, busiest(run), query_report(run)
    own = storage.join(root, "report", "index.html")
    balanced = is_balanced(run.manifest)
    return safe_html.render(
        Path(__file__).parent,
        {"percent": percent, "size": size, "seconds": seconds, "data_url": safe_html.data_url,
         "masked": contacts.mask},
        count=count, is_opt_out=is_opt_out, folded=folded, name=posixpath.basename(root.rstrip("/")),
        is_balanced=balanced, manifest=run.manifest, counts=run.manifest.counts,
        found=found, balance=run.balance,
        reasons=REASONS, gallery=run.gallery[:_SHOWN_AT_ONCE], more=run.gallery[_SHOWN_AT_ONCE:],
        merged=run.merged_images, rejected=list(run.rejected.items()),
        sections=[item for item in _SECTIONS.items() if _has(run, item[0])],
        lead=lead(run), tiles=tiles(run),
        steps=[(step, stage_text(run, step.stage)) for step in run.steps],
        opt_outs=opt_out_costs(run), balance_text=balance_text(run), words_text=words_text(run),
        people_text=people_text(run),
        crawl_text=crawl_text(run), sites=shown, sites_text=sites_text(run, shown),
        figures=drawings(run), titles=titles(run),
        languages=_shares(found.languages), formats=_shares(found.formats), sources=_shares(found.sources),
        licences=_shares(found.licences), synthetic=_shares(found.synthetic),
        by_captions=_numbered(found.by_captions), by_queries=_numbered(found.by_queries),
        extremes=[
            (measure.title, measure.unit, [(_value(value), picture) for value, picture in rows])
            for measure, rows in run.extremes
        ],
        outcomes=outcomes(run.manifest.rounds),
        links=safe_html.link(own, listed, "the queries") if listed else (),
    )  # fmt: skip


def query_report(run: Collected) -> str:
    """Return the page that `openwit queries` leaves beside a run's list, which may be gone, or ""."""
    listed = run.manifest.configuration.get("queries")
    is_built = isinstance(listed, str) and listed.endswith(".parquet")
    return querylist.report_of(str(listed)) if is_built else ""


def _has(run: Collected, section: str) -> bool:
    if section in ("gallery", "extremes"):
        return run.samples.samples > 0
    if section == "balance":
        return is_balanced(run.manifest)
    return section != "rejected" or bool(run.rejected)


def _value(value: float) -> str:
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def folded(causes: Sequence[Cause]) -> tuple[Sequence[Cause], Sequence[Cause]]:
    """Return the reasons of a stage that are shown at once, and the rare ones, by falling count.

    The first five are shown, and whatever stands for three captions and for a hundredth of those that the
    stage leaves out; fewer than three reasons that are left are not worth a fold.
    """
    least = max(3, sum(cause.captions for cause in causes) / 100)
    shown = max(5, sum(cause.captions >= least for cause in causes))
    return (causes[:shown], causes[shown:]) if len(causes) - shown >= 3 else (causes, [])


def _shares(counts: dict[str, int]) -> list[tuple[str, int, float]]:
    """Return name, count and share of the largest; the remainder is a single row."""
    total = max(sum(counts.values()), 1)
    rows = list(counts.items())
    if len(rows) > _ROWS:
        rest = rows[_ROWS - 1 :]
        rows = [*rows[: _ROWS - 1], (f"{len(rest):,} others", sum(number for _, number in rest))]
    return [(name or "not known", number, number / total) for name, number in rows]


def _numbered(counts: np.ndarray) -> list[tuple[str, int, float]]:
    if len(counts) > _ROWS:
        counts = np.append(counts[: _ROWS - 1], counts[_ROWS - 1 :].sum())
    total, last = max(int(counts.sum()), 1), len(counts) - 1
    filled = np.flatnonzero(counts).tolist()
    return [(f"{i}{' or more' if i == last else ''}", int(counts[i]), counts[i] / total) for i in filled]


def stage_text(run: Collected, stage: str) -> str:
    """Return the description of a candidate after a stage."""
    balanced = is_balanced(run.manifest)
    if stage == "candidates":
        return _STAGES[stage] + (" and match a query" if balanced else "")
    if stage == "finish":
        merged = options_of(run.manifest).dedup != "off"
        done = ["merging equal images"] * merged + ["the exact balance"] * balanced
        return f"{_STAGES[stage]}, after {' and '.join(done)}" if done else _STAGES[stage]
    return _STAGES[stage]


def outcomes(rounds: Sequence[ManifestRound]) -> list[tuple[str, list[int]]]:
    """Return each outcome with its images by round, good ones first, then by falling count."""
    words = {reason for one in rounds for reason in one.reasons}
    rows = [(word, [one.reasons.get(word, 0) for one in rounds]) for word in words]
    return sorted(rows, key=lambda row: (row[0] != "", -sum(row[1]), row[0]))


def drawings(run: Collected) -> dict[str, str]:
    """Return the figures for which there is something to draw, and "" for the others."""
    found, balance, network = run.samples, run.balance, run.network
    images = options_of(run.manifest).images
    stored = images.image_size if images.resize_mode != "keep" else 0
    made = dict.fromkeys(("counts", "share", "words", "sides", "aspects", "sites", "pace", "latency"), "")
    if balance.queries > 1 and is_balanced(run.manifest):
        made |= {"counts": figures.counts_per_query(balance), "share": figures.running_share(balance)}
    if found.samples:
        made |= {
            "words": figures.words(found), "sides": figures.sides(found, stored),
            "aspects": figures.aspects(found),
        }  # fmt: skip
    if len(found.sites) > 1:
        made["sites"] = figures.sites(found)
    if network.pace:
        made["pace"] = figures.pace(network)
    if any(network.latency):
        made["latency"] = figures.latency(network)
    return made


def titles(run: Collected) -> dict[str, str]:
    """Return the finding of each figure, with its number."""
    found, balance, network = run.samples, run.balance, run.network
    said: dict[str, str] = {}
    if balance.queries:
        share = balance.head_share
        said["counts"] = f"{percent(balance.below_cap)} of the queries match fewer samples than the cap"
        said["share"] = (
            f"The most frequent 1% of the queries have {percent(share['matched'])} of the matches and "
            f"{percent(share['kept'])} of the kept samples"
        )
    if found.samples:
        said["words"] = f"Half of the captions have {count(middle(found.by_words), 'word')} or fewer"
        said["sides"] = (
            f"Half of the images have a shorter side of {count(middle(found.by_side), 'pixel')} or less"
        )
        half = len(found.by_aspect) // 2
        wide = found.by_aspect[half:].sum() / found.samples
        said["aspects"] = f"{percent(wide)} of the images are square or wider than high"
        counts = np.sort(found.sites["samples"].to_numpy())[::-1]
        needed = int(np.searchsorted(np.cumsum(counts), found.samples / 2)) + 1
        said["sites"] = (
            f"{count(needed, 'site has', 'sites have')} half of the samples, "
            f"the largest {percent(counts[0] / found.samples)}"
        )
    if network.pace:
        fastest = max(row[1] for row in network.pace) / network.width
        said["pace"] = f"At its fastest {fastest:,.0f} images per second were answered"
    if any(network.latency):
        said["latency"] = (
            f"Half of the answers took less than {seconds(quantile(network.latency, 0.5))}, "
            f"95% less than {seconds(quantile(network.latency, 0.95))}"
        )
    return said


def middle(counts: np.ndarray) -> int:
    """Return the bin at which half of the counts is reached."""
    return int(np.searchsorted(np.cumsum(counts), counts.sum() / 2))


def lead(run: Collected) -> str:
    """Return the run in a sentence."""
    found, manifest, balance = run.samples, run.manifest, run.balance
    when = timeframe(manifest)
    candidates = count(manifest.counts.candidates, "candidate")
    queries = f" for {balance.present:,} of {count(balance.queries, 'query', 'queries')}"
    return (
        f"{count(found.samples, 'image')} with {count(found.captions, 'caption')} from "
        f"{count(len(found.sites), 'site')}, chosen among {candidates}"
        f"{queries if is_balanced(manifest) else ''}{f', crawled {when}' if when else ''}."
    )


def tiles(run: Collected) -> list[tuple[str, str]]:
    """Return the numbers to see first."""
    found, balance, counts = run.samples, run.balance, run.manifest.counts
    stored = sum(shard.bytes for shard in run.manifest.shards)
    return [
        _tile(found.samples, "sample: an image, its captions", "samples, each an image with its captions"),
        _tile(found.captions, "caption"),
        _tile(found.words, "word in the captions", "words in the captions"),
        *([(percent(balance.present / max(balance.queries, 1)), "of the queries are in the set")]
          if is_balanced(run.manifest) else []),
        _tile(len(found.sites), "site"),
        (percent(counts.captions / max(counts.candidates, 1)), "of the candidates are in the set"),
        (size(stored), f"in {count(len(run.manifest.shards), 'shard')}"),
    ]  # fmt: skip


def _tile(number: int, one: str, many: str = "") -> tuple[str, str]:
    figure, _, noun = count(number, one, many).partition(" ")
    return figure, noun


def balance_text(run: Collected) -> str:
    """Return the effect of the cap, in words."""
    balance = run.balance
    if not balance.queries:
        return "This run has no query counts."
    total = balance.totals
    none = balance.queries - balance.matched
    return (
        f"Each query keeps at most {count(balance.per_query, 'sample')}. Of "
        f"{count(balance.queries, 'query', 'queries')}: {balance.matched:,} with a match, {balance.full:,} "
        f"with as many samples as it may keep, {none:,} without a match, {balance.short:,} short although "
        f"there was more to try. Matches kept for their query: {total['kept']:,} of {total['matched']:,}."
    )


def words_text(run: Collected) -> str:
    """Return the size of the text, beside the only thing that the paper says of WIT's."""
    found = run.samples
    if not found.samples:
        return ""
    mean, of_webtext = found.words / found.captions, found.text_bytes / _WEBTEXT_BYTES
    return (
        f"{count(found.words, 'word')}, as white space separates them, in {count(found.captions, 'caption')}"
        f": {mean:.1f} a caption, and {size(found.text_bytes)} of text. Of WIT the paper says that its total "
        "word count is similar to that of WebText (Radford et al. 2021, section 2.2), which is 40 GB of text "
        f"(Radford et al. 2019, section 2.1); the captions here are {percent(of_webtext)} of that. "
        f"The images were {size(found.image_bytes)} as served."
    )


def people_text(run: Collected) -> str:
    """Return how many captions hold contacts and numbers of people, and what to do about it."""
    found = {words: run.samples.contacts[kind] for kind, words in contacts.KINDS.items()}
    if not any(found.values()):
        return ""
    counted = ", ".join(f"{words} in {count(number, 'caption')}" for words, number in found.items() if number)
    return (
        f"Of people: {counted}. openwit crawl --mask-contacts replaces them, and is recommended here; on "
        "this page they are masked."
    )


def crawl_text(run: Collected) -> str:
    """Return how much was asked for, and how it was answered."""
    network, rounds = run.network, run.manifest.rounds
    tried, good = sum(one.images for one in rounds), sum(one.good for one in rounds)
    text = (
        f"{count(tried, 'image')} tried in {count(len(rounds), 'round')}, {good:,} of them good "
        f"({percent(good / max(tried, 1))}); {size(sum(one.bytes for one in rounds))} received."
    )
    if not network.units:
        return f"{text} The logs of the fetched units are gone."
    answers = sum(number for status, number in network.statuses.items() if status != "0")
    return (
        f"{text} {count(network.requests, 'request')}, robots.txt and redirects included, to "
        f"{count(len(network.sites), 'site')}; {count(answers, 'image')} had an answer."
    )


def sites_text(run: Collected, shown: list[Site]) -> str:
    """Return which sites the table shows."""
    total = len(run.network.sites)
    if total <= len(shown):
        which = "All sites that were asked." if total > 1 else "The only site that was asked."
    else:
        which = (
            f"Of {total:,} sites those with the most images and those with the most failures; all are in "
            "sites.jsonl."
        )
    return (
        f"{which} A request is one for an image, its redirects included, and so is its time; the total above "
        "has those for robots.txt as well. Sort by any column."
    )
