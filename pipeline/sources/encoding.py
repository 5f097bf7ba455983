"""The text encoding of a page, as the web's standards tell it, and its text.

By the HTML Standard (section 13.2.3, "The input byte stream"): a byte-order mark, the charset of the answer,
then the prescan of the first 1024 bytes; a <meta> that the parser meets later may still correct the
prescan. Labels and decoders are those of the Encoding Standard, by encoding_rs: Python's codecs differ
from it in EUC-JP, Shift_JIS, GBK, Big5, windows-1252 and most others.
"""

import codecs
import re
from functools import lru_cache
from typing import Final, NamedTuple
from urllib.parse import urlsplit

import chardet
import endec
from chardetng_py import EncodingDetector

_PRESCANNED: Final = 1024  # bytes
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16le"),
    (codecs.BOM_UTF16_BE, "utf-16be"),
)
_MAX_LABEL: Final = 100  # characters; the longest that is known has 19

# Labels that mean something else where a <meta> or an XML declaration names them: bytes in which these names
# can be read are not UTF-16.
_UTF_16: Final = frozenset(
    "csunicode iso-10646-ucs-2 ucs-2 unicode unicodefeff unicodefffe utf-16 utf-16be utf-16le".split()  # noqa: SIM905
)
_REPLACEMENT: Final = frozenset(
    "csiso2022kr hz-gb-2312 iso-2022-cn iso-2022-cn-ext iso-2022-kr replacement".split()  # noqa: SIM905
)

_SPACE: Final = b"\t\n\f\r "
_META: Final = re.compile(rb"<meta[\t\n\f\r /]", re.IGNORECASE)
_TAG: Final = re.compile(rb"</?[a-z][^\t\n\f\r >]*", re.IGNORECASE)
_MARKUP: Final = re.compile(rb"<[!/?]")
_TRANSPORT: Final = re.compile(r"charset\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s;\"']*))", re.IGNORECASE)


class Text(NamedTuple):
    """A decoded page.

    `is_certain` where no <meta> can correct the encoding; `is_trusted` unless the encoding is a guess that
    may be wrong, so that characters outside ASCII may be others than the page's author meant.
    """

    text: str
    encoding: str
    is_certain: bool
    is_trusted: bool


@lru_cache(maxsize=1024)
def known(label: str) -> str | None:
    """Return a label of the Encoding Standard as it is looked up, None for a label that it does not have."""
    label = label.strip("\t\n\f\r ").lower()
    if len(label) > _MAX_LABEL or not label.isascii():
        return None
    try:
        endec.decode(b"", label)
    except LookupError:
        return None
    return label


def is_refused(label: str) -> bool:
    """Return whether an encoding is one of those that browsers refuse to decode, for safety."""
    return label in _REPLACEMENT


def read(data: bytes, content_type: str, url: str) -> Text:
    """Decode a page that came from `url` with a Content-Type, "" for none; never raises.

    An XML declaration counts more than a <meta> where the type is one of XML. Where nothing is declared, the
    encoding is told from the bytes.
    """
    for mark, encoding in _BOMS:
        if data.startswith(mark):
            return Text(decode(data[len(mark) :], encoding), encoding, True, True)
    if (charset := _charset_parameter(content_type)) and (label := known(charset)):
        return Text(decode(data, label), label, True, True)
    head, is_xml = data[:_PRESCANNED], "xml" in content_type.lower()
    declared = (xml_encoding(head) or prescan(head)) if is_xml else prescan(head)
    if declared:
        return Text(decode(data, declared), declared, is_xml, True)
    encoding, is_trusted = guess(data, url)
    return Text(decode(data, encoding), encoding, False, is_trusted)


def decode(data: bytes, label: str) -> str:
    """Decode by the Encoding Standard: invalid bytes become U+FFFD, and the rest stays as it is."""
    return str(endec.decode(data, label, "replace", bom="ignore"))


# Declarations


def _charset_parameter(content_type: str) -> str:
    """Return the charset that a Content-Type names, "" if none."""
    match = _TRANSPORT.search(content_type)
    return next(filter(None, match.groups()), "") if match else ""


def prescan(head: bytes) -> str | None:
    """Return the encoding that the first bytes of a page declare, None if none: the standard's algorithm."""
    if head.startswith(b"<\0?\0x\0"):
        return "utf-16le"
    if head.startswith(b"\0<\0?\0x"):
        return "utf-16be"
    try:
        return _scan(head)
    except IndexError:  # out of bytes
        return xml_encoding(head)


