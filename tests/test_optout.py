"""Opt-out headers: each way in which they are written, and what must not be taken for one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.http.optout import check_headers


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("noai", "noai"),
        ("noimageai", "noimageai"),
        ("noindex", "noindex"),
        ("noimageindex", "noimageindex"),
        ("none", "none"),
        ("noml", "noml"),
        ("NoAI", "noai"),
        ("noai;", "noai"),
        ("nofollow, noai", "noai"),
        ("nofollow,noai", "noai"),
        ("nofollow noai", "noai"),
        ("all; noimageai", "noimageai"),
        # For us by name, or for all by name.
        ("openwit: noai", "openwit: noai"),
        ("img2dataset: noai", "img2dataset: noai"),
        ("img2dataset : noai", "img2dataset: noai"),
        ("IMG2Dataset/1.47: noindex", "img2dataset: noindex"),
        ("CCBot: nofollow, noindex", "ccbot: noindex"),
        ("LAIONDownloader:none", "laiondownloader: none"),
        ("*: noai", "noai"),
        ("otherbot: noindex, img2dataset: noai", "img2dataset: noai"),
        ("otherbot: noindex, *: noai", "noai"),
        # Directives with values, which have colons and commas of their own.
        ("unavailable_after: 25 Jun 2030 15:00:00 PST, noai", "noai"),
        ("unavailable_after: Wed, 25 Jun 2030 15:00:00 PST, noai", "noai"),
        ("max-image-preview:none, noai", "noai"),
        ("max-snippet: 50, max-video-preview:-1, noimageai", "noimageai"),
        ("noai: 1", "noai"),
        # Nothing that concerns us.
        ("", None),
        ("all", None),
        ("nofollow, noarchive, nosnippet, notranslate", None),
        ("otherbot: noindex", None),
        ("otherbot: nofollow, noindex", None),
        ("googlebot: noai, bingbot: noindex", None),
        ("max-image-preview:none", None),
        ("max-image-preview: none, max-snippet:-1", None),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST", None),
        ("noaimageai, xnoai, noai2", None),
        (":", None),
        (",,;:,", None),
    ],
)
def test_x_robots_tag(value: str, found: str | None) -> None:
    expected = None if found is None else f"X-Robots-Tag: {found}"
    assert check_headers([("Server", "x"), ("X-Robots-Tag", value)]) == expected


def test_a_repeated_header_counts_each_time_on_its_own() -> None:
    headers = [("x-robots-tag", "otherbot: noindex"), ("x-robots-tag", "noai")]
    assert check_headers(headers) == "x-robots-tag: noai"  # the agent of the first does not reach the second


@pytest.mark.parametrize(("value", "found"), [
    ("1", "tdm-reservation: 1"), (" 1 ", "tdm-reservation: 1"), ("0", None), ("", None), ("11", None),
])  # fmt: skip
def test_tdm_reservation(value: str, found: str | None) -> None:
    assert check_headers([("tdm-reservation", value), ("tdm-policy", "https://example.com/p")]) == found


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("train-ai=n", "train-ai=n"),
        ("Train-AI=N", "train-ai=n"),
        ("search=y, train-ai=n", "train-ai=n"),
        ("train-ai=n;scope=x, search=y", "train-ai=n"),
        ("train-ai = n", "train-ai=n"),
        ("train-ai=y", None),
        ("train-ai", None),
        ("search=n", None),
        ("no-train-ai=n", None),
        ("train-ai=never", None),
    ],
)
def test_content_usage(value: str, found: str | None) -> None:
    assert check_headers([("Content-Usage", value)]) == (found and f"Content-Usage: {found}")


def test_other_headers_say_nothing() -> None:
    assert check_headers([("Content-Type", "noai"), ("Robots", "noindex"), ("", "noai")]) is None
    assert check_headers([]) is None


@given(st.lists(st.tuples(st.sampled_from(["X-Robots-Tag", "Content-Usage", "tdm-reservation"]), st.text())))
def test_never_raises(headers: list[tuple[str, str]]) -> None:
    check_headers(headers)


_HARMLESS = st.sampled_from(
    ["nofollow", "all", "max-snippet:3", "unavailable_after: 25 Jun 2030 15:00:00 PST"]
)


@given(
    st.lists(_HARMLESS, max_size=4), st.lists(_HARMLESS, max_size=4), st.sampled_from([",", ", ", ";", " , "])
)
def test_a_directive_is_found_wherever_it_stands(before: list[str], after: list[str], comma: str) -> None:
    assert check_headers([("X-Robots-Tag", comma.join([*before, "noai", *after]))]) == "X-Robots-Tag: noai"
    assert check_headers([("X-Robots-Tag", comma.join([*before, *after]))]) is None
