"""Merging images of the same bytes: nothing is lost, nothing counts twice."""

import hashlib
from collections import defaultdict

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import schemas
from pipeline.fetch.merge import MERGED_ROWS, is_placeholder, merge
from tests.rows import caption_row, uid_of

arrived = st.lists(
    st.tuples(
        st.integers(0, 7),  # url
        st.integers(0, 5),  # caption
    ),
    max_size=30,
    unique=True,
)


def table_of(rows: list[tuple[str, str, str]]) -> pa.Table:
    """Return MERGED_ROWS of (url, caption, bytes)."""
    captions = [caption_row(url, caption, [1]) for url, caption, _ in rows]
    digests = [hashlib.sha256(data.encode()).digest() for *_, data in rows]
    images = [
        ("", 200, 0, 10, digest, "jpeg", 8, 8, 8, 8, "", "", 80, "", "", "", "", f"blob-{row[0]}", 0, 5)
        for row, digest in zip(rows, digests, strict=True)
    ]
    return schemas.to_table([(*c, *i) for c, i in zip(captions, images, strict=True)], MERGED_ROWS)


@given(arrived, st.lists(st.integers(0, 2), min_size=8, max_size=8), st.integers(1, 4))
@settings(deadline=None)
def test_every_caption_is_kept_or_rejected_once(pairs, content: list[int], cap: int) -> None:
    rows = [(f"https://a.test/{u}", f"caption {c}", f"bytes {content[u]}") for u, c in pairs]
    merged, rejected = merge(table_of(rows), "sha256", cap, 0)
    assert len(merged) + sum(rejected["candidates"].to_pylist()) == len(rows)

    groups = defaultdict(set)
    for url, caption, data in rows:
        groups[data].add((uid_of(url), url, caption))
    found = defaultdict(list)
    for row in merged.to_pylist():
        found[row["uid"]].append(row)
    assert len(found) == len(groups)
    for members in groups.values():
        uid, url, _ = min(members)
        union = sorted({caption for *_, caption in members}, key=schemas.caption_hash)[:cap]
        assert [row["caption"] for row in found[uid]] == union
        assert {row["url"] for row in found[uid]} == {url}
        assert {row["blob"] for row in found[uid]} == {f"blob-{url}"}

    survivors = {min(members)[0].hex() for members in groups.values()}
    gone = {uid_of(url).hex() for url, *_ in rows} - survivors
    traced = {row["uid"] for row in rejected.to_pylist() if row["reason"] == "merged_into"}
    assert traced == gone, "every image that is not in the set has a row that says where it went"
    assert {row["detail"] for row in rejected.to_pylist() if row["reason"] == "merged_into"} <= survivors


def test_uid_as_key_merges_nothing() -> None:
    rows = [(f"https://a.test/{u}", "same", "same") for u in range(3)]
    merged, rejected = merge(table_of(rows), "uid", 16, 10)
    assert len(merged) == 3 and len(rejected) == 0


def test_a_dropped_uid_takes_its_copies_with_it() -> None:
    rows = [(f"https://a.test/{u}", f"caption {u}", "same" if u < 2 else "other") for u in range(3)]
    merged, rejected = merge(table_of(rows), "sha256", 16, 0, frozenset([uid_of("https://a.test/1")]))
    assert set(merged["url"].to_pylist()) == {"https://a.test/2"}
    assert rejected["reason"].to_pylist() == ["dropped"] * 2


def test_one_picture_under_unrelated_captions_is_a_placeholder() -> None:
    unrelated = ["red car", "blue sky", "old house", "green tea", "two dogs", "my garden", "city lights",
                 "fast train", "snowy peak", "fresh bread"]  # fmt: skip
    times = (
        "at night",
        "in spring",
        "by day",
        "in rain",
        "from afar",
        "in snow",
        "in fog",
        "at dawn",
        "in May",
        "now",
    )
    related = [f"Eiffel Tower in Paris {time}" for time in times]
    assert is_placeholder(unrelated, 10)
    assert not is_placeholder(unrelated[:9], 10)
    assert not is_placeholder(related, 10)
    assert not is_placeholder(unrelated, 0)
    rows = [(f"https://a.test/{i}", text, "grey box") for i, text in enumerate(unrelated)]
    merged, rejected = merge(table_of(rows), "sha256", 16, 10)
    assert len(merged) == 0
    assert rejected["reason"].to_pylist() == ["placeholder"] * 10
