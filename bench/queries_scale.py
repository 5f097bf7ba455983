"""CPU time and memory of the query job on a dump grown to any size, with new words at a natural rate.

    python -m bench.queries_scale --dump DUMP.xml.bz2 --mb 100 --mb 1000 --folder /tmp/scale

A real dump's pages are copied until they reach the given MB of XML. In each copy some running words are drawn
again: a part from the dump's own words, so that new bigrams come up, and a part by Simon's process (1955), so
that new words come up as in real text: a draw is a new word at Heaps' rate, else it repeats an earlier draw,
whichever it was, so that some become frequent. Each size is run in a process of its own, in one worker; the
full dump's cost is extrapolated from it.
"""

import argparse
import bz2
import contextlib
import itertools
import json
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from pipeline.captions.match import tokens
from queries.token_blocks import is_word
from queries.wikipedia import plan, read_pages
from queries.wikitext import strip

_RUNNING_WORD = re.compile(r"(?<= )([a-z]{3,})(?=[ ,.])")
_OWN, _SIMON = 0.28, 0.12  # shares of running words that are drawn again
_HEAPS = 0.6  # distinct words grow as this power of all words
_PAGES_PER_STREAM = 20
_HEAD = "<mediawiki><siteinfo><base>https://en.wikipedia.org/wiki/Main_Page</base></siteinfo>\n"
FULL_XML_GB = 100  # of English Wikipedia's pages-articles, 2025


