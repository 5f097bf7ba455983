"""Wikitext to plain text: each construct, hostile markup, and mwparserfromhell on a real dump."""

import re
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.captions.match import tokens
from queries.corpus import is_word
from queries.wikipedia import plan, read_pages
from queries.wikitext import HIDDEN, IMAGE_OPTION, INLINE, strip
from tests.queries_dump import SAMPLE_DUMP


@pytest.mark.parametrize(
    ("wikitext", "text"),
    [
        ("plain '''bold''' and ''italic'' and '''''both'''''", "plain bold and italic and both"),
        ("{{Infobox|a={{b|c}}|d=[[e]]}}after", "after"),
        ("an {{unclosed template", "an {{unclosed template"),
        ("{{unclosed {{closed}} text", "{{unclosed  text"),
        ("stray}} braces {x}", "stray}} braces {x}"),
        ("[[cat]] [[cat|dogs]] [[bus]]es [[a#b|c]]", "cat dogs buses c"),
        ("[[:Category:Cats]] [[:Category:Cats|the cats]]", "Category:Cats the cats"),
        ("[[Category:Cats|sort]][[de:Katze]][[zh-yue:貓]]x", "x"),
        ("[[wikt:cat|cat]] [[Re: Zero]]", "cat Re: Zero"),
        ("a[[File:x.jpg|thumb|left|A [[red|crimson]] ''fox''.]]b", "a\nA crimson fox.\nb"),
        ("[[File:x.jpg|thumb|200px|alt=Nothing to see]]b", "b"),
        ("[[image:x.jpg|Upright fox]]", "Upright fox"),
        ("[http://a.example/x?y=z a label] [https://a.example] [//b.example c]", "a label  c"),
        ("[not a link] at http://a.example/x, end", "[not a link] at  end"),
        ("x<ref>hidden {{cite|unbalanced</ref>y<ref name=a/>z", "xyz"),
        ("x<REF name='q'>hidden</Ref >y", "xy"),
        ("x<!-- hidden <ref> -->y<ref>z</ref>", "xy"),
        ("x<!-- never closed", "x"),
        ("x<ref>never closed", "xnever closed"),
        ("E=<math>\\frac{a}{b}</math>.", "E=."),
        ("a<br/>b<br>c<p>d</p>", "a\nb\nc\nd"),
        ("H<sub>2</sub>O and <span style='x'>span</span> 1 < 2", "H2O and span 1 < 2"),
        ("<nowiki>[[not]] a {{link}}</nowiki> x<nowiki/>y", "not   a   link   xy"),
        ("<gallery>\nFile:x.jpg|caption\n</gallery>end", "end"),
        ("\n== Heading ==\ntext\n=== Sub === \n", "Heading\ntext\nSub"),
        ("* one\n** two\n# three\n:; four", "one\ntwo\nthree\nfour"),
        ("a&nbsp;b &amp; c &eacute; &#233; &nosuch;", "a\xa0b & c é é &nosuch;"),
        ("__NOTOC__x__TOC__", "x"),
    ],
)
def test_each_construct(wikitext: str, text: str) -> None:
    stripped = strip(wikitext)
    assert [line.split() for line in stripped.split("\n")] == [line.split() for line in text.split("\n")]


def test_each_table_cell_is_a_line_without_attributes() -> None:
    table = (
        '{| class="wikitable"\n|+ The caption\n|-\n! scope="col" | Head !! style="x" | Other\n'
        '|- bgcolor="red"\n| align="left" | one || two\n| [[three|3]]\n|}\nafter'
    )
    lines = [line.strip() for line in strip(table).split("\n") if line.strip()]
    assert lines == ["The caption", "Head", "Other", "one", "two", "3", "after"]


def test_names_of_namespaces_are_those_of_the_wiki() -> None:
    text = "[[Datei:x.jpg|mini|Ein Fuchs]] [[Kategorie:Füchse]]"
    german = strip(text, images=frozenset({"file", "datei"}), categories=frozenset({"kategorie"}))
    assert german.split() == ["Ein", "Fuchs"]


