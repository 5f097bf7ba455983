"""Measure how captions' languages are told: a caption alone, and with its page.

    python -m bench.language [STAMPS] [--texts PARQUET --words FILE]

STAMPS: captions in 77 languages of 950 pictures, as Debian's package tuxpaint-stamps-default installs them
(/usr/share/tuxpaint/stamps). A page is ten captions of one language, taken in a seeded order. With the page:
its captions, and a declared language that is wrong ("en") for one page in five; beside it the page without
any declaration, and one that always declares the wrong language. Right is the model's code for the file's
locale; the nine locales that the model does not know are left out. --texts: rows (TEXT) of which those made
of English words alone, three or more, must not be lost.
"""

import argparse
import random
import re
from collections import defaultdict
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.parquet as pq

from pipeline.captions.language import IMPROBABLE, NO_PAGE, Evidence, Identifier, code_of, decide, page_prior

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


def stamps(folder: Path) -> dict[str, list[str]]:
    """Return the captions by locale, in the order of the files."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(folder.rglob("*.txt")):
        first, *lines = path.read_text("utf-8", "replace").splitlines() or [""]
        if first.strip():
            found["en"].append(first.strip())
        for line in lines:
            locale, sign, text = line.partition(".utf8=")
            if sign and text.strip():
                found[locale].append(text.strip())
    return {locale: texts for locale, texts in sorted(found.items()) if locale not in _UNKNOWN}


def right(locale: str, texts: list[str], identifier: Identifier, rng: random.Random) -> list[float]:
    """Return the shares told right, in the order of _COLUMNS, the last two of `--lang en`."""
    wanted = code_of(re.split("[_@]", locale)[0])
    order = [text for text in rng.sample(texts, len(texts)) if identifier.evidence(text)]
    sums = np.zeros(6)
    for start in range(0, len(order), _PER_PAGE):
        page = order[start : start + _PER_PAGE]
        together = identifier.of_page(page)
        wrong = "de" if wanted == "en" else "en"
        noisy = wrong if rng.random() < _WRONG else wanted
        priors = [NO_PAGE, *(page_prior(tag, "", together) for tag in (noisy, "", wrong))]
        for text in page:
            evidence = identifier.evidence(text)
            assert evidence is not None, "it was looked at"
            sums += [*(decide(evidence, prior).lang == wanted for prior in priors),
                     decide(evidence, NO_PAGE, "en").wanted >= IMPROBABLE,
                     decide(evidence, priors[1], "en").wanted >= IMPROBABLE]  # fmt: skip
    return [len(order), *(sums / len(order))]


def lost(texts: list[str], identifier: Identifier) -> tuple[float, float]:
    """Return the share of texts that `--lang en` refuses, and that the top label alone would refuse."""
    evidence: list[Evidence] = [e for text in texts if (e := identifier.evidence(text))]
    refused = np.mean([decide(one, NO_PAGE, "en").wanted < IMPROBABLE for one in evidence])
    return float(refused), float(np.mean([decide(one, NO_PAGE).lang != "en" for one in evidence]))


def english(texts: list[str], words: set[str]) -> list[str]:
    """Return the texts of three or more words that are all among the words, or their plurals and the like."""

    def known(word: str) -> bool:
        return any(word.endswith(end) and word[: len(word) - len(end)] in words for end in _ENDINGS)

    split = [(text, re.findall(r"[^\W\d_]+", text.lower())) for text in texts]
    return [text for text, parts in split if len(parts) >= 3 and all(map(known, parts))]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stamps", nargs="?", type=Path, default=Path("/usr/share/tuxpaint/stamps"))
    parser.add_argument("--texts", type=Path, help="Parquet with a column TEXT")
    parser.add_argument("--words", type=Path, help="English words, one or more a line")
    options = parser.parse_args()
    identifier, rng = Identifier(), random.Random(0)
    captions = stamps(options.stamps)
    if not captions:
        parser.error(f"{options.stamps} holds no stamps: apt-get install tuxpaint-stamps-default")
    rows = {locale: right(locale, texts, identifier, rng) for locale, texts in captions.items()}
    print("| language | " + " | ".join(_COLUMNS) + " |\n|---|" + "--:|" * len(_COLUMNS))
    for locale, row in rows.items():
        print(f"| {locale} | {row[0]:,.0f} | " + " | ".join(f"{v:.1%}" for v in row[1:]) + " |")
    mean = np.mean([row[1:] for row in rows.values()], axis=0)
    total = sum(row[0] for row in rows.values())
    print(f"| **macro, {len(rows)}** | {total:,.0f} | " + " | ".join(f"**{v:.1%}**" for v in mean) + " |")
    sets = {
        "clothes": [place.format(thing) for place in _PLACES for thing in _CLOTHES],
        "stamps": captions["en"],
    }
    if options.texts and options.words:
        words = set(options.words.read_text().lower().split())
        sets["web"] = english(pq.read_table(options.texts)["TEXT"].drop_null().to_pylist(), words)
    for name, texts in sets.items():
        now, before = lost(texts, identifier)
        print(f"English, {name}: {len(texts):,} captions, {now:.2%} lost; by top label {before:.2%}")


if __name__ == "__main__":
    main()