def xml_encoding(head: bytes) -> str | None:
    """Return the encoding that an XML declaration names: the standard's "get an XML encoding"."""
    end = head.find(b">")
    start = head.find(b"encoding")
    if not head.startswith(b"<?xml") or end < 0 or start < 0:
        return None
    match = re.compile(rb"encoding[\0-\x20]*=[\0-\x20]*(?:\"([^\"]*)\"|'([^']*)')").match(head, start)
    if match is None:
        return None
    label = match[1] if match[1] is not None else match[2]
    return None if any(byte <= 0x20 for byte in label) else _in_document(label.decode("latin-1"))


def meta_encoding(attributes: dict[str, str | None]) -> str | None:
    """Return the encoding that a <meta> in the tree declares, None if none."""
    if (charset := attributes.get("charset")) is not None and (label := _in_document(charset)):
        return label
    if (attributes.get("http-equiv") or "").lower() == "content-type":
        return _in_content(attributes.get("content") or "")
    return None


def _scan(head: bytes) -> str | None:
    """Walk over comments, tags and their attributes; IndexError at the end of the bytes."""
    at = 0
    while True:
        at = _next(head, b"<", at)
        if head.startswith(b"<!--", at):
            at = _next(head, b"-->", at + 2) + 2
        elif _META.match(head, at):
            at, declared = _meta(head, at + 5)
            if declared:
                return declared
        elif tag := _TAG.match(head, at):
            at = tag.end()
            while True:
                at, name, _ = _attribute(head, at)
                if not name:
                    break
        elif _MARKUP.match(head, at):
            at = _next(head, b">", at)
        at += 1


def _meta(head: bytes, at: int) -> tuple[int, str | None]:
    """Return where a <meta> ends, and its declaration."""
    seen: set[bytes] = set()
    got_pragma, need_pragma = False, None
    declared: str | None = None
    has_charset = False
    while True:
        at, name, value = _attribute(head, at)
        if not name:
            break
        if name in seen:
            continue
        seen.add(name)
        if name == b"http-equiv":
            got_pragma = value == b"content-type"
        elif name == b"content" and not has_charset:
            if label := _in_content(value.decode("latin-1")):
                declared, need_pragma, has_charset = label, True, True
        elif name == b"charset":
            declared, need_pragma, has_charset = _in_document(value.decode("latin-1")), False, True
    return at, None if need_pragma is None or (need_pragma and not got_pragma) else declared


def _attribute(head: bytes, at: int) -> tuple[int, bytes, bytes]:
    """Return where an attribute ends, its name (b"" for none) and its value ("get an attribute")."""
    while head[at] in _SPACE + b"/":
        at += 1
    if head[at] == 0x3E:
        return at, b"", b""
    start = at
    while not (head[at] == 0x3D and at > start) and head[at] not in _SPACE + b"/>":
        at += 1
    name = head[start:at].lower()
    while head[at] in _SPACE:
        at += 1
    if head[at] != 0x3D:
        return at, name, b""
    at += 1
    while head[at] in _SPACE:
        at += 1
    if head[at] in b"\"'":
        end = _next(head, head[at : at + 1], at + 1)
        return end + 1, name, head[at + 1 : end].lower()
    start = at
    while head[at] not in _SPACE + b">":
        at += 1
    return at, name, head[start:at].lower()


def _next(head: bytes, wanted: bytes, at: int) -> int:
    found = head.find(wanted, at)
    if found < 0:
        raise IndexError
    return found


_IN_CONTENT: Final = re.compile(
    r"charset[\t\n\f\r ]*=[\t\n\f\r ]*(?:\"([^\"]*)\"|'([^']*)'|(?![\"'])([^\t\n\f\r ;]+)|)", re.IGNORECASE
)


def _in_content(content: str) -> str | None:
    """Return the encoding of a content attribute: "extracting a character encoding from a meta element"."""
    match = _IN_CONTENT.search(content)
    return _in_document(next(filter(None, match.groups()), "")) if match else None


def _in_document(label: str) -> str | None:
    found = known(label)
    if found in _UTF_16:
        return "utf-8"
    return "windows-1252" if found == "x-user-defined" else found


# The evidence of the bytes

