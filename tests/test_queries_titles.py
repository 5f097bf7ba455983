"""Views of articles: redirects resolved, pages that are no article out, each with its reason."""

import pyarrow as pa
import pytest

from queries import titles
from queries.titles import PAGES, VIEWS, Judge


def _views(views: dict[str, int]) -> pa.Table:
    return pa.table([list(views), list(views.values())], VIEWS)


def _as_dict(table: pa.Table) -> dict[str, int]:
    return dict(zip(table["title"].to_pylist(), table["views"].to_pylist(), strict=True))


@pytest.mark.parametrize(
    ("title", "text", "kind"),
    [
        ("Cat", "A '''cat''' is", "article"),
        ("Mercury", "'''Mercury''' may refer to\n{{disambiguation|geo}}", "disambiguation"),
        ("Mercury", "x {{ Dab }}", "disambiguation"),
        ("Smith", "{{hndis|Smith}}", "disambiguation"),
        ("Mercury (disambiguation)", "", "disambiguation"),
        ("X", "__DISAMBIG__", "disambiguation"),
        ("X", "see {{disambiguation needed}} no: {{about|Mercury (disambiguation)}}", "disambiguation"),
        ("X", "{{about||the metal|Mercury (disambiguation)}}", "article"),
        ("List of cats", "", "list"),
        ("Lists", "", "article"),
        ("Deaths in 2024", "", "list"),
        ("Main Page", "", "main_page"),
        ("Star Wars: Episode IV", "", "article"),
    ],
)
def test_kinds_of_pages(title: str, text: str, kind: str) -> None:
    assert Judge("en").of_page(title, text) == kind


def test_other_languages_have_their_own_marks() -> None:
    german = Judge("de", "Wikipedia:Hauptseite", frozenset({"datei"}))
    assert german.of_page("Merkur", "{{Begriffsklärung}}") == "disambiguation"
    assert german.of_page("Liste der Katzen", "") == "list"
    assert german.of_view("Datei:Katze.jpg") == "other_namespace"
    assert german.of_view("User talk:Katze") == "other_namespace"
    assert german.of_view("Wikipedia:Hauptseite") == "other_namespace"


def test_redirects_count_for_their_article() -> None:
    pages = pa.table(
        [
            ["Cat", "Cats", "Kitty", "Mercury", "Loop", "Dangling", "List of cats"],
            ["", "Cat", "Cat", "", "Cats", "Nowhere", ""],
            ["article", "redirect", "redirect", "disambiguation", "redirect", "redirect", "list"],
        ],
        PAGES,
    )
    views = _views(
        {"Cat": 5, "Cats": 20, "Kitty": 300, "Mercury": 7, "Loop": 4, "Dangling": 3, "Gone": 2, "Talk:Cat": 1,
         "List of cats": 9}
    )  # fmt: skip
    resolved, unknown = titles.resolve(views, pages, Judge("en"))
    assert unknown == {"other_namespace": 1, "unknown_page": 1}
    added = titles.add_views([resolved])
    assert _as_dict(added) == {"Cat": 325, "Cats": 4, "Mercury": 7, "Nowhere": 3, "List of cats": 9}
    articles, dropped = titles.judge_articles(added, pages)
    assert _as_dict(articles) == {"Cat": 325}
    assert dropped == {"double_redirect": 2, "disambiguation": 1, "list": 1}


def test_without_a_dump_titles_are_judged_by_their_words() -> None:
    views = _views(
        {"Cat": 5, "Main Page": 9, "List of cats": 3, "File:Cat.jpg": 2, "Mercury (disambiguation)": 1}
    )
    articles, dropped = titles.judge_titles(views, Judge("en"))
    assert _as_dict(articles) == {"Cat": 5}
    assert dropped == {"other_namespace": 1, "disambiguation": 1, "list": 1, "main_page": 1}


def test_the_most_viewed_are_ranked_and_equal_ones_are_in_order() -> None:
    ranked, dropped = titles.most_viewed(_views({"b": 5, "a": 5, "c": 9, "d": 2, "e": 1}), 2, 3)
    assert list(_as_dict(ranked).items()) == [("c", 9), ("a", 5), ("b", 5)]
    assert dropped == {"too_few_views": 1}


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("Mercury (planet)", "Mercury"),
        ("Mercury", "Mercury"),
        ("(What's the Story) Morning Glory?", "(What's the Story) Morning Glory?"),
        ("A (b) (c)", "A (b)"),
        ("(x)", "(x)"),
    ],
)
def test_a_qualifier_is_no_part_of_the_name(title: str, name: str) -> None:
    assert titles.without_qualifier(title) == name
