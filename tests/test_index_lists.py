"""Pages and counts that are worked out from lists of terms: against all rows, sorted and cut by SQLite."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.index import orders, packing, postings, tables, terms, walk, ways
from pipeline.index.question import Filter, phrases, question
from pipeline.index.search import Search
from tests.test_index import followed

WORDS = [*"abcdefgh", "Ähre", "straße", "don't", "x2", *(f"rare{n}" for n in range(60))]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Search]:
    """An index of 1,800 samples with lists, from which a shard in the middle was taken out.

    It is sorted by lang_score already, and all have the same bytes.
    """
    path, rng = tmp_path_factory.mktemp("lists") / "index.sqlite", np.random.default_rng(0)
    with pytest.MonkeyPatch.context() as patch:
        small = {"LEAST": 1_000, "FEW": 40, "_SPAN": 512, "_SORTED": 20_000}
        for name, value in small.items():
            patch.setattr(postings, name, value)
        patch.setattr(packing, "PART", 64)
        patch.setattr(orders, "BYTES", 40)
        patch.setattr(orders, "IDS", 32)

        def add(source: tables.Source, number: int) -> None:
            rows = []
            for n in range(600):
                some = np.minimum(rng.zipf(1.3, rng.integers(0, 9)), len(WORDS)) - 1
                caption = " ".join(WORDS[word] for word in some)
                site = index.tag("samples", "site", f"{rng.zipf(1.5)}.test")
                width = None if n % 9 == 0 else int(rng.integers(1, 60))
                height = 256 if n % 3 else int(rng.integers(1, 900))
                rows.append([
                    f"{number}-{n}", "", number, "jpg", 0, 1, 0, 0, caption, f"https://z.test/{n}", "",
                    f"{site} q{rng.zipf(1.5)} q7 r7x{n % 3}", width, height, 5,
                    20 * number + n / 30, None,
                ])  # fmt: skip
            index.insert("samples", tables.SAMPLE_COLUMNS, rows)

        index = tables.Index(path)
        for names in ("abcd", "abd"):
            shards = [tables.Source(name, name, "1") for name in names]
            index.renew("samples", shards, add, lambda done, total, found: None)
            tables.finish(index, "lists")
        index.close()
        found = Search(path)
        yield found
        found.close()


def test_terms_of_words_are_those_of_the_full_text_table() -> None:
    texts = ["Don't  STOP", "Straße in Köln, ²x", "a_b c\0d", "", "日本 e\u0301t", "İx ǅ"]
    assert terms.words(texts)[:4] == [
        ["don", "t", "stop"], ["straße", "in", "koln", "²x"], ["a", "b", "c", "d"], []
    ]  # fmt: skip
    for text in texts:  # plain words one by one, others by asking
        together = terms.words([text + " é"])[0]
        assert together[:-1] == terms.words([text])[0]


@pytest.mark.parametrize(
    "ids", [[7], [0, 1, 255, 511], [3, 258, 259, 260, 514, 770, 771], [3, 70_000], [1, 2**31, 2**32 - 1]]
)
def test_lists_are_packed_in_few_bytes(ids: list[int]) -> None:
    own = np.array(ids, np.uint32)
    assert packing.unpacked(ids[0], packing.packed(own)).tolist() == ids
    for samples in (9, 1 << 24):
        places = own % np.uint32(min(samples, 1 << 24))
        assert packing.lengthened(packing.shortened(places, samples), samples).tolist() == places.tolist()


some_words = st.lists(st.sampled_from(WORDS[:20]) | st.sampled_from(WORDS), min_size=1, max_size=4)
pieces = st.builds(lambda sign, words: f'{sign}"{" ".join(words)}"', st.sampled_from(["", "-"]), some_words)
texts = st.lists(some_words.map(" ".join) | pieces, max_size=3).map(" ".join)
cuts = st.dictionaries(
    st.sampled_from(["width", "height", "lang_score", "bytes"]),
    st.integers(-2, 900) | st.floats(-2, 60),
    max_size=2,
)


@given(
    texts, cuts, cuts, st.none() | st.sampled_from([1, 2, 7, 50]), st.none() | st.integers(1, 5),
    st.sampled_from(["", "width", "-width", "height", "-height", "-lang_score", "bytes", "-bytes"]),
    st.integers(-2_000, 2_000), st.sampled_from([0, 20, 60, 200]),
    st.sampled_from([0, 20_000, 100_000, ways.MOST]), st.integers(-1, 3),
)  # fmt: skip
def test_pages_from_lists_are_those_of_all_rows(
    search: Search, text: str, least: dict[str, float], most: dict[str, float], query: int | None,
    site: int | None, sort: str, start: int, limit: int, budget: int, way: int,
) -> None:  # fmt: skip
    facets = {"site": f"{site}.test"} if site else {}
    wanted = Filter(text=text, least=least, most=most, query=query, facets=facets, sort=sort)
    asked = question(search.db, wanted, "samples", search.numbers, search.cuts)
    column, falls = sort.removeprefix("-") or "id", "DESC" if sort.startswith("-") else "ASC"
    where = [f"coalesce({name} >= {bound}, 0)" for name, bound in least.items()]
    where += [f"coalesce({name} <= {bound}, 0)" for name, bound in most.items()]
    every_part = [f'{{caption url}} : "{inner}"' for _, inner in phrases(text)]
    every_part += [f"tags : {tag}" for tag in asked.tags]
    has = "id IN (SELECT rowid FROM samples_text WHERE samples_text MATCH ?)"
    signs = ["NOT " if is_refused else "" for is_refused, _ in phrases(text)] + [""] * len(asked.tags)
    where += [sign + has for sign in signs]
    statement = f"SELECT id, {' AND '.join(where) or '1'} FROM samples ORDER BY {column} {falls}, id {falls}"
    rows = search.db.execute(statement, every_part).fetchall()
    every = [row[0] for row in rows if row[1]]
    after = rows[start][0] if 0 <= start < len(rows) else 0  # of a sample that may not be meant
    left = [row[0] for row in rows[start + 1 :] if row[1]] if after else every
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(walk, "MOST", budget)
        patch.setattr(ways, "_AT_ONCE", budget)
        if way >= 0:  # not only the one that reads least
            every_way = ways._ways
            patch.setattr(
                ways, "_ways", lambda *given: (found := every_way(*given))[way % max(len(found), 1) :][:1]
            )
        pages = list(itertools.islice(followed(search, wanted, limit, after), 60))
        count = search.count(wanted)
    found = [row["id"] for page in pages for row in page.rows]
    assert found == left[: len(found)] and (found == left or pages[-1].next or not limit)
    assert len({page.next for page in pages}) == len(pages)
    for page in pages:
        assert page.total == len(every) or (not page.is_exact and page.total < len(every))
    assert count == ([], len(every), True, 0)


def test_a_bound_that_every_sample_passes_is_none(search: Search) -> None:
    """Also in a column of one value, which has no lists; a sample without a value passes no bound."""
    none = dict[str, float]()
    for least, most, left in (
        ({"bytes": 5}, {"bytes": 5}, none), ({"bytes": 5, "height": 0}, {"lang_score": 999}, none),
        ({"bytes": 6}, none, {"bytes": 6}), ({"width": 0}, none, {"width": 0}),
        ({"bytes": float("nan")}, none, {"bytes"}),
    ):  # fmt: skip
        wanted = Filter(text="a", least=least, most=most, sort="-width")
        own = question(search.db, wanted, "samples", search.numbers, search.cuts)
        assert {*own.wanted.least} == {*left} and not own.wanted.most and len(own.bounds) == len(left)
        assert (search.page(wanted, 60) == search.page(Filter(text="a", sort="-width"), 60)) == (not left)


def test_a_page_reads_no_more_than_its_share(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    """The ids of its samples in the order of a column included, which lie apart."""
    monkeypatch.setattr(walk, "MOST", 1_200_000)
    for page in followed(search, Filter(text="a -b", sort="-width"), 200):
        assert search.lists.bytes_read() + ways.ROW * len(page.rows) <= 1_200_000
