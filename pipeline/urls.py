"""URLs as browsers read them: resolve, make canonical, identify, and tell whose site it is.

Parsing is the WHATWG URL Standard (https://url.spec.whatwg.org) by ada, the parser of Node.js, because the
web's references were written for browsers: `http:/x`, `\\\\host\\path` and spaces all mean something there.
can-ada was taken over ada-url, which wraps the same parser with the same wheels: 0.9 against 2.4 us a URL.
"""

import contextlib
import hashlib
import importlib
import ipaddress
import re
from functools import cache, lru_cache
from typing import Any, Final, Literal

import can_ada
from publicsuffixlist import PublicSuffixList

try:
    from pipeline import _urls
except ImportError:  # no compiler where it was installed
    _urls = None  # type: ignore[assignment]

MAX_LENGTH: Final = 2083
"""Characters, as written and as resolved: the limit of Internet Explorer, still the widest common limit."""

_STRIPPED: Final = "".join(map(chr, range(0x21)))  # WHATWG: leading and trailing C0 controls and space
_ESCAPE: Final = re.compile(r"%[0-9A-Fa-f]{2}")
_USER_INFO: Final = re.compile(r"(?<=[/\\]{2})[^/\\?#]*@")

# URLs that resolving leaves as they are: a host name of ASCII labels under an alphabetic label; a path
# without empty segments, dots at a segment's start and escapes, of characters that no part of a URL encodes.
_LABEL: Final = r"(?!xn--)[a-z0-9][a-z0-9-]*+\."
_CHARACTERS: Final = r"[A-Za-z0-9_~!$&()*+,;=:@.-]"
PLAIN_HOST: Final = rf"https?://(?:{_LABEL})++(?!xn--)[a-z]{{2,}}+(?=/)"
PLAIN_PATH: Final = rf"(?:/(?!\.){_CHARACTERS}++)++(?:\?(?:[/?]|{_CHARACTERS})*+)?"
_PLAIN_URL: Final = re.compile(PLAIN_HOST + PLAIN_PATH).fullmatch
_is_plain: Final = _PLAIN_URL if _urls is None else _urls.is_plain

_resolved: Final[dict[str, None]] = {}
"""Results of `resolve` of late, which resolved again are themselves."""
_MOST_RESOLVED: Final = 4096  # more than are read together before they are asked for their canonical form

UrlReason = Literal["bad_url", "bad_scheme", "data_url"]


class BadUrl(ValueError):  # noqa: N818 - the name says what is wrong, as ValueError's own kin do
    """A reference that cannot be fetched; `reason` is a word of `pipeline.reasons`."""

    def __init__(self, reason: UrlReason, detail: str) -> None:
        super().__init__(detail)
        self.reason: UrlReason = reason


def resolve(url: str, base: str | None = None) -> str:
    """Return the absolute http(s) URL that `url`, found on the page `base`, asks for; without its fragment.

    This URL is fetched: WHATWG serialisation and nothing more (host in lower case and IDNA, default port
    dropped, dot segments resolved, forbidden characters percent-encoded), so ASCII only. Raises BadUrl:
    `data_url`, `bad_scheme` (not http or https), or `bad_url` (no URL, empty, longer than MAX_LENGTH, with a
    user name or password, or relative without a base).
    """
    if base is None and url in _resolved:  # a resolved URL is asked for its canonical form soon
        return url
    if len(url) <= MAX_LENGTH and _is_plain(url):
        return _remember(url)
    url = url.strip(_STRIPPED)
    if url[:5].lower() == "data:":  # before the length: these are long
        raise BadUrl("data_url", url[:64])
    if len(url) > MAX_LENGTH:
        raise BadUrl("bad_url", f"{len(url)} characters")
    if not url or url[0] == "#":
        raise BadUrl("bad_url", "empty reference")  # it would name the page itself
    parsed = _parse(url, base)
    href: str = parsed.href
    if not href.startswith(("https://", "http://")):
        scheme = href.partition(":")[0]
        raise BadUrl("data_url" if scheme == "data" else "bad_scheme", f"{scheme}:")
    if "@" in href and parsed.has_credentials():
        raise BadUrl("bad_url", "user name or password in the URL")
    if "#" in href:
        href = href.partition("#")[0]
    if len(href) > MAX_LENGTH:
        raise BadUrl("bad_url", f"{len(href)} characters once resolved")
    return _remember(href)


def _remember(href: str) -> str:
    if len(_resolved) >= _MOST_RESOLVED:
        _resolved.clear()
    _resolved[href] = None
    return href


