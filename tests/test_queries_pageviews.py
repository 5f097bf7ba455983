"""Page views: both kinds of files, quotes and escapes, other wikis left out, faults counted."""

import bz2
import gzip
from pathlib import Path

import pytest

from queries.pageviews import LineReader, canonical_title
from tests.queries_dump import SAMPLE

HOURLY = """de Berlin 9 0
en Cat 5 0
en "\\"Weird_Al\\"_Yankovic" 3 0
en.m Cat 7 0
en.m.b Cat 100 0
en.zero Cat 1 0
en.b Cat 100 0
en - 50 0
en Caf%C3%A9 2 0
enx Cat 100 0
"""
COMPLETE = """de.wikipedia Berlin 1 desktop 9 A9
en.wikibooks Cat 2 desktop 100 A100
en.wikipedia Cat 3 desktop 5 A1B4
en.wikipedia Cat 3 mobile-web 7 C7
en.wikipedia Cat 3 mobile-app 1 D1
en.wikipedia "\\"" null desktop 4 E4
en.wikipedia Old_line desktop 6 E6
"""


def _read(path: Path, language: str = "en", batch: int = 10**6) -> tuple[dict[str, int], LineReader]:
    reader = LineReader(language)
    views: dict[str, int] = {}
    for part in reader.read(str(path), batch):
        for title, count in part.items():
            views[title] = views.get(title, 0) + count
    return views, reader


@pytest.mark.parametrize("batch", [1, 10**6])
def test_hourly_files_count_desktop_and_mobile(tmp_path: Path, batch: int) -> None:
    path = tmp_path / "pageviews-20260101-000000.gz"
    path.write_bytes(gzip.compress(HOURLY.encode()))
    views, reader = _read(path, batch=batch)
    assert views == {"Cat": 13, '"\\"Weird_Al\\"_Yankovic"': 3, "-": 50, "Caf%C3%A9": 2}
    assert reader.malformed == 0


def test_complete_files_count_every_platform(tmp_path: Path) -> None:
    path = tmp_path / "pageviews-20260101-user.bz2"
    path.write_bytes(bz2.compress(COMPLETE.removesuffix("\n").encode()))  # without a last line end
    views, reader = _read(path)
    assert views == {"Cat": 13, '"\\""': 4, "Old_line": 6}
    assert reader.malformed == 0


def test_another_language_is_read_by_its_code(tmp_path: Path) -> None:
    path = tmp_path / "both"
    path.write_text(HOURLY + COMPLETE)
    assert _read(path, "de")[0] == {"Berlin": 18}


def test_lines_of_the_wiki_in_no_known_form_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text(
        "en Cat many 0\nen.wikipedia Cat\nen Dog 1 0\r\nen.m  2 0\nen.wikipedia Cat 3 fridge 5 A5\n"
    )
    views, reader = _read(path)
    assert views == {"Dog": 1}
    assert reader.malformed == 4


@pytest.mark.parametrize("suffix", ["gz", "bz2"])
def test_a_file_cut_off_is_told(tmp_path: Path, suffix: str) -> None:
    compress = gzip.compress if suffix == "gz" else bz2.compress
    data = compress("".join(f"en Page_{i} {i} 0\n" for i in range(20_000)).encode())
    path = tmp_path / f"x.{suffix}"
    path.write_bytes(data[: len(data) // 2])
    views, reader = _read(path)
    assert len(reader.damage) == 1
    assert all(views[title] == int(title[5:]) for title in views)


@pytest.mark.parametrize(
    ("written", "title"),
    [
        ("Cat", "Cat"),
        ("cat_food", "Cat food"),
        ('"\\"Weird_Al\\"_Yankovic"', '"Weird Al" Yankovic'),
        ('"\\""', '"'),
        ('"', '"'),
        ("Caf%C3%A9", "Café"),
        ("100%_pure", "100% pure"),
        ("%ZZ", "%ZZ"),
        ("Cat#Behaviour", "Cat"),
        ("_Cat__food_", "Cat food"),
        ("élan", "Élan"),
        ("ßx", "ßx"),
        ("თბილისი", "თბილისი"),  # str.upper would write it in Mtavruli, which no title is in
        ("ǆemper", "ǅemper"),
        ("ǳ", "ǲ"),
        ("ﬁnch", "ﬁnch"),
        ("ʂ", "ʂ"),
        ("яблоко", "Яблоко"),
        ("ὰλφα", "Ὰλφα"),
        ("-", ""),
        ("#x", ""),
        ("%C3%28", "\ufffd("),
    ],
)
def test_titles_are_those_of_the_dump(written: str, title: str) -> None:
    assert canonical_title(written) == title


def test_a_dotted_i_is_raised_with_its_dot_where_there_are_two() -> None:
    assert [canonical_title("istanbul", language) for language in ("tr", "az", "en", "")] == [
        "İstanbul", "İstanbul", "Istanbul", "Istanbul"
    ]  # fmt: skip
    assert canonical_title("ırmak", "tr") == "Irmak"


@pytest.mark.skipif(not SAMPLE.exists(), reason="needs the sample data beside the checkout")
def test_real_lines() -> None:
    views, reader = _read(SAMPLE / "pageviews_complete_real_lines.txt", "ar")
    assert {canonical_title(title): count for title, count in views.items()} == {
        "!": 5, '" لفيرجينيا وولف': 1, '"': 26
    }  # fmt: skip
    assert reader.malformed == 0
    views, reader = _read(SAMPLE / "pageviews_hourly_real_lines.txt", "aa")
    assert views == {
        "-": 3, "Main_Page": 9, "Special:CiteThisPage": 1, "Wikipedia:Community_Portal": 1
    }  # fmt: skip
