"""Read the names of WordNet's synsets from its database files.

The format is that of wndb(5WN), https://wordnet.princeton.edu/documentation/wndb5wn: in data.POS, a line per
synset.
"""

import re
from typing import Final

from pipeline import storage

PARTS_OF_SPEECH: Final = ("noun", "verb", "adj", "adv")
# Where an adjective may stand: before its noun only, after a verb only, or right after its noun.
_ADJECTIVE_MARKER: Final = re.compile(r"\((?:a|p|ip)\)$")


def read_lemmas(folder: str) -> list[list[str]]:
    """Return the lemmas of every synset, in the order of the files; underscores become spaces.

    ValueError where a file is missing or a line is not of the format.
    """
    synsets: list[list[str]] = []
    for part in PARTS_OF_SPEECH:
        path = storage.join(folder, f"data.{part}")
        if not storage.exists(path):
            raise ValueError(
                f"{path} does not exist; WordNet's database files are data.noun, data.verb, data.adj and "
                "data.adv (Debian and Ubuntu: apt install wordnet-base, then /usr/share/wordnet)"
            )
        for number, line in enumerate(storage.read_bytes(path).decode().splitlines(), 1):
            if line.startswith("  "):  # the licence
                continue
            try:
                synsets.append(_lemmas(line))
            except (ValueError, IndexError):
                raise ValueError(f"{path}, line {number}: not a synset of WordNet's format (wndb)") from None
    return synsets


def _lemmas(line: str) -> list[str]:
    # synset_offset lex_filenum ss_type w_cnt word lex_id [word lex_id ...] ...
    fields = line.split(" ")
    words = int(fields[3], 16)
    if not words:
        raise ValueError
    return [_ADJECTIVE_MARKER.sub("", fields[4 + 2 * i]).replace("_", " ") for i in range(words)]


def names(synsets: list[list[str]], lemmas: str) -> dict[str, int]:
    """Return distinct lower-case names with the number of synsets that each names, in alphabetical order.

    With lemmas="first" a synset gives its first lemma, which is its name; with "all", every lemma.
    """
    counts: dict[str, int] = {}
    for synset in synsets:
        for name in {lemma.lower() for lemma in (synset[:1] if lemmas == "first" else synset)}:
            counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))
