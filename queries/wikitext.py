"""Turn wikitext into plain text, fast enough for a whole Wikipedia on one machine.

Everything a reader of the page sees as text is kept: prose, headings, list items, table cells, captions and
link labels. What the reader does not see, or what is not language, goes: templates, references, comments,
markup, mathematics, galleries, categories. A line end stands wherever two texts do not follow each other in a
sentence.

Every step is linear in the page. C code (`find`, `replace`, `re.split`) passes over the characters; Python
runs only once per tag, brace pair or namespaced link, and there is about one such in 200 characters.
"""

import html
import re
from collections.abc import Iterator
from typing import Final


def _names(spaced: str) -> frozenset[str]:
    return frozenset(spaced.split())


# Extension tags whose content is not prose (https://www.mediawiki.org/wiki/Parser_extension_tags).
HIDDEN: Final = _names(
    "ref references math chem ce gallery graph hiero imagemap indicator inputbox mapframe maplink score "
    "section source syntaxhighlight templatedata templatestyles timeline categorytree includeonly"
)
_END_TAG: Final = {name: re.compile(rf"</{name}\b[^<>]*>", re.IGNORECASE) for name in HIDDEN | {"nowiki"}}
# HTML elements that stand inside a sentence; every other tag ends it.
INLINE: Final = _names(
    "abbr b bdi bdo big cite code data del dfn em font i ins kbd mark nowiki onlyinclude noinclude q rb rp "
    "rt ruby s samp section small span strike strong sub sup time tt u var wbr"
)
_TAG: Final = re.compile(r"<(?:!--|(/?)([a-zA-Z]+)\b[^<>]*>)")
_INERT: Final = re.compile(r"[][{}|<'=*#]")  # so that what `nowiki` protects is not taken for markup later
_BRACES: Final = re.compile(r"\{\{|\}\}")
# One group that always takes part: joining what `split` returns is then the substitution by the group,
# without a Python call for each match.
_SIMPLE_LINK: Final = re.compile(r"\[\[(?![^][|:]*:)(?:[^][|]*\|)?([^][|]*)\]\]")
_LINK: Final = re.compile(r"\[\[([^][]*)\]\]")
_LINK_DEPTH: Final = 4  # links inside an image's caption inside a gallery; bounded because each costs a pass
_EXTERNAL: Final = re.compile(r"\[(?:(?:https?:|ftps?:|ircs?:)?//|mailto:|news:)[^][\s<>]*[ \t]*([^][\n]*)\]")
_BARE_URL: Final = re.compile(r"(?:https?|ftps?)://[^][\s<>|{}]*")
_TABLE_RULE: Final = re.compile(r"\n[ \t:*#]*(?:\{\||\|\}|\|-)[^\n]*")
_CELL: Final = re.compile(r"\n[ \t]*(?:\|\+?|!)(?:[^][|\n{}]*\|)?")
_HEADING: Final = re.compile(r"\n=([^\n]*)=[ \t]*(?=\n)")
_LIST: Final = re.compile(r"\n[*#:;]+")
_SWITCH: Final = re.compile(r"__[A-Z]{3,}__")
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*")
# Image options (https://www.mediawiki.org/wiki/Help:Images): a last part that is one of these is no caption.
IMAGE_OPTION: Final = re.compile(
    r"(?:thumb(?:nail)?|frame(?:d|less)?|border|left|right|center|centre|none|upright|baseline|middle|sub|super|"
    r"text-top|text-bottom|top|bottom|(?:\d*x)?\d+ ?px|"
    r"(?:alt|link|upright|page|class|lang|thumb|thumbtime|start|end) *=.*)",
    re.DOTALL,
)
_IMAGE: Final = frozenset({"file", "image", "media"})
_CATEGORY: Final = frozenset({"category"})


