"""Read how often the articles of one wiki were viewed, from both of Wikimedia's kinds of files.

Hourly (https://dumps.wikimedia.org/other/pageviews/readme.html): `domain title views bytes`, where the domain
is `en` for the desktop site and `en.m` for the mobile site. Complete
(https://dumps.wikimedia.org/other/pageview_complete/readme.html): `wiki title page-id platform views hours`,
a line per platform; of a day or of a month. Titles have underscores for spaces, some are percent-encoded, and
those with a quotation mark are quoted and escaped.
"""

import bz2
import gzip
import re
import urllib.parse
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import IO, Final

from pipeline import storage

BATCH_TITLES: Final = 1_000_000
"""Distinct titles held before they are handed on: about 150 MB."""

_BLOCK: Final = 4 << 20
# The site itself, its mobile site, and that of Wikipedia Zero (until 2018).
_HOURLY_SITES: Final = rb"(?:\.m|\.zero)?"
_SPACES: Final = re.compile(r"[ \u00a0\u2000-\u200a\u202f\u205f\u3000]+")


class LineReader:
    """Count the views of one language's Wikipedia in a file of either kind, told by each line."""

    def __init__(self, language: str) -> None:
        code = re.escape(language.encode())
        hourly = rb"%s%s ([^ \n]+) (\d+) \d+" % (code, _HOURLY_SITES)
        complete = (
            rb"%s\.wikipedia ([^ \n]+) (?:[^ \n]+ )?(?:desktop|mobile-web|mobile-app) (\d+)(?: [^ \n]*)?"
            % code
        )
        self._line = re.compile(rb"\n(?:%s|%s)(?=\n)" % (hourly, complete))
        self._domain = re.compile(rb"\n%s(?:%s|\.wikipedia) " % (code, _HOURLY_SITES))
        self.malformed = 0
        """Lines of this wiki that are of neither kind."""
        self.damage: list[str] = []
        """Where a file could not be read to its end."""

    def _cut_off(self, error: Exception) -> None:
        self.damage.append(str(error))

    def read(self, path: str, batch_titles: int = BATCH_TITLES) -> Iterator[dict[str, int]]:
        """Yield views by title as written in the file; a title may come again in a later batch."""
        views: Counter[bytes] = Counter()
        with storage.open_input(path) as raw:
            for block in _whole_lines(_decompressed(path, raw), self._cut_off):
                found = 0
                for hourly, hour_views, complete, day_views in self._line.findall(block):
                    views[hourly or complete] += int(hour_views or day_views)
                    found += 1
                self.malformed += len(self._domain.findall(block)) - found
                if len(views) >= batch_titles:
                    yield _decoded(views)
                    views = Counter()
        yield _decoded(views)


def _decompressed(path: str, raw: IO[bytes]) -> IO[bytes]:
    if path.endswith(".bz2"):
        return bz2.open(raw)
    return gzip.open(raw) if path.endswith(".gz") else raw  # type: ignore[return-value]


def _whole_lines(file: IO[bytes], cut_off: Callable[[Exception], None]) -> Iterator[bytes]:
    """Yield blocks that begin with a line end, hold whole lines, and end with a line end."""
    tail = b"\n"
    while True:
        try:
            block = file.read(_BLOCK)
        except (OSError, EOFError, zlib.error) as error:  # exceptions of bz2 and gzip for damaged data
            cut_off(error)
            return  # the last line may be cut
        if not block:
            break
        tail += block.replace(b"\r\n", b"\n")
        cut = tail.rfind(b"\n")
        yield tail[: cut + 1]
        tail = tail[cut:]
    if len(tail) > 1:
        yield tail + b"\n"


def _decoded(views: Counter[bytes]) -> dict[str, int]:
    return {title.decode("utf-8", "replace"): count for title, count in views.items()}


# Letters with capitals since Unicode 12 or later, which Wikimedia's wikis do not raise.
_KEPT: Final = frozenset("ßʂᶎⱟꞔꞻꞽꞿꟁꟃꟈꟊꟑꟗꟙꟶ")
# Languages whose wikis raise i to the letter with a dot.
_DOTTED: Final = frozenset({"az", "kaa", "tr"})


def canonical_title(written: str, language: str = "") -> str:
    """Return a title as the dump has it: `"\\"Weird_Al\\"_Yankovic"` is `"Weird Al" Yankovic`.

    Percent signs are decoded where two hex digits follow, which no title may hold; the first letter is
    raised, as Wikipedia does; characters after a # are a place in the page. Empty for no title ("-").
    """
    title = written
    if len(title) >= 2 and title[0] == title[-1] == '"':
        title = title[1:-1].replace('\\"', '"').replace("\\\\", "\\")
    if "%" in title:
        title = urllib.parse.unquote(title, errors="replace")
    if "#" in title:
        title = title.partition("#")[0]
    title = title.replace("_", " ").strip()
    if "  " in title or not title.isascii():
        title = _SPACES.sub(" ", title).strip()
    if title in ("", "-"):
        return ""
    if title[0] == "i" and language in _DOTTED:
        return f"İ{title[1:]}"
    # To title case, by single letters: Georgian stays, U+01C6 becomes U+01C5, a letter that would become two
    # stays.
    first = title[0].title()
    return title if len(first) > 1 or title[0] in _KEPT else first + title[1:]
