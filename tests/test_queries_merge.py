"""Merging: who comes first, who is always in, who shares the rest, and why the others are out."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.captions.match import Matcher
from queries import merge
from queries.merge import MergedList, RankedEntry


def _offer(*queries: str) -> list[RankedEntry]:
    return [RankedEntry(query, len(queries) - i, float(len(queries) - i)) for i, query in enumerate(queries)]


def _listed(merged: MergedList) -> list[tuple[str, str]]:
    return [(query.source, query.query) for query in merged.queries]


def test_a_query_counts_under_its_first_source_in_the_papers_order() -> None:
    merged = merge.merge(
        {
            "extra": _offer("tabby cat", "cat", "new york"),
            "wordnet": _offer("cat", "new york", "st. louis"),
            "title": _offer("New York", "St. Louis", "Los Angeles"),
            "bigram": _offer("los angeles", "new york"),
            "unigram": _offer("the", "cat"),
        },
        100,
    )
    assert _listed(merged) == [
        ("unigram", "the"), ("unigram", "cat"), ("bigram", "los angeles"), ("bigram", "new york"),
        ("title", "St. Louis"), ("extra", "tabby cat"),
    ]  # fmt: skip
    assert merged.dropped == {
        "title": Counter(earlier_source=2),
        "wordnet": Counter(earlier_source=3),
        "extra": Counter(earlier_source=2),
    }
    assert merged.examples["title", "earlier_source"] == ["New York", "Los Angeles"]


def test_wordnet_and_extra_are_complete_and_the_rest_is_shared() -> None:
    sources = {
        "wordnet": _offer("w1", "w2"),
        "extra": _offer("e1"),
        "unigram": _offer(*(f"u{i}" for i in range(5))),
        "bigram": _offer("b 1", "b 2"),
        "title": _offer("t 1", "t 2"),
    }
    merged = merge.merge(sources, 6)
    assert Counter(query.source for query in merged.queries) == {
        "unigram": 2, "bigram": 1, "wordnet": 2, "extra": 1,
    }  # fmt: skip
    assert [query.query for query in merged.queries][:3] == ["u0", "u1", "b 1"]
    assert merged.dropped["unigram"] == {"over_budget": 3}
    assert merged.dropped["bigram"] == {"over_budget": 1}
    with pytest.raises(ValueError, match="make 3 queries; --size must be at least that, not 2"):
        merge.merge(sources, 2)


def test_bigrams_and_titles_share_in_metaclips_proportion() -> None:
    sources = {
        "unigram": _offer("u"),
        "bigram": _offer(*(f"b {i}" for i in range(1000))),
        "title": _offer(*(f"t {i}" for i in range(1000))),
    }
    counts = Counter(query.source for query in merge.merge(sources, 501).queries)
    assert counts == {"unigram": 1, "bigram": round(500 * 100_646 / 161_881), "title": 500 - 311}


def test_words_cannot_fill_the_list_before_bigrams_and_titles_have_their_share() -> None:
    sources = {
        "unigram": _offer(*(f"u{i}" for i in range(1000))),
        "bigram": _offer(*(f"b {i}" for i in range(1000))),
        "title": _offer(*(f"t {i}" for i in range(1000))),
        "wordnet": _offer("w 1", "u1"),
    }
    counts = Counter(query.source for query in merge.merge(sources, 502).queries)
    # A word that WordNet has takes no place of its own; it is listed as a word.
    assert counts == {"unigram": 305, "bigram": 122, "title": 74, "wordnet": 1}
    few = sources | {"title": _offer("t 1")}
    counts = Counter(query.source for query in merge.merge(few, 502).queries)
    assert counts == {"unigram": 378, "bigram": 122, "title": 1, "wordnet": 1}, "what titles leave is words'"


@pytest.mark.parametrize(("bigrams", "titles"), [(10, 1000), (1000, 10)])
def test_what_one_does_not_use_is_the_others(bigrams: int, titles: int) -> None:
    sources = {
        "bigram": _offer(*(f"b {i}" for i in range(bigrams))),
        "title": _offer(*(f"t {i}" for i in range(titles))),
    }
    counts = Counter(query.source for query in merge.merge(sources, 500).queries)
    assert counts == {"bigram": min(bigrams, 490), "title": min(titles, 490)}


def test_a_bigram_that_is_in_wordnet_takes_no_place() -> None:
    sources = {"bigram": _offer("w 1", "b 1", "w 2"), "wordnet": _offer("w 1", "w 2"), "title": _offer()}
    merged = merge.merge(sources, 3)
    assert _listed(merged) == [("bigram", "w 1"), ("bigram", "b 1"), ("bigram", "w 2")]


def test_what_cannot_match_or_is_unwanted_is_left_out() -> None:
    sources = {"title": _offer("?", "Cat", "CAT", "—", "Dog", "", "Owl")}
    merged = merge.merge(sources, 10, exclude=["DOG", "no such"])
    assert [query.query for query in merged.queries] == ["Cat", "Owl"]
    assert merged.dropped["title"] == {"no_word": 3, "duplicate": 1, "excluded": 1}
    assert merged.examples["title", "excluded"] == ["Dog"]


def test_the_table_is_numbered_in_order() -> None:
    table = merge.merge({"unigram": _offer("a", "b")}, 5).table()
    assert table.schema == merge.QUERIES
    assert table.to_pylist()[1] == {
        "query_id": 1,
        "query": "b",
        "source": "unigram",
        "count": 1,
        "score": 1.0,
    }
    assert merge.merge({}, 5).table() == merge.QUERIES.empty_table()
    assert pa.types.is_int32(table.schema.field("query_id").type)


_OFFERS = st.lists(st.text(alphabet="abAB .+é", max_size=4), max_size=12).map(
    lambda queries: _offer(*queries)
)


@given(st.fixed_dictionaries(dict.fromkeys(merge.SOURCES, _OFFERS)), st.integers(1, 30))
def test_invariants(sources: dict[str, list[RankedEntry]], size: int) -> None:
    keys = {
        name: {merge.key_of(c.query) for c in offer if merge.key_of(c.query).strip(".+ ")}
        for name, offer in sources.items()
    }
    always = keys["wordnet"] | keys["extra"]
    if len(always) > size:
        with pytest.raises(ValueError, match="--size"):
            merge.merge(sources, size)
        return
    merged = merge.merge(sources, size)
    listed = [query.key for query in merged.queries]
    assert len(listed) == len(set(listed)) == min(size, len(set().union(*keys.values())))
    assert always <= set(listed)
    assert Matcher([query.query for query in merged.queries]).dead == []
    for name, offer in sources.items():
        taken = sum(query.source == name for query in merged.queries)
        assert taken + merged.dropped.get(name, Counter()).total() == len(offer)