_LANG: Final = re.compile(
    rb"<html\b[^>]{0,1000}?\slang\s*=\s*[\"']?\s*([a-z]{2,3})(?![a-z])(-(?:tw|hk|mo|hant))?", re.IGNORECASE
)
_ESCAPE: Final = re.compile(rb"\x1b[$(]")
_REPLACED: Final = "\ufffd"
_NOT_ASCII: Final = re.compile(r"[^\0-\x7f]")
_SAMPLE: Final = 1 << 18  # bytes that are looked at
_AMBIGUOUS: Final = (0.4, 0.8)
"""Between these shares of valid UTF-8 it cannot be told whether a page is UTF-8: text in other encodings
reached 0.37, and more only in pages of a few characters, by chance."""

# The domains in which a language is written most, where they differ; chardetng knows encodings by domain.
_DOMAINS: Final = {
    **{code: code for code in "bg de es fi fr hr hu id is it lt lv mk nl pl pt ro ru sk th tr".split()},  # noqa: SIM905
    "ar": "eg",
    "be": "by",
    "ca": "es",
    "cs": "cz",
    "da": "dk",
    "el": "gr",
    "et": "ee",
    "fa": "ir",
    "gl": "es",
    "he": "il",
    "iw": "il",
    "ja": "jp",
    "ko": "kr",
    "nb": "no",
    "nn": "no",
    "no": "no",
    "sl": "si",
    "sr": "rs",
    "sv": "se",
    "uk": "ua",
    "vi": "vn",
    "zh": "cn",
}
_TELLING: Final = frozenset((*_DOMAINS.values(), "at", "br", "hk", "mx", "tw"))


def guess(data: bytes, url: str) -> tuple[str, bool]:
    """Return the encoding of a page that declares none, and whether it can be relied on.

    UTF-8 where most of everything that is not ASCII is valid in it, whatever stray bytes there are. Else the
    answer of chardetng, Firefox's detector, given the language of <html> or the top-level domain; without
    these only an answer on which chardet agrees. Measured on pages of 1 to 40 captions in 36 languages, in
    their older encodings: 98 to 100% right with a domain; without one 80 to 90% are agreed on, and 99 to 100%
    of these are right.
    """
    sample = data[:_SAMPLE]
    if not _ESCAPE.search(sample):
        if _is_utf_16(sample):
            return ("utf-16le" if sample[1::2].count(0) > sample[::2].count(0) else "utf-16be"), True
        if sample.isascii():
            return "utf-8", True
        share = _utf_8_share(sample)
        if share > _AMBIGUOUS[0]:
            return "utf-8", share >= _AMBIGUOUS[1]
    hint = _hint(sample, url)
    detector = EncodingDetector()
    detector.feed(sample, last=True)
    name: str = detector.guess_assess(tld=hint, allow_utf8=False)[0]
    found = known(name) or "windows-874"  # the binding gives this encoding alone Python's name
    if hint is not None:
        return found, True
    other = chardet.detect(sample)["encoding"] or "ascii"
    try:
        text = decode(sample, label) if (label := known(other)) else sample.decode(other, "replace")
    except LookupError:  # neither the web nor Python has it
        return found, False
    return found, text == decode(sample, found)


def _utf_8_share(data: bytes) -> float:
    """Return the share of valid UTF-8 among the characters outside ASCII; a cut at the end does not count."""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(data)
    damaged = text.count(_REPLACED) - data.count(_REPLACED.encode())
    other = len(_NOT_ASCII.findall(text))
    return 1 - damaged / other if other else 0.0


def _is_utf_16(data: bytes) -> bool:
    """Return whether markup has a zero beside most of its bytes."""
    head = data[:_PRESCANNED]
    return b"<" in head and max(head[::2].count(0), head[1::2].count(0)) * 4 > len(head)


def _hint(data: bytes, url: str) -> bytes | None:
    """Return the top-level domain that tells the language of a page, None if nothing does."""
    match = _LANG.search(data, 0, 1 << 14)
    language = match[1].decode().lower() if match else ""
    try:
        domain = (urlsplit(url).hostname or "").rpartition(".")[2]
    except ValueError:
        domain = ""
    # Templates say "en" on pages of any language.
    if language not in _DOMAINS and domain in _TELLING:
        return domain.encode()
    is_traditional = match is not None and match[2] is not None
    found = "tw" if is_traditional else _DOMAINS.get(language) or ("uk" if language == "en" else None)
    return found.encode() if found else None
