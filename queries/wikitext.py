"""Turn wikitext into plain text, fast enough for a whole Wikipedia on one machine.

Everything a reader of the page sees as text is kept: prose, headings, list items, table cells, captions and
link labels. Parts that the reader does not see, or that are not language, go: templates, references,
comments, markup, mathematics, galleries, categories. A line end stands wherever two texts do not follow each
other in a sentence.

Every step is linear in the page. C code (`find`, `replace`, `re.split`) passes over the characters; Python
runs only once per tag, brace pair or namespaced link, and there is about one such in 200 characters.
"""

import html
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from queries import wikis


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
_INERT: Final = re.compile(r"[][{}|<'=*#]")  # so that `nowiki`'s text is no markup later
_BRACES: Final = re.compile(r"\{\{|\}\}")
# One group that always takes part: joining the result of `split` is then the substitution by the group,
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
_SWITCH: Final = re.compile(r"__((?:[^\W\d_]|_(?!_)){3,40})__")
_LANGUAGE: Final = re.compile(r"[a-z]{2,3}(?:-[a-z]+)*|simple")
# Language variants (https://www.mediawiki.org/wiki/Writing_systems/Syntax): flags or the variants for which a
# text is meant, then a text for all or one for each.
_VARIANT: Final = re.compile(r"-\{(?!\{)((?:(?!-\{|\}-).)*+)\}-", re.DOTALL)
_VARIANT_DEPTH: Final = 4
_CODE: Final = r"(?:zh|sr|kk|ku|iu|ike|tg|uz|shi|ban|crh|gan|wuu|mni|sh|tly|hans|hant)(?:-[a-z]+)*"
_FLAGS: Final = re.compile(rf"\s*((?:[A-Z+-]|{_CODE})?(?:\s*;\s*(?:[A-Z+-]|{_CODE}))*)\s*\|")
_UNSEEN: Final = frozenset("HTN-D")  # rules for elsewhere, a title, the name of a language
_RULE: Final = re.compile(rf"(?:^|;)\s*(?:[^;:=]*=>\s*)?{_CODE}\s*:")


def strip(
    wikitext: str,
    *,
    images: frozenset[str] = frozenset(),
    categories: frozenset[str] = frozenset(),
    language: str = "en",
) -> str:
    """Return the plain text of a page; never raises.

    `images` and `categories` are further lower-case names of those two namespaces beside those that
    `queries.wikis` knows of the page's `language`. Markup that is not closed stays as it stands, as MediaWiki
    shows it.
    """
    text = f"\n{wikitext}\n"
    if "<" in text:
        text = _join_outside(text, _tag_spans(text))
    if "{{" in text:
        text = _join_outside(text, _template_spans(text))
    if "-{" in text:
        text = _choose_variants(text)
    if "{|" in text:
        text = _open_tables(text)
    if "[" in text:
        words = wikis.namespaces(language)
        spaces = _Spaces(
            images | wikis.names(words.files),
            categories | wikis.names(words.categories),
            wikis.names(words.templates),
            wikis.image_option(language),
        )
        text = _resolve_links(text, spaces)
    if "://" in text:
        text = "".join(_BARE_URL.split(text))
    if "''" in text:
        text = text.replace("'''", "").replace("''", "")
    if "\n=" in text:
        text = _HEADING.sub(_heading, text)
    text = "\n".join(_LIST.split(text))
    if "__" in text:
        text = _SWITCH.sub(_switch, text)
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


class _Spaces(NamedTuple):
    """A wiki's names for the targets of links."""

    images: frozenset[str]
    categories: frozenset[str]
    templates: frozenset[str]
    option: re.Pattern[str]


def _resolve_links(text: str, spaces: _Spaces) -> str:
    """Replace links by their visible text; inner links first, so that an image's caption is already plain."""

    def label(match: re.Match[str]) -> str:
        target, *parts = match[1].split("|")
        prefix, colon, _ = target.partition(":")
        is_language = not parts and _LANGUAGE.fullmatch(prefix.strip())
        prefix = prefix.strip().lower().replace("_", " ")
        if colon and prefix:
            if prefix in spaces.categories or is_language:
                return "\n"
            if prefix in spaces.images:
                return _caption(parts, spaces.option)
            if not parts and prefix in spaces.templates:
                return "\n"
        return parts[-1] if parts else target.lstrip(":")

    text = "".join(_SIMPLE_LINK.split(text))
    for _ in range(_LINK_DEPTH):
        text, changed = _LINK.subn(label, text)
        if not changed:
            break
    return "".join(_EXTERNAL.split(text))


def _caption(parts: list[str], option: re.Pattern[str]) -> str:
    """Return an image's caption: the last part that is no option, as MediaWiki takes it."""
    for part in reversed(parts):
        text = part.strip()
        if not option.fullmatch(text):
            return f"\n{text}\n"
    return "\n"


def _choose_variants(text: str) -> str:
    """Leave of each -{...}- the text that the readers of one variant see."""
    for _ in range(_VARIANT_DEPTH):
        text, changed = _VARIANT.subn(_variant, text)
        if not changed:
            break
    return text


def _variant(match: re.Match[str]) -> str:
    body = match[1]
    flags = _FLAGS.match(body)
    if flags is not None:
        if _UNSEEN & set(flags[1].replace(" ", "").split(";")):
            return ""
        body = body[flags.end() :]
    rules = list(_RULE.finditer(body))
    if not rules or body[: rules[0].start()].strip(" ;\n"):
        return body
    ends = [*(rule.start() for rule in rules[1:]), len(body)]
    texts = (body[rule.end() : end].strip(" ;\n") for rule, end in zip(rules, ends, strict=True))
    return next((text for text in texts if text), "")


def _switch(match: re.Match[str]) -> str:
    """Leave out magic words such as __TOC__, in the capitals of any language or in letters that have none."""
    return "" if match[1] == match[1].upper() else match[0]


def _heading(match: re.Match[str]) -> str:
    return "\n" + match[1].strip(" =\t")
