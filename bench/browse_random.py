"""Random pages of an index: the bytes and the time of the worst, each asked of a new connection.

Used by `python -m bench.browse --rows 10000000 --keep FOLDER --random 1000`. Words are common, middling or
rare, alone, together, in a row or refused; half of those in a row stand so in a caption. With them go a site,
a query, cuts at one or two columns, cuts that every sample passes, and every order. Of a question a browser's
pages are asked for one after the other, up to 1,200 samples further on; every tenth asks for pages of the
largest limit, and every tenth in the order of a query, from anywhere in it.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.index.pages import MOST
from pipeline.index.question import Filter
from pipeline.index.search import Search
from pipeline.index.walk import Page

SHOWN = 12  # of the worst pages


def show_random(path: Path, count: int, read_bytes: Callable[[int], int], seed: int) -> None:
    """Print how many pages of `count` random questions are above the limits, and the worst."""
    rng, found = np.random.default_rng(seed), list[tuple[float, float, int, str]]()
    early = late = 0
    ask = Search(path)
    samples = int(ask.meta("samples"))
    for _ in range(count):
        ids = rng.integers(1, samples, 1).tolist()
        caption = str(ask.by_ids(ids)[0]["caption"]).split()
        wanted, further = question(rng, caption), int(rng.choice([0, 0, 60, 600, 1200]))
        limit = int(rng.choice([60, MOST], p=[0.9, 0.1]))
        query, rows, after = number(rng) if rng.random() < 0.1 else None, 0, 0
        if query is not None:  # from a rank on, up to the last; half of the samples have the last 1,024
            after = int(rng.integers(40 << 10, 54 << 10)) << 32
        while rows <= further:
            before, read = time.process_time(), read_bytes(os.getpid())
            search = Search(path)
            try:
                if query is None:
                    page = search.page(wanted, limit, after)
                else:
                    page = search.ranked(query, limit, after)
            except TimeoutError:
                page, late = Page([], 0, False), late + 1
            taken, read = time.process_time() - before, read_bytes(os.getpid()) - read
            search.close()
            name = said(wanted) if query is None else f"query {query}, its own order"
            found.append((1e3 * taken, read / 1e6, rows, f"{limit} of {name}"))
            rows, after = rows + len(page.rows), page.next
            if not after:
                break
            early += len(page.rows) < 60
    ask.close()
    times, reads = (np.array([one[n] for one in found]) for n in (0, 1))
    print(
        f"{count:,} random questions, {len(found):,} pages, {late} given up, "
        f"{early} of fewer than 60 samples though more follow"
    )
    for name, own, most in (("CPU ms", times, 300), ("MB read", reads, 2)):
        print(
            f"  {name}: median {np.median(own):.2f}, 99% {np.quantile(own, 0.99):.2f}, most {own.max():.2f}, "
            f"{(own > most).sum()} above {most}"
        )
    for column, name in ((1, "reads"), (0, "takes")):
        print(f"  {name} most:")
        for one in sorted(found, key=lambda one: -float(one[column]))[:SHOWN]:
            print(f"    {one[0]:6.0f} CPU ms, {one[1]:5.2f} MB, {one[2]:>4} on, {one[3]}")


def said(wanted: Filter) -> str:
    """Return a filter in short."""
    cuts = [f"{name} {sign} {bound:g}" for sign, own in ((">=", wanted.least), ("<=", wanted.most))
            for name, bound in own.items()]  # fmt: skip
    query = [] if wanted.query is None else [f"query {wanted.query}"]
    return "; ".join(
        [wanted.text or "-", *wanted.facets.values(), *query, *cuts, f"by {wanted.sort or 'id'}"]
    )


def number(rng: np.random.Generator) -> int:
    """Return the number of a random query, the commoner the more samples it has."""
    return int(min(rng.zipf(1.3), 50_000)) - 1


def question(rng: np.random.Generator, caption: list[str]) -> Filter:
    """Return a random filter; the words of a caption are often those in a row."""

    def word() -> str:
        low, high = [(1, 10), (10, 300), (300, 20_000)][rng.integers(3)]
        return f"word{int(np.exp(rng.uniform(np.log(low), np.log(high))))}"

    def row(length: int) -> str:
        start = int(rng.integers(0, len(caption) - length + 1))
        own = caption[start : start + length] if rng.random() < 0.5 else [word() for _ in range(length)]
        return f'"{" ".join(own)}"'

    forms = [
        lambda: "", word, lambda: f"{word()} {word()}", lambda: f"{word()} {word()} {word()}",
        lambda: row(2), lambda: row(2), lambda: row(3), lambda: f"{row(2)} {word()}",
        lambda: f"{word()} -{word()}", lambda: f"{word()} -{row(2)}",
    ]  # fmt: skip
    text = forms[rng.integers(len(forms))]()
    least, most = dict[str, float](), dict[str, float]()
    for name in ("width", "height"):
        if rng.random() < 0.25:
            low, size = rng.integers(200, 2000), int(np.exp(rng.uniform(0, np.log(1800))))
            kind = rng.integers(3)
            if kind != 0:
                least[name] = float(low)
            if kind != 1:
                most[name] = float(low + size)
    if rng.random() < 0.1:
        (least if rng.random() < 0.5 else most)["bytes"] = 5000.0  # which all have
    facets = {"site": f"site{min(rng.zipf(1.4), 1_000_000)}.example"} if rng.random() < 0.2 else {}
    query = number(rng) if rng.random() < 0.2 else None
    sort = str(rng.choice(["", "-width", "width", "-height", "height"]))
    return Filter(text=text, least=least, most=most, facets=facets, query=query, sort=sort)
