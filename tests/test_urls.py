"""URLs: the WHATWG cases that matter, refused URLs and why, and that no string breaks them."""

import hashlib

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline import urls
from pipeline.reasons import REASONS
from pipeline.urls import MAX_LENGTH, BadUrl, canonical, host, resolve, site, uid, without_credentials
from tests import sanitized

PAGE = "https://example.com/a/b/page.html?q=1#top"


def test_plain_urls_are_told_in_c_as_by_the_pattern() -> None:
    module = pytest.importorskip("pipeline._urls", reason="not built")
    for number in range(20):
        sanitized.urls(module, np.random.default_rng(number))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("HTTP://EXAMPLE.com/A.jpg", "http://example.com/A.jpg"),
        ("http://example.com", "http://example.com/"),
        ("https://example.com:443/x", "https://example.com/x"),
        ("http://example.com:80/x", "http://example.com/x"),
        ("http://example.com:443/x", "http://example.com:443/x"),
        ("http://example.com/a/./b/../c.jpg", "http://example.com/a/c.jpg"),
        ("http://example.com/%7efoo%2f.jpg", "http://example.com/%7Efoo%2F.jpg"),
        ("http://example.com/%7e?u=%2f%7e", "http://example.com/%7E?u=%2f%7e"),  # the query is untouched
        ("http://example.com/x?b=2&a=1&&", "http://example.com/x?b=2&a=1&&"),
        ("http://example.com/x?", "http://example.com/x?"),
        ("http://example.com/100%.jpg", "http://example.com/100%.jpg"),
        ("http://example.com/x#frag?ment", "http://example.com/x"),
        (" \t\nhttp://example.com/a b\n.jpg\x00 ", "http://example.com/a%20b.jpg"),
        ("http://münchen.de/ü?ü", "http://xn--mnchen-3ya.de/%C3%BC?%C3%BC"),
        ("http://ＥＸample.com/", "http://example.com/"),
        ("http://0x7f.1/x", "http://127.0.0.1/x"),
        ("http://[::FFFF:1.2.3.4]:8080/x", "http://[::ffff:102:304]:8080/x"),
        ("http:\\\\example.com\\x", "http://example.com/x"),
        ("http://example.com/a,b_300x200,c.jpg", "http://example.com/a,b_300x200,c.jpg"),
        ("http://example.com/\ud800.jpg", "http://example.com/%EF%BF%BD.jpg"),
    ],
)
def test_canonical_follows_the_standard(url: str, expected: str) -> None:
    assert canonical(url) == expected


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("x.jpg", "https://example.com/a/b/x.jpg"),
        ("../x.jpg", "https://example.com/a/x.jpg"),
        ("/x.jpg", "https://example.com/x.jpg"),
        ("//cdn.example.net/x.jpg", "https://cdn.example.net/x.jpg"),
        ("?id=3", "https://example.com/a/b/page.html?id=3"),
        ("http://other.org/x.jpg", "http://other.org/x.jpg"),
        ("https:x.jpg", "https://example.com/a/b/x.jpg"),
        ("\\img\\x.jpg", "https://example.com/img/x.jpg"),
    ],
)
def test_references_are_resolved_against_the_page(reference: str, expected: str) -> None:
    assert canonical(reference, PAGE) == resolve(reference, PAGE) == expected


def test_only_the_case_of_escapes_separates_resolve_from_canonical() -> None:
    assert resolve("/%7e/x.jpg", PAGE) == "https://example.com/%7e/x.jpg"
    assert canonical("/%7e/x.jpg", PAGE) == "https://example.com/%7E/x.jpg"


@pytest.mark.parametrize("base", ["", "nonsense", "file:///tmp/x.html", "mailto:me", "\ud800", "http://[/"])
def test_absolute_urls_survive_an_unusable_base(base: str) -> None:
    assert canonical("http://example.com/x.jpg", base) == "http://example.com/x.jpg"
    with pytest.raises(BadUrl) as error:
        canonical("x.jpg", base)
    assert error.value.reason == "bad_url"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "bad_url"),
        (" \n", "bad_url"),
        ("#top", "bad_url"),
        ("x.jpg", "bad_url"),
        ("http://", "bad_url"),
        ("http://exa mple.com/", "bad_url"),
        ("http://[::1/", "bad_url"),
        ("http://1.2.3.400/", "bad_url"),
        ("http://example.com:99999/", "bad_url"),
        ("http://user:secret@example.com/x.jpg", "bad_url"),
        ("http://user@example.com/x.jpg", "bad_url"),
        ("http://example.com/" + "x" * MAX_LENGTH, "bad_url"),
        ("http://example.com/" + "ü" * (MAX_LENGTH // 3), "bad_url"),  # six characters each, once encoded
        ("file:///etc/passwd", "bad_scheme"),
        ("ftp://example.com/x.jpg", "bad_scheme"),
        ("javascript:alert(1)", "bad_scheme"),
        ("blob:https://example.com/1", "bad_scheme"),
        ("data:image/gif;base64,R0lGOD", "data_url"),
        (" DATA:image/png;base64," + "A" * 10_000, "data_url"),
        ("da\nta:image/png,x", "data_url"),
    ],
)
def test_the_reason_is_named(url: str, reason: str) -> None:
    with pytest.raises(BadUrl) as error:
        canonical(url)
    assert error.value.reason == reason
    assert reason in REASONS
    assert len(str(error.value)) < 100


