"""Turn page views into views of articles: redirects resolved, and pages that are no article left out.

Two joins by title, each within a partition: viewed titles with the dump's pages, giving views of articles and
of redirects' targets; then the sum for each article. Only Wikipedia says what a page is: without a dump a
title is judged by its words.
"""

import re
from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

PAGES: Final = pa.schema(
    [
        pa.field("title", pa.string(), nullable=False),
        pa.field("target", pa.string(), nullable=False),  # of a redirect, else empty
        pa.field("kind", pa.string(), nullable=False),  # article, redirect, or why it is not one
    ]
)
VIEWS: Final = pa.schema(
    [pa.field("title", pa.string(), nullable=False), pa.field("views", pa.int64(), nullable=False)]
)

DROPPED: Final = {
    "other_namespace": "a page outside the main namespace",
    "unknown_page": "not in the dump: mistyped, deleted, or newer",
    "double_redirect": "a redirect to a redirect or to nothing",
    "disambiguation": "a page that tells articles of one name apart",
    "list": "a list, index, outline or calendar of deaths",
    "main_page": "the main page",
    "too_few_views": "viewed less often than --min-views",
}
"""Why a viewed title is no query, and the meaning of each reason."""

# Languages beyond these are added here: the template that marks a disambiguation page (its first letters,
# lower case), and the words with which titles of lists begin.
_DISAMBIGUATION: Final = {
    "de": "begriffsklärung",
    "en": "disambig|dab|hndis|geodis|human name disambig|place name disambig|letter-?number ?comb",
    "es": "desambig",
    "fr": "homonymie|paronymie|patronymie|toponymie|internationalisation",
    "it": "disambigua",
    "ja": "aimai|曖昧さ回避|人名の曖昧さ回避|地名の曖昧さ回避",
    "nl": "dp",
    "pl": "ujednoznacznienie",
    "pt": "desambigua",
    "ru": "неоднозначность|disambig|многозначность",
    "zh": "disambig|消歧义|消歧義|dab",
}
_LISTS: Final = {
    "de": "Liste|Nekrolog",
    "en": "List of|Lists of|Index of|Outline of|Deaths in",
    "es": "Anexo:|Lista de",
    "fr": "Liste d|Décès en",
    "it": "Lista d|Morti nel|Deceduti",
    "ja": "一覧",
    "nl": "Lijst van",
    "pl": "Lista ",
    "pt": "Lista d|Mortes em",
    "ru": "Список|Списки|Умершие",
    "zh": "列表",
}
_DISAMBIGUATION_TITLE: Final = re.compile(r"\((?:disambiguation|Begriffsklärung|homonymie|desambiguación)\)$")
# Namespaces that every Wikipedia has, under their English names; the dump's head adds the wiki's own.
_NAMESPACES: Final = frozenset(
    f"{name}{talk}"
    for name in ("user", "wikipedia", "project", "file", "image", "mediawiki", "template", "help", "category")
    for talk in ("", " talk")
) | {
    "media",
    "special",
    "talk",
    "portal",
    "portal talk",
    "draft",
    "draft talk",
    "module",
    "module talk",
    "wp",
}


class Judge:
    """Return the kind of a page."""

    def __init__(
        self, language: str, main_page: str = "Main Page", namespaces: frozenset[str] = frozenset()
    ) -> None:
        templates = _DISAMBIGUATION.get(language, "disambig")
        self._disambiguation = re.compile(rf"\{{\{{\s*(?:{templates})|__DISAMBIG__", re.IGNORECASE)
        self._lists = tuple(_LISTS.get(language, _LISTS["en"]).split("|"))
        self._main_page = main_page
        self._namespaces = _NAMESPACES | namespaces

    def of_page(self, title: str, wikitext: str) -> str:
        """Return the kind of a page in the dump that is not a redirect."""
        kind = self._of_title(title)
        return "disambiguation" if kind == "article" and self._disambiguation.search(wikitext) else kind

    def of_view(self, title: str) -> str:
        """Return the kind as far as a title alone tells it."""
        prefix, colon, _ = title.partition(":")
        if colon and prefix.strip().lower() in self._namespaces:
            return "other_namespace"
        return self._of_title(title)

    def _of_title(self, title: str) -> str:
        if title == self._main_page:
            return "main_page"
        if title.startswith(self._lists):
            return "list"
        return "disambiguation" if _DISAMBIGUATION_TITLE.search(title) else "article"


def add_views(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the total views of each title of VIEWS tables, by title."""
    total = pa.concat_tables([VIEWS.empty_table(), *tables]).group_by("title").aggregate([("views", "sum")])
    return total.rename_columns({"views_sum": "views"}).sort_by("title").cast(VIEWS)


def resolve(views: pa.Table, pages: pa.Table, judge: Judge) -> tuple[pa.Table, dict[str, int]]:
    """Return views with each redirect's title replaced by its target, and the titles that no page has by
    reason.

    views: VIEWS with distinct titles. pages: all PAGES whose titles can be in it.
    """
    found = pc.index_in(views["title"], value_set=pages["title"])
    known = views.filter(pc.is_valid(found))
    rows = pages.take(found.drop_null())
    title = pc.if_else(pc.equal(rows["kind"], "redirect"), rows["target"], rows["title"])
    unknown = views["title"].filter(pc.is_null(found)).to_pylist()
    elsewhere = sum(judge.of_view(name) == "other_namespace" for name in unknown)
    dropped = {"other_namespace": elsewhere, "unknown_page": len(unknown) - elsewhere}
    return pa.table([title, known["views"]], VIEWS), {reason: n for reason, n in dropped.items() if n}


def judge_articles(views: pa.Table, pages: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """Return the rows of `views` that are articles, and the number of others by reason."""
    found = pc.index_in(views["title"], value_set=pages["title"])
    kinds = pages["kind"].take(found).to_pylist()
    return _select(views, ["double_redirect" if kind in (None, "redirect") else kind for kind in kinds])


def judge_titles(views: pa.Table, judge: Judge) -> tuple[pa.Table, dict[str, int]]:
    """Do the same where there is no dump."""
    return _select(views, [judge.of_view(title) for title in views["title"].to_pylist()])


def _select(views: pa.Table, kinds: list[str]) -> tuple[pa.Table, dict[str, int]]:
    dropped = {reason: n for reason in DROPPED if (n := kinds.count(reason))}
    return views.filter(pa.array([kind == "article" for kind in kinds], pa.bool_())), dropped


def most_viewed(views: pa.Table, min_views: int, limit: int) -> tuple[pa.Table, dict[str, int]]:
    """Return the `limit` titles of most views, at least `min_views`: best first, then alphabetically."""
    enough = views.filter(pc.greater_equal(views["views"], min_views))
    ranked = enough.sort_by([("views", "descending"), ("title", "ascending")])[:limit]
    few = views.num_rows - enough.num_rows
    return ranked, {"too_few_views": few} if few else {}


_QUALIFIER: Final = re.compile(r"^(.*\S) \([^()]+\)$")


def without_qualifier(title: str) -> str:
    """Return the name in a title: "Mercury (planet)" tells articles apart, but no caption says it so."""
    match = _QUALIFIER.match(title)
    return match[1] if match else title
