"""Measure how captions' languages are told, alone and with their page, with weights fitted to other captions.

    python -m bench.language [STAMPS] [--texts PARQUET --words FILE] [--shipped]

STAMPS: captions in 77 languages of 950 pictures, as Debian's package tuxpaint-stamps-default installs them
(/usr/share/tuxpaint/stamps). The pictures are in two halves, by a hash of their names: weights are fitted to
all captions of one half and measured on those of the other, both ways. A page is ten captions of one language
and half, taken in a seeded order. With the page: its captions, and a declared language that is wrong ("en")
for one page in five; beside it the page without any declaration, and a page that always declares the wrong
language. Right is the model's code for the file's locale; the nine locales that the model does not know are
left out. --texts: rows (TEXT) of which those made of English words alone, three or more, must not be lost;
halved by a hash as well. --shipped: fit nothing, measure the weights in use.

Two of the weights are fitted, the certainty of short texts and the threshold: of those that refuse at most
TARGET of the half's English, alone and with a page, the pair that keeps the fewest captions of other
languages, alone and with a page alike. The other weights are assumptions that such pages cannot measure: each
page is of a single language, and the share that declares a wrong language is ours.
"""

import argparse
import hashlib
import random
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from pipeline.captions.language import (
    IN_USE,
    NO_PAGE,
    Evidence,
    Identifier,
    Prior,
    Weights,
    code_of,
    decide,
    page_prior,
)

TARGET: Final = 0.005
"""Share of English that a threshold may refuse where it is fitted: half of its allowance elsewhere."""
_CERTAINTIES: Final = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_THRESHOLDS: Final = tuple(round(0.005 * step, 3) for step in range(1, 21))
_PER_PAGE: Final = 10
_WRONG: Final = 0.2  # share of pages with a wrong declaration
_UNKNOWN: Final = ("ach", "ff", "son", "iu", "kab", "zu", "shs", "nso", "ak")
_ENDINGS: Final = ("", "s", "ed", "ing")
_CLOTHES: Final = ("hat", "t-shirt", "shirt", "dress", "skirt", "pair of shorts", "pair of shoes", "jacket")
_PLACES: Final = ("A {} laid out on a white bed", "the {} hangs on a wooden door", "a {} on a hanger",
                  "my old {} in black and white", "{} folded on a chair",
                  "A {} seen from the front")  # fmt: skip
_COLUMNS: Final = (
    "captions",
    "alone",
    "page, one in five wrong",
    "page, undeclared",
    "page, all wrong",
    "kept as en, alone",
    "with page",
)
Captions = dict[str, list[str]]
"""By locale."""


class Page(NamedTuple):
    """Captions of one language that stand together, and a language that they declare."""

    texts: list[str]
    declares: str
    wrong: str


class Half(NamedTuple):
    """The captions that weights are fitted to, or measured on."""

    pages: dict[str, list[Page]]
    """By locale."""
    english: list[str]


def half_of(name: str) -> int:
    """Return the half that a picture or a text is in, 0 or 1."""
    return hashlib.sha256(name.encode()).digest()[0] % 2


def stamps(folder: Path) -> tuple[Captions, Captions]:
    """Return the captions of the pictures of either half by locale, in the order of the files."""
    found: tuple[Captions, Captions] = defaultdict(list), defaultdict(list)
    for path in sorted(folder.rglob("*.txt")):
        half = found[half_of(path.relative_to(folder).as_posix())]
        first, *lines = path.read_text("utf-8", "replace").splitlines() or [""]
        if first.strip():
            half["en"].append(first.strip())
        for line in lines:
            locale, sign, text = line.partition(".utf8=")
            if sign and text.strip() and locale not in _UNKNOWN:
                half[locale].append(text.strip())
    return found


def pages_of(locale: str, texts: list[str], rng: random.Random) -> list[Page]:
    """Return captions of a locale in pages."""
    wanted = code_of(re.split("[_@]", locale)[0])
    order = [text for text in rng.sample(texts, len(texts)) if any(map(str.isalpha, text))]
    wrong = "de" if wanted == "en" else "en"
    return [
        Page(order[start : start + _PER_PAGE], wrong if rng.random() < _WRONG else wanted, wrong)
        for start in range(0, len(order), _PER_PAGE)
    ]


@cache
def _read(
    certainty: float,
) -> tuple[Identifier, dict[str, Evidence | None], dict[tuple[str, ...], Evidence | None]]:
    return Identifier(weights=IN_USE._replace(certainty=certainty)), {}, {}


def evidence(text: str, weights: Weights) -> Evidence:
    """Return the evidence of a caption, read once."""
    identifier, read, _ = _read(weights.certainty)
    if text not in read:
        read[text] = identifier.evidence(text)
    found = read[text]
    assert found is not None, "it has a letter"
    return found


def together(page: Page, weights: Weights) -> Evidence | None:
    """Return the evidence of the captions of a page together, read once."""
    identifier, _, read = _read(weights.certainty)
    key = tuple(page.texts)
    if key not in read:
        read[key] = identifier.of_page(key)
    return read[key]


def prior_of(page: Page, declares: str, weights: Weights) -> Prior:
    """Return the prior of a page that declares a language, or "" for none."""
    return page_prior(declares, "", together(page, weights), weights)


def english_share(text: str, prior: Prior, weights: Weights) -> float:
    """Return how probable English is for a caption."""
    return decide(evidence(text, weights), prior, "en").wanted