_BRACKETS = "[ ] | = < > : İ é { } [[ ]] {{ }} {| |} |- ! !! '' * =="
_TAGS = "<ref> </ref> <ref/> <!-- --> <nowiki> </nowiki> <math> <br> __TOC__ &lt; http://a File: word"
_MARKUP = st.sampled_from([*f"{_BRACKETS} {_TAGS}".split(), "\n", "\n*", "\n|", "\n==", "==\n", " "])


@given(st.lists(_MARKUP | st.text(max_size=5), max_size=60).map("".join))
def test_no_mixture_of_markup_reaches_back(wikitext: str) -> None:
    assert strip(f"before\n{wikitext}").startswith("before")


@given(st.text(alphabet="abc éİ.,()\n", max_size=80))
def test_plain_text_stays(text: str) -> None:
    assert strip(text) == text.strip()


_UNITS = [
    "{{",
    "}}",
    "[[",
    "]]",
    "[[a|",
    "<ref>",
    "<!--",
    "[http://a ",
    "\n|",
    "=",
    "\n= ",
    "<nowiki>",
    "{|",
    "<",
]


@pytest.mark.parametrize("unit", [*_UNITS, "[[File:a|"])
def test_repeated_markup_takes_no_quadratic_time(unit: str) -> None:
    strip(unit * (1_000_000 // len(unit)))  # quadratic time would exceed the test's time limit


def test_a_long_number_is_no_image_option() -> None:
    number = "1" * 500_000
    assert strip(f"[[File:x.jpg|{number}]]") == number


def _words(text: str) -> Counter[str]:
    return Counter(token for token in tokens(text) if is_word(token))


def _shown(code: Any) -> str:
    """Return what a reader sees of a tree of mwparserfromhell, by the rules that `strip` documents."""
    return "".join(_node_text(node) for node in code.nodes)


def _node_text(node: Any) -> str:
    kind = type(node).__name__
    if kind == "Tag":
        name = str(node.tag).strip().lower()
        if name in HIDDEN or node.contents is None:
            return "" if name in HIDDEN or name in INLINE else "\n"
        return _shown(node.contents) if name in INLINE else f"\n{_shown(node.contents)}\n"
    if kind == "Wikilink":
        return _link_text(node)
    if kind == "ExternalLink":
        return _shown(node.title) if node.title else ""
    if kind == "Heading":
        return f"\n{_shown(node.title)}\n"
    if kind == "HTMLEntity":
        return str(node.normalize())
    return str(node) if kind == "Text" else ""  # not: templates, comments, arguments


def _link_text(link: Any) -> str:
    prefix, colon, _ = str(link.title).partition(":")
    prefix = prefix.strip().lower()
    if colon and (
        prefix == "category" or (link.text is None and re.fullmatch("[a-z]{2,3}(-[a-z]+)*", prefix))
    ):
        return "\n"
    shown = _shown(link.title if link.text is None else link.text)
    if colon and prefix in ("file", "image"):
        caption = shown.rpartition("|")[2].strip()
        return "\n" if link.text is None or IMAGE_OPTION.fullmatch(caption) else f"\n{caption}\n"
    return shown


@pytest.mark.skipif(not SAMPLE_DUMP.exists(), reason="needs the sample data beside the checkout")
def test_words_agree_with_mwparserfromhell_on_a_real_dump() -> None:
    """The same words to within 1% as its parser finds.

    `strip_code` itself is no measure: it keeps references, image options ("thumb", "200px") and categories, a
    tenth of all words, and glues together table cells and lines parted by <br>. So its tree is read by the
    rules of `strip`. What is left are attributes that it takes for cells, and bold marks that do not close.
    """
    mwparserfromhell = pytest.importorskip("mwparserfromhell")
    pages = [
        page
        for piece in plan([str(SAMPLE_DUMP)])
        for page in read_pages(piece, pytest.fail)
        if page.redirect is None
    ][::2]  # its parser takes seconds for half of them
    ours, theirs = Counter[str](), Counter[str]()
    for page in pages:
        ours += _words(strip(page.text))
        theirs += _words(_shown(mwparserfromhell.parse(page.text)))
    assert ours.total() > 200_000
    assert abs(ours.total() - theirs.total()) < 0.01 * theirs.total()
    assert (ours - theirs).total() < 0.01 * theirs.total()
    assert (theirs - ours).total() < 0.01 * theirs.total()
