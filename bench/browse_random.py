"""Random pages of an index: the bytes and the time of the worst, each asked of a new connection.

Used by `python -m bench.browse --rows 10000000 --keep FOLDER --random 3000`. Words are common, middling or
rare, alone, together, in a row or refused; half of those in a row stand so in a caption. With them go a site,
a query, cuts at one or two columns, every order, and pages up to 1,200 samples further on, to which one comes
as a browser does, by those before.
"""

import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.index.question import Filter
from pipeline.index.search import Search
from pipeline.index.walk import Page

SHOWN = 12  # of the worst pages
ROWS = 60  # of a page


def show_random(path: Path, count: int, read_bytes: Callable[[int], int], seed: int) -> None:
    """Print how many of `count` random pages are above the limits, and the worst."""
    rng, found = np.random.default_rng(seed), list[tuple[float, float, Filter, int, int]]()
    ask = Search(path)
    samples = int(ask.meta("samples"))
    for _ in range(count):
        ids = rng.integers(1, samples, 1).tolist()
        caption = str(ask.by_ids(ids)[0]["caption"]).split()
        wanted, rows = question(rng, caption), int(rng.choice([0, 0, 60, 600, 1200]))
        after = reached(ask, wanted, rows)
        before, read = time.process_time(), read_bytes(os.getpid())
        search = Search(path)
        page = search.page(wanted, ROWS, after)
        taken, read = time.process_time() - before, read_bytes(os.getpid()) - read
        search.close()
        more = requests(ask, wanted, page)
        found.append((1e3 * taken, read / 1e6, wanted, rows, more))
    ask.close()
    times, reads = (np.array([one[n] for one in found]) for n in (0, 1))
    above = Counter("bytes" if one[1] > 2 else "time" for one in found if one[1] > 2 or one[0] > 300)
    print(
        f"{count:,} random pages: CPU ms median {np.median(times):.0f}, 99% {np.quantile(times, 0.99):.0f}, "
        f"most {times.max():.0f}; MB read median {np.median(reads):.2f}, 99% {np.quantile(reads, 0.99):.2f}, "
        f"most {reads.max():.2f}; above 2 MB {above['bytes']}, else above 300 ms {above['time']}; "
        f"{sum(one[4] > 1 for one in found)} end early, full by request {max(one[4] for one in found)}"
    )
    for column, name in ((1, "reads"), (0, "takes")):
        print(f"  {name} most:")
        for taken, read, wanted, rows, more in sorted(found, key=lambda one: -one[column])[:SHOWN]:  # type: ignore[operator]
            print(
                f"    {taken:6.0f} CPU ms, {read:5.2f} MB, {more:>2} requests: {rows:>4} on, {said(wanted)}"
            )


def reached(search: Search, wanted: Filter, rows: int) -> int:
    """Return after which sample the page begins, or the last, that a browser comes to so many rows on."""
    after = 0
    while rows > 0 and (page := search.page(wanted, ROWS, after)).next:
        after, rows = page.next, rows - len(page.rows)
    return after


def requests(search: Search, wanted: Filter, page: Page) -> int:
    """Return how many pages a browser asks for until it has as many rows as one has, or the last."""
    count, rows = 1, len(page.rows)
    while rows < ROWS and page.next:
        page = search.page(wanted, ROWS - rows, page.next)
        count, rows = count + 1, rows + len(page.rows)
    return count


def said(wanted: Filter) -> str:
    """Return a filter in short."""
    cuts = [f"{name} {sign} {bound:g}" for sign, own in ((">=", wanted.least), ("<=", wanted.most))
            for name, bound in own.items()]  # fmt: skip
    query = [] if wanted.query is None else [f"query {wanted.query}"]
    return "; ".join(
        [wanted.text or "-", *wanted.facets.values(), *query, *cuts, f"by {wanted.sort or 'id'}"]
    )


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
    facets = {"site": f"site{min(rng.zipf(1.4), 1_000_000)}.example"} if rng.random() < 0.2 else {}
    query = int(min(rng.zipf(1.3), 50_000)) - 1 if rng.random() < 0.2 else None
    sort = str(rng.choice(["", "-width", "width", "-height", "height"]))
    return Filter(text=text, least=least, most=most, facets=facets, query=query, sort=sort)