def right(locale: str, pages: list[Page], weights: Weights) -> npt.NDArray[np.float64]:
    """Return how many captions are told right, in the order of _COLUMNS, the last two of `--lang en`."""
    wanted = code_of(re.split("[_@]", locale)[0])
    sums = np.zeros(len(_COLUMNS))
    for page in pages:
        priors = [NO_PAGE, *(prior_of(page, tag, weights) for tag in (page.declares, "", page.wrong))]
        for text in page.texts:
            told = (decide(evidence(text, weights), prior).lang == wanted for prior in priors)
            kept = (english_share(text, prior, weights) >= weights.improbable for prior in priors[:2])
            sums += [1, *told, *kept]
    return sums


def alone(texts: Iterable[str], weights: Weights) -> npt.NDArray[np.float64]:
    """Return how probable English is for each text, without a page."""
    return np.array([english_share(text, NO_PAGE, weights) for text in texts])


def on_pages(pages: Iterable[Page], weights: Weights) -> npt.NDArray[np.float64]:
    """Return how probable English is for each caption, with its page."""
    return np.array(
        [
            english_share(text, prior, weights)
            for page, prior in ((page, prior_of(page, page.declares, weights)) for page in pages)
            for text in page.texts
        ]
    )


def fit(half: Half) -> Weights:
    """Return the weights that suit a half best; of equals, those of the lowest certainty and threshold."""
    found = []
    for certainty in _CERTAINTIES:
        weights = IN_USE._replace(certainty=certainty)
        ours = [alone(half.english, weights), on_pages(half.pages["en"], weights)]
        others = [pages for locale, pages in half.pages.items() if not locale.startswith("en")]
        foreign = [alone((text for page in pages for text in page.texts), weights) for pages in others]
        foreign += [on_pages(pages, weights) for pages in others]
        for threshold in _THRESHOLDS:
            lost = max(np.mean(shares < threshold) for shares in ours)
            kept = [np.mean(shares >= threshold) for shares in foreign]
            if lost <= TARGET:
                found.append((float(np.mean(kept)), weights._replace(improbable=threshold)))
    return min(found)[1]


def english(texts: list[str], words: set[str]) -> list[str]:
    """Return the texts of three or more words that are all among the words, or their plurals and the like."""

    def known(word: str) -> bool:
        return any(word.endswith(end) and word[: len(word) - len(end)] in words for end in _ENDINGS)

    split = [(text, re.findall(r"[^\W\d_]+", text.lower())) for text in texts]
    return [text for text, parts in split if len(parts) >= 3 and all(map(known, parts))]


def main() -> None:
    """Print the weights and the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stamps", nargs="?", type=Path, default=Path("/usr/share/tuxpaint/stamps"))
    parser.add_argument("--texts", type=Path, help="Parquet with a column TEXT")
    parser.add_argument("--words", type=Path, help="English words, one or more a line")
    parser.add_argument("--shipped", action="store_true", help="fit nothing: measure the weights in use")
    options = parser.parse_args()
    captions = stamps(options.stamps)
    if not captions[0]:
        parser.error(f"{options.stamps} holds no stamps: apt-get install tuxpaint-stamps-default")
    sets: list[dict[str, list[str]]] = [{"stamps": half["en"]} for half in captions]
    if options.texts and options.words:
        words = set(options.words.read_text().lower().split())
        texts = english(pq.read_table(options.texts)["TEXT"].drop_null().to_pylist(), words)
        for number, own in enumerate(sets):
            own["web"] = [text for text in texts if half_of(text) == number]
    clothes = [place.format(thing) for place in _PLACES for thing in _CLOTHES]
    for number, own in enumerate(sets):
        own["clothes"] = [text for text in clothes if half_of(text) == number]
    rng = random.Random(0)
    halves = [
        Half(
            {locale: pages_of(locale, texts, rng) for locale, texts in sorted(half.items())},
            [text for texts in own.values() for text in texts],
        )
        for half, own in zip(captions, sets, strict=True)
    ]
    fitted = [IN_USE if options.shipped else fit(half) for half in halves]
    what = "weights in use" if options.shipped else "fitted to it"
    sums: dict[str, npt.NDArray[np.float64]] = defaultdict(lambda: np.zeros(len(_COLUMNS)))
    for number, weights in enumerate(fitted):
        print(f"half {number}: {sum(map(len, captions[number].values())):,} captions; {what}: {weights}")
        for locale, pages in halves[1 - number].pages.items():
            sums[locale] += right(locale, pages, weights)
    print("\n| language | " + " | ".join(_COLUMNS) + " |\n|---|" + "--:|" * len(_COLUMNS))
    rows = {locale: row[1:] / row[0] for locale, row in sorted(sums.items())}
    for locale, row in rows.items():
        print(f"| {locale} | {sums[locale][0]:,.0f} | " + " | ".join(f"{v:.1%}" for v in row) + " |")
    total, mean = sum(row[0] for row in sums.values()), np.mean(list(rows.values()), axis=0)
    print(f"| **macro, {len(rows)}** | {total:,.0f} | " + " | ".join(f"**{v:.1%}**" for v in mean) + " |\n")
    for name in sets[0]:
        lost, top = [], []
        for number, weights in enumerate(fitted):
            other = sets[1 - number][name]
            lost += [*(alone(other, weights) < weights.improbable)]
            top += [decide(evidence(text, weights), NO_PAGE).lang != "en" for text in other]
        shares = f"{np.mean(lost):.2%} lost; by top label {np.mean(top):.2%}"
        print(f"English, {name}: {len(lost):,} captions, {shares}")


if __name__ == "__main__":
    main()