def strip(wikitext: str, *, images: frozenset[str] = _IMAGE, categories: frozenset[str] = _CATEGORY) -> str:
    """Return the plain text of a page; never raises.

    `images` and `categories` are the lower-case names of those two namespaces, in every language that the
    page may use. Markup that is not closed stays as it stands, as MediaWiki shows it.
    """
    text = f"\n{wikitext}\n"
    if "<" in text:
        text = _join_outside(text, _tag_spans(text))
    if "{{" in text:
        text = _join_outside(text, _template_spans(text))
    if "{|" in text:
        text = _open_tables(text)
    if "[" in text:
        text = _resolve_links(text, images, categories)
    if "://" in text:
        text = "".join(_BARE_URL.split(text))
    if "''" in text:
        text = text.replace("'''", "").replace("''", "")
    if "\n=" in text:
        text = _HEADING.sub(_heading, text)
    text = "\n".join(_LIST.split(text))
    if "__" in text:
        text = _SWITCH.sub("", text)
    if "&" in text:
        text = html.unescape(text)
    return text.strip()


def _join_outside(text: str, spans: Iterator[tuple[int, int, str]]) -> str:
    """Replace each (start, end, replacement); the spans are disjoint and ascending."""
    pieces: list[str] = []
    position = 0
    for start, end, replacement in spans:
        pieces.append(text[position:start])
        if replacement:
            pieces.append(replacement)
        position = end
    pieces.append(text[position:])
    return "".join(pieces)


def _tag_spans(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield comments, hidden elements and single tags."""
    position = 0
    unclosed: set[str] = set()  # look for a missing end tag once, not once per start tag
    for match in _TAG.finditer(text):
        start, end = match.span()
        if start < position:
            continue
        position = end
        name = (match[2] or "").lower()
        shown = "" if name in INLINE or name in HIDDEN else "\n"
        if not name:
            close = text.find("-->", end)
            position = len(text) if close < 0 else close + 3
            shown = ""
        elif name in _END_TAG and name not in unclosed and not match[1] and text[end - 2] != "/":
            end_tag = _END_TAG[name].search(text, end)
            if end_tag is None:
                unclosed.add(name)
            else:
                position = end_tag.end()
                shown = _INERT.sub(" ", text[end : end_tag.start()]) if name == "nowiki" else ""
        yield start, position, shown


def _template_spans(text: str) -> Iterator[tuple[int, int, str]]:
    """Yield the outermost balanced `{{...}}`."""
    opened: list[int] = []
    spans: list[tuple[int, int]] = []
    for match in _BRACES.finditer(text):
        start = match.start()
        if text[start] == "{":
            opened.append(start)
        elif opened:
            first = opened.pop()
            while spans and spans[-1][0] > first:
                spans.pop()
            spans.append((first, start + 2))
    return ((start, end, "") for start, end in spans)


def _open_tables(text: str) -> str:
    """Put each table cell on a line of its own, without attributes."""
    text = "\n".join(_TABLE_RULE.split(text))
    text = text.replace("||", "\n|").replace("!!", "\n!")
    return "\n".join(_CELL.split(text))


def _resolve_links(text: str, images: frozenset[str], categories: frozenset[str]) -> str:
    """Leave of links what is shown; inner links first, so that an image's caption is plain by its turn."""

    def label(match: re.Match[str]) -> str:
        target, *parts = match[1].split("|")
        prefix, colon, _ = target.partition(":")
        prefix = prefix.strip()
        if colon and prefix:
            if prefix.lower() in categories or (not parts and _LANGUAGE.fullmatch(prefix)):
                return "\n"
            if prefix.lower() in images:
                caption = parts[-1].strip() if parts else ""
                return "\n" if IMAGE_OPTION.fullmatch(caption) else f"\n{caption}\n"
        return parts[-1] if parts else target.lstrip(":")

    text = "".join(_SIMPLE_LINK.split(text))
    for _ in range(_LINK_DEPTH):
        text, changed = _LINK.subn(label, text)
        if not changed:
            break
    return "".join(_EXTERNAL.split(text))


def _heading(match: re.Match[str]) -> str:
    return "\n" + match[1].strip(" =\t")