@lru_cache(maxsize=64)
def origin(base: str) -> str:
    """Return the origin of the page `base`, or "" where that is no page's URL."""
    try:
        parsed = _parse_base(base)
    except TypeError:  # as in `_parse`
        return ""
    return "" if parsed is None or parsed.has_credentials() else f"{parsed.protocol}//{parsed.host}"


def canonical(url: str, base: str | None = None) -> str:
    """Return the canonical form under which a URL is counted; raises BadUrl as `resolve` does.

    It is `resolve` plus %xx in upper case in the path (RFC 3986, section 6.2.2.1). The query string stays as
    it is, since servers may compare it byte by byte, and http and https are two URLs.
    """
    href = resolve(url, base)
    if "%" not in href:
        return href
    path, mark, query = href.partition("?")
    return _ESCAPE.sub(lambda match: match[0].upper(), path) + mark + query


def without_credentials(text: str) -> str:
    """Return a URL, or a text that should be a URL, without the user name and password in it; never raises.

    Such URLs are refused, but their rows show them, and a set is handed on.
    """
    if "@" not in text:
        return text
    try:
        parsed = can_ada.parse(_scalar(text))
    except ValueError:
        return _USER_INFO.sub("", text)
    if not parsed.has_credentials():
        return text
    parsed.username = parsed.password = ""
    href: str = parsed.href
    return href


def uid(canonical_url: str) -> str:
    """Return the sample's id: the first 32 hex digits of the SHA-256 of its canonical URL."""
    return digest(canonical_url).hex()


def _own_sha256() -> Any:
    """Return Python's SHA-256, by its name from 3.12 on or before; on a URL OpenSSL's takes twice as long."""
    for name in ("_sha2", "_sha256"):
        with contextlib.suppress(ImportError):
            return importlib.import_module(name).sha256
    return hashlib.sha256


_sha256: Final = _own_sha256()


def digest(canonical_url: str) -> bytes:
    """Return the 16 bytes of `uid`."""
    digest: bytes = _sha256(canonical_url.encode()).digest()
    return digest[:16]


def site(url_or_host: str) -> str:
    """Return the registrable domain of an http(s) URL or of a bare host name, in lower case.

    An IP address, a public suffix and a name without dots (localhost) are their own site. Only ICANN suffixes
    count, so that all of a hoster's customers are one site. Raises BadUrl for anything that is neither.
    """
    if "//" in url_or_host:
        return _site_of_host(host(url_or_host))
    return _site_of_host(url_or_host.lower().rstrip("."))


def is_public_suffix(name: str) -> bool:
    """Return whether a host name in lower case is one under which anybody can register, such as co.uk."""
    return bool(name == _suffixes().publicsuffix(name, accept_unknown=False))


def host(url: str) -> str:
    """Return the host name of an http(s) URL, IPv6 addresses in brackets; raises BadUrl as `resolve` does."""
    # A resolved URL has no credentials, so the authority is host[:port].
    authority = resolve(url).split("/", 3)[2]
    if authority.startswith("["):
        return authority[: authority.index("]") + 1]
    return authority.partition(":")[0]


@cache
def _suffixes() -> PublicSuffixList:
    """Read the ICANN section alone, when it is first needed: it takes longer than many a command.

    The private section would make each of a hoster's customers (x.github.io, x.blogspot.com) a site of its
    own: separate owners, but one operator's machines, and it is the operator whom a rate limit protects. The
    cost: a whole cloud (amazonaws.com, cloudfront.net) shares one site's rate.
    """
    return PublicSuffixList(only_icann=True)


@lru_cache(maxsize=1 << 16)
def _site_of_host(name: str) -> str:
    if not name:
        raise BadUrl("bad_url", "empty host")
    try:
        ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        return _suffixes().privatesuffix(name.rstrip(".")) or name
    return name


def _parse(url: str, base: str | None) -> can_ada.URL:
    """Parse against `base`, which may itself be unusable: absolute URLs do not need it."""
    try:
        try:
            parsed_base = None if base is None else _parse_base(base)
            return can_ada.parse(url) if parsed_base is None else parsed_base + url
        except TypeError:  # lone surrogates are no UTF-8; WHATWG strings hold U+FFFD instead
            return _parse(_scalar(url), None if base is None else _scalar(base))
    except ValueError:
        raise BadUrl("bad_url", "relative without a base, or no URL") from None


@lru_cache(maxsize=64)  # the references of a page come in sequence
def _parse_base(base: str) -> can_ada.URL | None:
    if len(base) > MAX_LENGTH:
        return None
    try:
        parsed = can_ada.parse(base)
    except ValueError:
        return None
    return parsed if parsed.protocol in ("http:", "https:") else None


def _scalar(text: str) -> str:
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
