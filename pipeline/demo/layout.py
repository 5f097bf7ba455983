"""Spread a site's images over its pages, with addresses spelled in the ways of real pages."""

import posixpath
import random
from dataclasses import replace

from pipeline.demo.content import Draft
from pipeline.demo.markup import DrawnPage, ImageElement


def lay_out(draft: Draft, seed: int) -> list[DrawnPage]:
    """Spread the site's images over pages that link to each other, the first being index.html."""
    rng = random.Random(f"{seed}/pages/{draft.name}")
    marks = rng.sample(draft.marks, len(draft.marks))
    groups = []
    while marks:
        count = rng.randint(1, 12)
        groups.append(marks[:count])
        marks = marks[count:]
    paths = ["/index.html", *(f"/pages/{number:03d}.html" for number in range(1, len(groups)))]
    pages = []
    for number, (path, group) in enumerate(zip(paths, groups, strict=True), 1):
        base = "/images/" if rng.random() < 0.1 else None
        written = [_as_written(mark, draft, path, base, rng) for mark in group]
        page = DrawnPage(
            url=draft.root + path,
            title=f"{draft.name.capitalize()}, page {number} of {len(groups)}",
            marks=tuple(_with_open_graph(written, rng)),
            language=draft.language,
            charset=draft.charset,
            base=base,
            links=tuple(draft.root + other for other in paths),
        )
        pages.append(page)
    return pages


def _as_written(
    mark: ImageElement, draft: Draft, page: str, base: str | None, rng: random.Random
) -> ImageElement:
    """Return the mark with addresses spelled in one of the ways that resolve to the same URL on this page."""
    style = rng.choice(("relative", "relative", "root", "absolute", "protocol"))
    folder = posixpath.dirname(base or page)
    prefix = {"root": "", "absolute": draft.root, "protocol": f"//{draft.address}"}

    def spell(path: str) -> str:
        if not path.startswith("/"):
            return path
        return posixpath.relpath(path, folder) if style == "relative" else prefix[style] + path

    alternatives = tuple((spell(path), width) for path, width in mark.alternatives)
    return replace(mark, href=spell(mark.href), alternatives=alternatives)


def _with_open_graph(marks: list[ImageElement], rng: random.Random) -> list[ImageElement]:
    """Turn the first plain image into the page's og:image on some pages."""
    for index, mark in enumerate(marks):
        plain = mark.markup == "img" and [text.kind for text in mark.texts] == ["alt"] and mark.label
        if plain and rng.random() < 0.1:
            texts = (mark.texts[0]._replace(kind="og"),)
            changed = replace(mark, markup="og", texts=texts)
            return [*marks[:index], changed, *marks[index + 1 :]]
    return marks
