"""Dumps: every way of cutting one gives the same pages, damage is passed over and told."""

import bz2
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queries.parts import DumpPiece
from queries.wikipedia import Article, index_path, plan, read_pages, read_site
from tests.queries_dump import HEAD, SAMPLE_DUMP, Written, page, plain, write_multistream

PAGES = [
    Written("A & B", "x < y && \"z\" 'q' é\n"),
    Written("Redirected", "#REDIRECT [[A & B]]", redirect="A & B"),
    Written("Talk:A", "not an article", namespace=1),
    Written("Empty", ""),
    *(Written(f"Page {i}", f"text {i} " * (i % 7)) for i in range(40)),
]
EXPECTED = [
    Article(p.title, p.redirect or None, "" if p.redirect else p.text) for p in PAGES if not p.namespace
]


def _read(pieces: list[DumpPiece]) -> list[Article]:
    return [page for piece in pieces for page in read_pages(piece, pytest.fail)]


@pytest.mark.parametrize("piece_bytes", [1, 7, 100, 1000, 10**9])
def test_a_plain_dump_cut_anywhere_gives_each_page_once(tmp_path: Path, piece_bytes: int) -> None:
    path = tmp_path / "x-pages-articles.xml"
    path.write_bytes(plain(PAGES))
    assert _read(plan([str(path)], piece_bytes)) == EXPECTED


def test_a_bz2_dump_without_index_is_one_piece(tmp_path: Path) -> None:
    path = tmp_path / "x-pages-articles.xml.bz2"
    path.write_bytes(bz2.compress(plain(PAGES)))
    pieces = plan([str(path)], 1)
    assert len(pieces) == 1
    assert _read(pieces) == EXPECTED


@pytest.mark.parametrize("piece_bytes", [1, 1000, 10**9])
def test_a_multistream_dump_is_cut_by_its_index(tmp_path: Path, piece_bytes: int) -> None:
    path, offsets = write_multistream(tmp_path, PAGES, 5)
    pieces = plan([str(path), str(index_path(str(path)))], piece_bytes)
    assert {piece.start for piece in pieces} <= {0, *offsets}
    assert (len(pieces) == 1 + len(offsets)) == (piece_bytes == 1)
    assert _read(pieces) == EXPECTED


@settings(deadline=None)
@given(st.lists(st.text(max_size=30), max_size=20), st.integers(1, 2000))
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, texts: list[str], cut: int) -> None:
    # MediaWiki does not write characters that XML 1.0 cannot hold.
    clean = ["".join(c for c in text if c >= " " or c == "\n") for text in texts]
    valid = [text.encode("utf-8", "ignore").decode() for text in clean]
    pages = [Written(f"T{i}", text, "", 4 * (i % 2)) for i, text in enumerate(valid)]
    path = tmp_path_factory.mktemp("dump") / "x.xml"
    path.write_bytes(plain(pages))
    assert _read(plan([str(path)], cut)) == [Article(p.title, None, p.text) for p in pages if not p.namespace]


def test_a_damaged_stream_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    path, offsets = write_multistream(tmp_path, PAGES, 10)
    data = bytearray(path.read_bytes())
    data[offsets[1] + 60] ^= 0xFF  # in the second stream of pages
    path.write_bytes(data)
    damage: list[str] = []
    pages = [page for piece in plan([str(path)], 10**9) for page in read_pages(piece, damage.append)]
    first, second = PAGES[:10], PAGES[10:20]
    assert [p.title for p in pages if p.title in {w.title for w in first}] == [
        w.title for w in first if not w.namespace
    ]
    assert not [p for p in pages if p.title in {w.title for w in second}]
    assert pages[-24:] == EXPECTED[-24:]
    assert len(damage) == 1
    assert "Invalid data stream" in damage[0]


def test_a_dump_cut_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.xml.bz2"
    data = bz2.compress(plain(PAGES))
    path.write_bytes(data[: len(data) // 2])
    damage: list[str] = []
    list(read_pages(plan([str(path)])[0], damage.append))
    assert any("ends early" in line for line in damage)


def test_a_page_cut_off_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    whole = (HEAD + page(PAGES[0])).encode()
    path.write_bytes(whole + page(PAGES[4]).encode()[:-30])
    damage: list[str] = []
    assert list(read_pages(plan([str(path)])[0], damage.append)) == EXPECTED[:1]
    assert damage == ["the last page is cut off"]


def test_the_head_names_the_wiki(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_bytes(plain([]))
    site = read_site(str(path))
    assert (site.domain, site.main_page) == ("en.wikipedia", "Main Page")
    assert site.images == {"file", "image", "media", "datei"}
    assert site.categories == {"category", "kategorie"}
    assert site.namespaces == {"datei", "template", "kategorie"}


def test_what_is_no_dump_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{}")
    with pytest.raises(ValueError, match=r"x\.json: not a dump"):
        plan([str(path)])


@pytest.mark.parametrize(
    ("dump", "index"),
    [
        ("enwiki-20260101-pages-articles-multistream.xml.bz2", "multistream-index.txt.bz2"),
        (
            "enwiki-20260101-pages-articles-multistream1.xml-p1p41242.bz2",
            "multistream-index1.txt-p1p41242.bz2",
        ),
        ("enwiki-20260101-pages-articles-multistream.xml.bz2", "multistream-index.txt"),
    ],
)
def test_the_index_is_found_under_wikimedias_names(tmp_path: Path, dump: str, index: str) -> None:
    expected = tmp_path / f"enwiki-20260101-pages-articles-{index}"
    assert index_path(str(tmp_path / dump)) is None
    expected.write_bytes(b"")
    assert index_path(str(tmp_path / dump)) == str(expected)


def test_an_index_of_another_form_is_refused(tmp_path: Path) -> None:
    path, _ = write_multistream(tmp_path, PAGES, 5)
    index = index_path(str(path))
    assert index is not None
    Path(index).write_bytes(bz2.compress(b"1:2:a\nno offset\n"))
    with pytest.raises(ValueError, match="line 2: expected offset:page id:title"):
        plan([str(path)])


@pytest.mark.skipif(not SAMPLE_DUMP.exists(), reason="needs the sample data beside the checkout")
def test_pages_of_a_real_dump_are_those_of_mwxml() -> None:
    mwxml = pytest.importorskip("mwxml")
    pages = _read(plan([str(SAMPLE_DUMP)]))
    with bz2.open(SAMPLE_DUMP) as file:
        expected = [
            Article(page.title, page.redirect, "" if page.redirect else next(iter(page)).text)
            for page in mwxml.Dump.from_file(file)
            if page.namespace == 0
        ]
    assert len(pages) == 205
    assert pages == expected
