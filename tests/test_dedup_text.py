"""Text near-duplicates: datasketch's digests, exact similarities, and the pairs that the bands find."""

import random

import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHash
from hypothesis import given
from hypothesis import strategies as st

from dedup import near_captions
from dedup.near_captions import EvalText, Sketcher, TextIndex, jaccard, shingles
from dedup.parts import EXAMPLES
from pipeline import schemas


@given(st.lists(st.frozensets(st.text(max_size=8), max_size=30), max_size=12))
def test_digests_are_datasketchs_bit_for_bit(sets):
    found = Sketcher().digests(sets)
    for row, elements in zip(found, sets, strict=True):
        expected = MinHash(num_perm=128, seed=1, scheme="affine32")
        expected.update_batch([one.encode("utf-8", "replace") for one in elements])
        assert row.dtype == expected.hashvalues.dtype and (row == expected.hashvalues).all()


def test_the_parameters_are_datasketchs_defaults_of_this_version():
    ours, theirs = Sketcher().minhash(np.zeros(128, np.uint32)), MinHash()
    assert (theirs.scheme, theirs.seed, len(theirs)) == ("affine32", 1, 128)
    assert (ours.permutations == theirs.permutations).all()


def test_jaccard_by_hand():
    a, b = shingles("A red dog"), shingles("a red cat")
    assert a == {"a", "red", "dog", "a red", "red dog"}
    assert jaccard(a, b) == 3 / 7
    assert jaccard(a, a) == 1.0 and jaccard(frozenset(), frozenset()) == 0.0


def mutated(words: list[str], changes: int, rng: random.Random) -> str:
    found = list(words)
    for place in rng.sample(range(len(found)), changes):
        found[place] = f"other{rng.randrange(10**6)}"
    return " ".join(found)


def test_pairs_at_and_above_the_threshold_are_found_and_none_below():
    rng = random.Random(5)
    originals = [[f"w{rng.randrange(3000)}" for _ in range(14)] for _ in range(800)]
    index = TextIndex(
        [EvalText("d", "caption", str(n), " ".join(one)) for n, one in enumerate(originals)], 0.7
    )
    queries = [mutated(one, rng.choice((1, 2, 5)), rng) for one in originals]
    similarities = [
        jaccard(shingles(q), shingles(" ".join(o))) for q, o in zip(queries, originals, strict=True)
    ]
    found = {(hit.query, int(hit.target.example_id)): hit.jaccard for hit in index.search(queries)}
    near = [n for n, value in enumerate(similarities) if value >= 0.7]
    assert len(near) > 150
    assert sum((n, n) in found for n in near) / len(near) >= 0.97
    for (query, target), value in found.items():
        assert value >= 0.7
        assert value == jaccard(shingles(queries[query]), shingles(" ".join(originals[target])))


def test_the_bands_find_what_the_default_would_lose():
    bands, rows = near_captions.BANDS
    assert 1 - (1 - 0.7**rows) ** bands > 0.98
    assert 1 - (1 - 0.7**9) ** 14 < 0.5, "datasketch's own choice for 0.7"


def test_captions_and_prompts_are_the_texts_of_a_set():
    rows = [
        ("d", "1", "tree_frog", "A frog.", "", "compared", 0, 0, 0, "", ""),
        ("d", "2", "tree_frog", "A frog.", "", "compared", 1, 0, 0, "", ""),
        ("e", "3", "7", "", "", "unreadable", -1, 0, 0, "not_image", ""),
    ]
    table: pa.Table = schemas.to_table(rows, EXAMPLES)
    assert near_captions.texts_of(table) == [
        EvalText("d", "caption", "1", "A frog."),
        EvalText("d", "prompt", "1", "a photo of a tree frog"),
    ]
    [hit] = TextIndex(near_captions.texts_of(table), 0.7).search(["", "A photo of a tree frog!", "nothing"])
    assert (hit.query, hit.target.kind, hit.jaccard) == (1, "prompt", pytest.approx(10 / 12))
