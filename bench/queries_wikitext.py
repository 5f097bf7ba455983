"""Speed of reading a dump, step by step, with mwparserfromhell beside `strip` in the same run.

    python -m bench.queries_wikitext DUMP.xml.bz2

CPU time of one core; the best of several runs for anything that takes less than a second. "end to end" is the
work of a task of the query job on each byte: decompress, find pages, strip, encode.
"""

import argparse
import bz2
import html
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pipeline.captions.match import tokens
from queries import wikitext
from queries.token_blocks import TokenEncoder, is_word
from queries.wikipedia import Article, plan, read_pages

T = TypeVar("T")


def timed(function: Callable[[], T], runs: int = 1) -> tuple[T, float]:
    """Return the result, and the CPU seconds of the fastest run."""
    seconds = []
    for _ in range(runs):
        start = time.process_time()
        result = function()
        seconds.append(time.process_time() - start)
    return result, min(seconds)


def encode(texts: list[str]) -> int:
    """Return the number of words."""
    encoder = TokenEncoder()
    blocks = [block for text in texts for block in encoder.add(text)] + list(encoder.finish())
    return sum(int(block.counts.sum()) for block in blocks)


def words(texts: list[str]) -> Counter[str]:
    """Return how often each word occurs."""
    return Counter(token for text in texts for token in tokens(text) if is_word(token))


def compare(texts: list[str], plain: list[str], seconds: float) -> None:
    """Print mwparserfromhell's speed, and where its words differ."""
    try:
        import mwparserfromhell
    except ModuleNotFoundError:
        print("mwparserfromhell is not installed: no peer")
        return
    characters = sum(map(len, texts))
    theirs, their_seconds = timed(lambda: [mwparserfromhell.parse(text).strip_code() for text in texts])
    print(f"mwparserfromhell strip_code {characters / their_seconds / 1e6:8.2f} M characters of wikitext/s")
    print(f"ratio                       {their_seconds / seconds:8.1f}")
    ours_words, their_words = words(plain), words([html.unescape(text) for text in theirs])
    print(f"words: ours {ours_words.total():,}, strip_code {their_words.total():,}")
    print(f"  only in strip_code {(their_words - ours_words).total():,}; the most frequent:")
    print("   ", ", ".join(f"{word} {n}" for word, n in (their_words - ours_words).most_common(25)))
    print(f"  only in ours {(ours_words - their_words).total():,}; the most frequent:")
    print("   ", ", ".join(f"{word} {n}" for word, n in (ours_words - their_words).most_common(25)))
    hidden = [
        str(tag.contents)
        for text in texts
        for tag in mwparserfromhell.parse(text).ifilter_tags()
        if str(tag.tag).strip().lower() == "ref" and tag.contents
    ]
    in_references = words([html.unescape(mwparserfromhell.parse(text).strip_code()) for text in hidden])
    print(f"  of these in references, which `strip` leaves out: {in_references.total():,}")


def main() -> None:
    """Measure each step."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("dump")
    parser.add_argument("--no-peer", action="store_true", help="leave out mwparserfromhell")
    arguments = parser.parse_args()
    pieces = plan([arguments.dump])
    if arguments.dump.endswith(".bz2"):
        compressed = Path(arguments.dump).read_bytes()
        xml, seconds = timed(lambda: len(bz2.decompress(compressed)))
        print(f"bz2                         {xml / seconds / 1e6:8.2f} M bytes of XML/s")

    def pages() -> list[Article]:
        return [page for piece in pieces for page in read_pages(piece, print)]

    found, seconds = timed(pages)
    texts = [page.text for page in found if page.redirect is None]
    characters = sum(map(len, texts))
    print(f"bz2 and pages               {characters / seconds / 1e6:8.2f} M characters of wikitext/s")
    plain, strip_seconds = timed(lambda: [wikitext.strip(text) for text in texts], 5)
    print(f"strip                       {characters / strip_seconds / 1e6:8.2f} M characters of wikitext/s")
    count, seconds = timed(lambda: encode(plain), 3)
    print(f"encode                      {sum(map(len, plain)) / seconds / 1e6:8.2f} M characters of text/s")
    print(f"                            {count / seconds / 1e6:8.2f} M words/s")
    _, seconds = timed(lambda: encode([wikitext.strip(p.text) for p in pages() if p.redirect is None]))
    print(f"end to end                  {characters / seconds / 1e6:8.2f} M characters of wikitext/s")
    if not arguments.no_peer:
        compare(texts, plain, strip_seconds)


if __name__ == "__main__":
    main()