def test_the_longest_allowed_url_passes() -> None:
    url = "http://example.com/".ljust(MAX_LENGTH, "x")
    assert canonical(url) == url


def test_an_error_does_not_show_the_password() -> None:
    with pytest.raises(BadUrl) as error:
        canonical("http://user:secret@example.com/")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://user:secret@h.test/x", "http://h.test/x"),
        ("http:user:secret@h.test/x", "http://h.test/x"),
        ("//user:secret@h.test/x", "//h.test/x"),
        ("\\\\user:secret@h.test\\x", "\\\\h.test\\x"),
        ("http://user:secret@[bad/x", "http://[bad/x"),
        ("http://user:se@cret@h.test/\ud800", "http://h.test/%EF%BF%BD"),
        ("photo@2x.jpg", "photo@2x.jpg"),
        ("http://h.test/@secret", "http://h.test/@secret"),
        ("mailto:a@b.test", "mailto:a@b.test"),
    ],
)
def test_credentials_are_not_shown(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_uid_is_the_head_of_the_sha256() -> None:
    url = canonical("HTTP://example.com")
    assert uid(url) == hashlib.sha256(b"http://example.com/").hexdigest()[:32]
    assert uid(url) != uid(canonical("https://example.com"))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://www.images.example.co.uk/x.jpg", "example.co.uk"),
        ("https://EXAMPLE.com:8080/x.jpg", "example.com"),
        ("a.b.example.com", "example.com"),
        ("Example.COM.", "example.com"),
        ("http://example.com./x", "example.com"),
        ("http://me.github.io/x.png", "github.io"),  # many owners, one operator
        ("http://bucket.s3.amazonaws.com/x.png", "amazonaws.com"),
        ("http://www.ck/x", "www.ck"),
        ("co.uk", "co.uk"),
        ("http://localhost:8000/", "localhost"),
        ("http://127.0.0.1:8000/x", "127.0.0.1"),
        ("http://127.0.0.2/x", "127.0.0.2"),
        ("http://[::1]:80/x", "[::1]"),
        ("[::1]", "[::1]"),
        ("http://bücher.example.de/", "example.de"),
        ("http://x.例え.jp/", "xn--r8jz45g.jp"),
    ],
)
def test_site_is_the_registrable_domain(url: str, expected: str) -> None:
    assert site(url) == expected


def test_site_and_host_refuse_what_is_no_host() -> None:
    for bad in ("", ".", "http://", "ftp://example.com"):
        with pytest.raises(BadUrl):
            site(bad)
    assert host("http://[::1]:80/x") == "[::1]"
    assert host("http://EXAMPLE.com:81/x") == "example.com"


awkward = st.one_of(
    st.text(st.characters(codec=None, exclude_categories=())),
    st.text("htps:/\\?#@[]%.:0x1a2 \n\tдüＥ\ud800", max_size=40),
    st.builds("http://{}".format, st.text("aä.-:@/%\\?#[]0x \ud800", max_size=30)),
)


@settings(max_examples=1500, deadline=None)
@example("http://\ud800/", None)
@example("http://xn--a/", None)
@given(awkward, st.none() | awkward | st.just(PAGE))
def test_any_string_gives_a_stable_ascii_url_or_bad_url(url: str, base: str | None) -> None:
    try:
        once = canonical(url, base)
    except BadUrl as error:
        assert error.reason in REASONS
        return
    assert once.isascii()
    assert len(once) <= MAX_LENGTH
    assert once.startswith(("http://", "https://"))
    assert "#" not in once
    assert canonical(once) == once
    assert len(uid(once)) == 32
    assert site(once)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("%/\\?#@:. []|^`{}<>\"'éß日\t\u200d;&=+~!aZ09-_"), max_size=20))
def test_what_is_resolved_resolves_to_itself(rest: str) -> None:
    try:
        href = resolve(f"http://example.com/{rest}")
    except BadUrl:
        return
    assert resolve(href) == href
    urls._resolved.clear()
    assert resolve(href) == href
