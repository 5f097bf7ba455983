"""Opt-out headers: each way in which they are written, and headers that must not be taken for an opt-out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.http.optout import check_headers, check_page
from pipeline.options.fetch import OPT_OUTS
from pipeline.reasons import REASONS


def said(headers: list[tuple[str, str]]) -> str | None:
    """Return the header that opts out, whatever the signal."""
    refusal = check_headers(headers)
    assert refusal is None or refusal.reason in REASONS
    return refusal.detail if refusal else None


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
    assert said([("Server", "x"), ("X-Robots-Tag", value)]) == expected


def test_a_repeated_header_counts_each_time_on_its_own() -> None:
    headers = [("x-robots-tag", "otherbot: noindex"), ("x-robots-tag", "noai")]
    assert said(headers) == "x-robots-tag: noai"  # the agent of the first does not reach the second


@pytest.mark.parametrize(("value", "found"), [
    ("1", "tdm-reservation: 1"), (" 1 ", "tdm-reservation: 1"), ("0", None), ("", None), ("11", None),
])  # fmt: skip
def test_tdm_reservation(value: str, found: str | None) -> None:
    assert said([("tdm-reservation", value), ("tdm-policy", "https://example.com/p")]) == found


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
    assert said([("Content-Usage", value)]) == (found and f"Content-Usage: {found}")


def test_other_headers_say_nothing() -> None:
    assert said([("Content-Type", "noai"), ("Robots", "noindex"), ("", "noai")]) is None
    assert said([]) is None


@given(st.lists(st.tuples(st.sampled_from(["X-Robots-Tag", "Content-Usage", "tdm-reservation"]), st.text())))
def test_never_raises(headers: list[tuple[str, str]]) -> None:
    said(headers)


_HARMLESS = st.sampled_from(
    ["nofollow", "all", "max-snippet:3", "unavailable_after: 25 Jun 2030 15:00:00 PST"]
)


@given(
    st.lists(_HARMLESS, max_size=4), st.lists(_HARMLESS, max_size=4), st.sampled_from([",", ", ", ";", " , "])
)
def test_a_directive_is_found_wherever_it_stands(before: list[str], after: list[str], comma: str) -> None:
    assert said([("X-Robots-Tag", comma.join([*before, "noai", *after]))]) == "X-Robots-Tag: noai"
    assert said([("X-Robots-Tag", comma.join([*before, *after]))]) is None


# Robots-Tag, the successor of X-Robots-Tag: a list of agents, each with its rules as parameters.


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("*;noai", "noai"),
        ("*; nosnippet; NoImageAI", "noimageai"),
        (";noindex;nosnippet", "noindex"),
        ("noai", "noai"),
        ("noai, otherbot;nosnippet", "noai"),
        ("openwit;noai", "openwit: noai"),
        ("openwit=noai", "openwit: noai"),
        ("ccbot=(nosnippet noindex)", "ccbot: noindex"),
        ("otherbot;noai, img2dataset;noml", "img2dataset: noml"),
        ("*;noindex, openwit;", None),  # an agent that is named has rules of its own
        ("otherbot;noai", None),
        ("*;nosnippet", None),
        ("", None),
        (";,=;", None),
    ],
)
def test_robots_tag_of_the_draft(value: str, found: str | None) -> None:
    assert said([("Robots-Tag", value)]) == (found and f"Robots-Tag: {found}")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("ai=n", True),
        ("ai=n, train-ai=y", False),
        ("ai=y, train-ai=n", True),
        ("train-ai=y, train-ai=n", True),
    ],
)
def test_content_usage_of_the_wider_category(value: str, found: bool) -> None:
    assert (said([("Content-Usage", value)]) is not None) is found


SIGNALS = [
    ("X-Robots-Tag", "noai", "x-robots-tag"),
    ("Robots-Tag", "*;noai", "x-robots-tag"),
    ("tdm-reservation", "1", "tdm-reservation"),
    ("Content-Usage", "train-ai=n", "content-usage"),
]


@pytest.mark.parametrize(("name", "value", "signal"), SIGNALS)
def test_each_signal_has_its_reason_and_its_switch(name: str, value: str, signal: str) -> None:
    refusal = check_headers([(name, value)])
    assert refusal is not None
    assert refusal.reason == f"opt_out_{signal.replace('-', '_')}"
    others = [each for each in OPT_OUTS if each != signal]
    assert check_headers([(name, value)], others) is None


def test_every_signal_has_a_reason() -> None:
    assert all(f"opt_out_{signal.replace('-', '_')}" in REASONS for signal in OPT_OUTS)


# The page that an image stands on.


@pytest.mark.parametrize(
    ("metas", "headers", "found"),
    [
        ([("robots", "noai, noimageai")], [], "meta robots: noai"),
        ([("Robots", "index,NOIMAGEAI")], [], "meta robots: noimageai"),
        ([("robots", "noimageindex")], [], "meta robots: noimageindex"),
        ([("img2dataset", "noml")], [], "meta img2dataset: noml"),
        ([("tdm-reservation", " 1 ")], [], "meta tdm-reservation: 1"),
        ([], [("X-Robots-Tag", "noai")], "X-Robots-Tag of the page: noai"),
        ([], [("TDM-Reservation", "1")], "tdm-reservation of the page: 1"),
        # The page itself may be kept from search, other bots may be meant.
        ([("robots", "noindex, nofollow")], [("X-Robots-Tag", "noindex")], None),
        ([("googlebot", "noai")], [("X-Robots-Tag", "otherbot: noai")], None),
        ([("tdm-reservation", "0"), ("description", "noai"), ("", "noai")], [], None),
    ],
)
def test_pages(metas: list[tuple[str, str]], headers: list[tuple[str, str]], found: str | None) -> None:
    assert check_page(metas, headers) == found


@given(st.lists(st.tuples(st.sampled_from(["robots", "tdm-reservation", "ccbot"]), st.text())))
def test_pages_never_raise(metas: list[tuple[str, str]]) -> None:
    check_page(metas, metas)