def spelled(number: int) -> str:
    """Return a pronounceable word for a number."""
    word = "q"
    while number:
        number, syllable = divmod(number, 85)
        word += "bcdfghjklmnprstvw"[syllable // 5] + "aeiou"[syllable % 5]
    return word


class Simon:
    """Draw numbers of words so that distinct ones grow by Heaps' law from those of a corpus."""

    def __init__(self, words: int, distinct: int, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        self._factor = distinct / words**_HEAPS
        self._words = words
        self._due = 0.0  # new words that Heaps' law allows and that have not been drawn
        self._next = 0
        self._history = np.zeros(1 << 20, np.int64)
        self._drawn = 0

    def draw(self, count: int, words: int) -> list[int]:
        """Return `count` draws for a page of `words` words."""
        before = self._factor * self._words**_HEAPS
        self._words += words
        self._due += self._factor * self._words**_HEAPS - before
        new = min(count, max(int(self._due), 0)) if self._drawn else count
        self._due -= new
        repeats = self._history[self._random.integers(self._drawn, size=count - new)] if new < count else []
        drawn = np.concatenate([np.arange(self._next, self._next + new), repeats]).astype(np.int64)
        self._next += new
        while self._drawn + count > self._history.size:
            self._history = np.concatenate([self._history, np.zeros_like(self._history)])
        self._history[self._drawn : self._drawn + count] = drawn
        self._drawn += count
        return self._random.permutation(drawn).tolist()


def grown_pages(dump: str, seed: int = 0) -> Iterator[tuple[str, str]]:
    """Yield (title, wikitext) without end."""
    pages = [p for piece in plan([dump]) for p in read_pages(piece, sys.exit) if p.redirect is None]
    # Odd places hold the running words.
    split = [np.array(_RUNNING_WORD.split(page.text), object) for page in pages]
    own = np.concatenate([pieces[1::2] for pieces in split])
    counts = [Counter(filter(is_word, tokens(strip(page.text)))) for page in pages]
    simon = Simon(sum(count.total() for count in counts), len(set().union(*counts)), seed)
    draw = np.random.default_rng(seed)
    for copy in itertools.count():
        for page, pieces, count in zip(pages, split, counts, strict=True):
            words = pieces[1::2].copy()
            chance = draw.random(len(words))
            anew = chance < _SIMON
            again = (chance >= _SIMON) & (chance < _SIMON + _OWN)
            words[anew] = [spelled(number) for number in simon.draw(int(anew.sum()), count.total())]
            words[again] = own[draw.integers(len(own), size=int(again.sum()))]
            changed = pieces.copy()
            changed[1::2] = words
            yield f"{page.title} {copy}", "".join(changed.tolist())


def grow(dump: str, folder: Path, megabytes: int) -> Path:
    """Write a multistream dump of `megabytes` of XML, and its index, unless it is there."""
    path = folder / f"grown{megabytes}-pages-articles-multistream.xml.bz2"
    index = folder / f"grown{megabytes}-pages-articles-multistream-index.txt.bz2"
    if index.exists():
        return path
    lines: list[str] = []
    with path.open("wb") as file:
        file.write(bz2.compress(_HEAD.encode()))
        written, pages = 0, grown_pages(dump)
        while written < megabytes * 1_000_000:
            offset, stream = file.tell(), ""
            for _ in range(_PAGES_PER_STREAM):
                title, text = next(pages)
                lines.append(f"{offset}:{len(lines) + 1}:{title}\n")
                stream += (
                    f"  <page>\n    <title>{escape(title)}</title>\n    <ns>0</ns>\n"
                    f"    <id>{len(lines)}</id>\n"
                    f'    <revision>\n      <text xml:space="preserve">{escape(text)}</text>\n'
                    "    </revision>\n  </page>\n"
                )
            data = stream.encode()
            written += len(data)
            file.write(bz2.compress(data))
        file.write(bz2.compress(b"</mediawiki>\n"))
    index.write_bytes(bz2.compress("".join(lines).encode()))
    return path


def run_job(dump: str, out: str) -> None:
    """Run the job in this process and print its figures as JSON."""
    from pipeline.flow.runner import Runner
    from queries.inputs import find_inputs
    from queries.job import QueryJob
    from queries.options import QueriesConfig

    seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def on_step(label: str, folder: str, tasks: int, images: int = 0) -> Iterator[None]:
        start = time.process_time()
        yield
        seconds[label] = round(time.process_time() - start, 2)

    config = QueriesConfig(out=out, wikipedia=(dump,))
    summary = QueryJob(config, find_inputs(config), Runner(workers=1, watch=on_step)).run()
    usage = resource.getrusage(resource.RUSAGE_SELF)
    figures = summary["statistics"]
    print(
        json.dumps(
            {
                "steps": seconds,
                "cpu_s": usage.ru_utime + usage.ru_stime,
                "peak_mb": usage.ru_maxrss / 1024,
                "words": figures["unigram"]["occurrences"],
                "distinct words": figures["unigram"]["distinct"],
                "frequent words": figures["unigram"]["offered"],
                "distinct bigrams": figures["bigram"]["distinct"],
            }
        )
    )


def measure(dump: Path, out: Path) -> dict[str, Any]:
    """Run the job in a process of its own and return its figures."""
    command = [sys.executable, "-m", "bench.queries_scale", "--run", str(dump), str(out)]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    figures: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return figures


def main() -> None:
    """Grow dumps, run the job on each, and extrapolate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dump", help="a real dump to grow from")
    parser.add_argument("--mb", type=int, action="append", help="megabytes of XML; several times")
    parser.add_argument("--folder", type=Path, help="where dumps and lists are written")
    parser.add_argument("--run", nargs=2, metavar=("DUMP", "OUT"), help="only run the job")
    arguments = parser.parse_args()
    if arguments.run:
        run_job(*arguments.run)
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for megabytes in arguments.mb or [100]:
        dump = grow(arguments.dump, arguments.folder, megabytes)
        figures = measure(dump, arguments.folder / f"grown{megabytes}.parquet")
        per_gb = figures["cpu_s"] / megabytes * 1000
        print(f"\n{megabytes} MB of XML, {dump.stat().st_size / 1e6:.0f} MB compressed")
        for name, value in figures.items():
            print(f"  {name:<18} {value:,.0f}" if not isinstance(value, dict) else f"  {name:<18} {value}")
        hours = per_gb * FULL_XML_GB / 3600
        print(f"  CPU seconds per GB {per_gb:.0f}; {FULL_XML_GB} GB: {hours:.1f} core hours")


if __name__ == "__main__":
    main()
