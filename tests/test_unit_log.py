"""The contents of a unit's log: exact sums, whatever the order and however long the unit took."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.fetch.unit_log import LATENCY_BINS, UnitLog, latency_bin
from pipeline.http.fetch_url import Outcome

ANSWERS = st.lists(
    st.tuples(
        st.sampled_from(["a.test", "b.test", "203.0.113.7"]),
        st.floats(0, 900),
        st.sampled_from(["", "http_gone", "dns_error"]),
        st.integers(0, 10**6),
        st.floats(1.7e9, 1.7e9 + 30_000),
    ),
    max_size=60,
)


def outcome(elapsed: float, reason: str) -> Outcome:
    status = 0 if reason == "dns_error" else 200
    return Outcome("u", "u", reason, "", status, b"", "", elapsed, "", None)


@settings(max_examples=60, deadline=None)
@given(ANSWERS)
def test_sums_are_those_of_the_answers(answers: list[tuple[str, float, str, int, float]]) -> None:
    log = UnitLog()
    for site, elapsed, reason, size, ended in answers:
        log.add(site, outcome(elapsed, reason), reason, size, ended)
    unit, *sites = map(json.loads, log.lines(requests=7).splitlines())
    assert unit["kind"] == "unit" and unit["requests"] == 7
    assert [one["site"] for one in sites] == sorted({answer[0] for answer in answers})
    for one in sites:
        own = [answer for answer in answers if answer[0] == one["site"]]
        assert one["images"] == len(own) == one["arrived"] + sum(one["reasons"].values())
        assert one["asked"] == sum(elapsed > 0 or reason != "dns_error" for _, elapsed, reason, *_ in own)
        assert one["bytes"] == sum(size for *_, size, _ in own)
        assert one["seconds"] == pytest.approx(sum(elapsed for _, elapsed, *_ in own), abs=0.001)
    assert len(unit["bins"]) <= 600
    assert [sum(b[i] for b in unit["bins"]) for i in (1, 2, 3)] == [
        len(answers), sum(not reason for _, _, reason, *_ in answers), sum(size for *_, size, _ in answers)
    ]  # fmt: skip
    under_way = sum(elapsed for _, elapsed, *_ in answers)
    assert sum(b[4] for b in unit["bins"]) == pytest.approx(under_way, abs=0.002 * len(unit["bins"]) + 1e-3)
    assert sum(unit["latency"]) == sum(one["asked"] for one in sites)


def test_what_is_under_way_is_spread_over_its_seconds() -> None:
    log = UnitLog()
    log.add("a.test", outcome(2.5, ""), "", 10, 1003.0)
    unit = json.loads(log.lines(1).splitlines()[0])
    assert unit["width"] == 1
    assert unit["bins"] == [
        [1000, 0, 0, 0, 0.5],
        [1001, 0, 0, 0, 1.0],
        [1002, 0, 0, 0, 1.0],
        [1003, 1, 1, 10, 0.0],
    ]


def test_answer_times_fall_into_half_octaves() -> None:
    assert [latency_bin(t) for t in (0.0, 0.001, 0.0014, 0.00142, 0.002, 1e9)] == [
        0,
        0,
        0,
        1,
        2,
        LATENCY_BINS - 1,
    ]
