"""tdmrep.json and other rules for paths: which of them decides, and texts that are no rule."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.http import tdmrep
from pipeline.http.pathrules import PathRules, matches
from pipeline.http.robots import parse

SITE = "http://example.com"


def rules(*pairs: tuple[str, object]) -> bytes:
    return json.dumps([{"location": path, "tdm-reservation": value} for path, value in pairs]).encode()


@pytest.mark.parametrize(
    ("body", "path", "pattern"),
    [
        (rules(("/", 1)), "/a.jpg", "/"),
        (rules(("/", "1")), "/a.jpg", "/"),
        (b"\xef\xbb\xbf" + rules(("/", 1)), "/a.jpg", "/"),
        (rules(("/", 1))[1:-1], "/a.jpg", "/"),  # one object without the list
        (rules(("/", 0)), "/a.jpg", None),
        (rules(("/", 1), ("/free/", 0)), "/free/a.jpg", None),  # the longest decides
        (rules(("/", 0), ("/paid/", 1)), "/paid/a.jpg", "/paid/"),
        (rules(("/", 0), ("/paid/", 1)), "/free/a.jpg", None),
        (rules(("/a", 0), ("/a", 1)), "/a", "/a"),  # of equals the reserving rule
        (rules(("/*.jpg$", 1)), "/x/a.jpg", "/*.jpg$"),
        (rules(("/*.jpg$", 1)), "/x/a.jpg?b", None),
        (rules(("/bilder/größe", 1)), "/bilder/gr%C3%B6%C3%9Fe/a.jpg", "/bilder/gr%C3%B6%C3%9Fe"),
        (rules(("/a", 2), ("/a", None), ("a", 1), (1, 1), ("", 1)), "/a", None),
        (b"[1, null, [], {}]", "/a", None),
        (b"[" * 100_000, "/a", None),
        (b"<html>", "/a", None),
        (b"", "/a", None),
    ],
)
def test_tdmrep(body: bytes, path: str, pattern: str | None) -> None:
    assert tdmrep.parse(body).reserving(SITE + path) == pattern


@given(
    st.binary()
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(lambda x: json.dumps(x).encode())
)
def test_tdmrep_never_raises(body: bytes) -> None:
    tdmrep.parse(body).reserving(SITE + "/")


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("/", "/", True), ("/a", "/ab", True), ("/ab", "/a", False), ("/a$", "/a", True),
        ("/a$", "/ab", False),
        ("*", "/x", True), ("/*/b", "/a/b", True), ("/*/b", "/b", False), ("/*b$", "/abb", True),
        ("/*b$", "/abc", False), ("/a*b*c", "/a-c-b-c", True), ("/a*b*c", "/a-c-b", False),
        ("/a*a$", "/a", False),
        ("/a**$", "/ab", True), ("$", "/", False),
    ],
)  # fmt: skip
def test_matches(pattern: str, path: str, fits: bool) -> None:
    assert matches(pattern, path) is fits


PATTERNS = st.text("ab*$/", max_size=6).map(
    lambda text: "/" + text.replace("$", "") + "$" * text.endswith("$")
)


@given(PATTERNS, st.text("ab/", max_size=8))
def test_matches_as_robots_txt_does(pattern: str, path: str) -> None:
    refused = parse(f"User-agent: *\nDisallow: {pattern}".encode()).refusal(f"{SITE}/{path}") is not None
    assert matches(pattern, f"/{path}") is refused


def test_hostile_patterns_are_quick_and_bounded() -> None:
    path = "/" + "ab" * 1000
    assert not matches("/" + "a*" * 1000 + "c", path)
    many = PathRules([(f"/{'x*' * 8}{i}", True) for i in range(100_000)])
    assert many.reserving(SITE + path) is None
    assert len(many._wildcards) == 2000


# The contents of robots.txt beside its rules.

PARTLY = "User-agent: *\nContent-Usage: train-ai=n\nContent-Usage: /ok/ train-ai=y"
GROUPS = [
    ("User-agent: *\nContent-Signal: search=yes, ai-train=no\nAllow: /", "/a", "opt_out_content_signal"),
    ("User-agent: *\nContent-signal: AI-Train = NO", "/a", "opt_out_content_signal"),
    ("User-agent: *\nContent-Signal: /a ai-train=no", "/b", None),
    ("User-agent: *\nContent-Signal: search=no, ai-input=no", "/a", None),
    ("User-agent: *\nContent-Signal: ai-train=yes", "/a", None),
    ("User-agent: *\nContent-Usage: train-ai=n", "/a", "opt_out_content_usage"),
    ("User-agent: *\nContent-Usage: ai=n", "/a", "opt_out_content_usage"),
    (PARTLY, "/ok/a", None),
    (PARTLY, "/a", "opt_out_content_usage"),
    ("User-agent: *\nContent-Usage: search=n", "/a", None),
    # Whose group it is decides, as for rules.
    ("User-agent: GPTBot\nContent-Signal: ai-train=no", "/a", None),
    ("User-agent: CCBot\nContent-Signal: ai-train=no", "/a", "opt_out_content_signal"),
    ("User-agent: *\nContent-Signal: ai-train=no\n\nUser-agent: openwit\nAllow: /", "/a", None),
    ("Content-Signal: ai-train=no\nUser-agent: *\nAllow: /", "/a", None),
    # It does not end a run of names: both are kept out.
    ("User-agent: openwit\nContent-Signal: x=y\nUser-agent: GPTBot\nDisallow: /", "/a", "robots_disallow"),
    ("User-agent: *\nDisallow:\nUser-agent: img2dataset\nDisallow: /", "/a", "opt_out_robots_alias"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "path", "reason"), GROUPS)
def test_preferences_in_robots_txt(text: str, path: str, reason: str | None) -> None:
    refusal = parse(text.encode()).refusal(SITE + path)
    assert (refusal.reason if refusal else None) == reason


@pytest.mark.parametrize("signal", ["content-signal", "content-usage", "robots-alias"])
def test_each_can_be_switched_off(signal: str) -> None:
    text, _, _ = next(case for case in GROUPS if case[2] == f"opt_out_{signal.replace('-', '_')}")
    found: Any = parse(text.encode())
    assert found.refusal(SITE + "/a", [signal]) is not None
    assert found.refusal(SITE + "/a", []) is None
