"""Deduplication, the caption cap, pairs, and slices by partition."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from pipeline import schemas, urls
from pipeline.fetch.units import sites_of
from pipeline.select.workers import SampleQueryPairs, concat, few_captions, one_url, slices
from tests.rows import caption_table, uid_of

rows = st.lists(
    st.tuples(
        st.sampled_from([f"https://a.test/{i}.jpg" for i in range(6)]),
        st.sampled_from([f"caption {i}" for i in range(5)]),
        st.lists(st.integers(0, 7), min_size=1, max_size=4, unique=True),
    ),
    max_size=40,
)


@given(rows, st.integers(1, 4))
def test_every_row_is_kept_or_rejected_once(data, cap: int) -> None:
    table = caption_table(data)
    kept, rejected = few_captions(table, cap)
    assert len(kept) + len(rejected) == len(table)
    by_url = defaultdict(set)
    for url, caption, _ in data:
        by_url[url].add(caption)
    found = defaultdict(list)
    for row in kept.to_pylist():
        found[row["url"]].append(row["caption"])
    for url, captions in by_url.items():
        smallest = sorted(captions, key=schemas.caption_hash)[:cap]
        assert found[url] == smallest
    pairs = {(url, caption) for url, caption, _ in data}
    reasons = rejected["reason"].to_pylist()
    repeated, over = len(table) - len(pairs), len(pairs) - len(kept)
    assert reasons == ["duplicate"] * repeated + ["too_many_captions"] * over


@given(rows)
def test_pairs_are_the_union_over_a_samples_captions(data) -> None:
    table = caption_table(data)
    pairs = SampleQueryPairs.of(table, 8)
    expected = defaultdict(set)
    for url, _, matched in data:
        expected[uid_of(url)] |= set(matched)
    uids = table["uid"].take(pa.array(pairs.starts)).to_pylist()
    found = defaultdict(set)
    for sample, query in zip(pairs.sample.tolist(), pairs.query.tolist(), strict=True):
        assert query not in found[uids[sample]], "a pair stands twice"
        found[uids[sample]].add(query)
    assert found == expected
    counts = np.zeros(8, int)
    for queries in expected.values():
        counts[sorted(queries)] += 1
    assert pairs.counts(8).tolist() == counts.tolist()


def test_the_last_hash_is_in_the_last_partition() -> None:
    extremes = np.array([0, 2**63, 2**64 - 1], np.uint64)
    for partitions in (1, 2, 3, 7, 1000, 2**20):
        found = schemas.partition_of(extremes, partitions)
        assert found[0] == 0 and found[-1] == partitions - 1


@given(rows, st.integers(1, 5))
def test_slices_cross_as_small_bytes(data, partitions: int) -> None:
    table = caption_table(data)
    partition = schemas.partition_of(schemas.high_bits(table["uid"]), partitions)
    groups = defaultdict(list)
    for key, part in slices(table, partition):
        assert isinstance(part, bytes)
        groups[key].append(part)
    back = pa.concat_tables(
        [concat(groups[key], table.schema) for key in sorted(groups)] or [table.schema.empty_table()]
    )
    assert schemas.sort_rows(back).equals(table)


def test_a_slice_does_not_carry_its_parent(tmp_path: Path) -> None:
    table = caption_table([(f"https://a.test/{i}", f"caption number {i}", [1]) for i in range(5000)])
    assert len(schemas.encode(table.slice(17, 3))) < 5000


def test_sites_are_those_of_each_url_alone() -> None:
    found = [
        "https://www.example.co.uk/a", "http://a.b.example.com:8080/x?y", "https://1.2.3.4/x", "http://[::1]:80/x",
        "https://xn--bcher-kva.example/", "http://localhost/", "http://github.io/x", "https://a.github.io/",
        "http://a_b.example.com/", "https://example.com./x", "https://www.example.co.uk/b",
    ]  # fmt: skip
    for some in (found, found[:3], []):
        assert sites_of(pa.array(some, pa.string())).to_pylist() == [urls.site(url) for url in some]


def test_spellings_of_one_url_are_one_sample() -> None:
    table = caption_table([("https://a.test/1", f"caption {i}", [1]) for i in range(3)])
    spelled = table.set_column(
        1, table.schema.field("url"), pa.array([f"https://A.test/{i}" for i in range(3)])
    )
    assert set(one_url(spelled)["url"].to_pylist()) == {"https://A.test/0"}
    assert len(one_url(table.slice(0, 0))) == 0
