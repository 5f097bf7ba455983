"""Write the HTML pages of the demonstration web, with the markup that real pages use for pictures."""

import base64
import html
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple
from urllib.parse import urljoin

Markup = Literal["img", "figure", "picture", "srcset", "lazy", "og"]
TextKind = Literal["alt", "title", "figcaption", "og"]

LAZY_ATTRIBUTES: Final = ("data-src", "data-original", "data-lazy-src")
TRANSPARENT_GIF: Final = "data:image/gif;base64," + base64.b64encode(
    b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,"
    b"\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;"
).decode("ascii")
"""The value of `src` until a script puts the address from the lazy attribute there."""


class ImageText(NamedTuple):
    """Hold one text of an image as a browser would give it, and its kind."""

    kind: TextKind
    text: str
    nature: str
    """caption, title, german, french, file_name, camera, boilerplate, hostile, too_long, or unrelated."""


@dataclass(frozen=True, kw_only=True)
class ImageElement:
    """Describe one image element before it is on a page."""

    href: str
    """The address as written in the page, or for pages elsewhere absolute."""
    texts: tuple[ImageText, ...] = ()
    markup: Markup = "img"
    alternatives: tuple[tuple[str, int], ...] = ()
    """Further addresses of the same picture in srcset, and their widths in pixels."""
    lazy_attribute: str = "data-src"
    label: str | None = None
    colour: str | None = None
    special: tuple[str, ...] = ()
    """Its oddities, in words such as dead_link; sorted."""
    reason: str | None = None
    """The reason that keeps the image out of the shards, whatever its texts; None if there is none."""


@dataclass(frozen=True, kw_only=True)
class DrawnPage:
    """Hold one page: its address and contents."""

    url: str
    title: str
    marks: tuple[ImageElement, ...]
    language: str = "en"
    charset: str = "utf-8"
    base: str | None = None
    """The href of a <base> element, to which the addresses of the page are relative."""
    links: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Record the truth about one image element of one page, as in a line of truth.jsonl."""

    site: str
    page: str
    """The page's URL."""
    url: str
    """The image's URL: absolute, as a browser would request it (src, or the lazy attribute)."""
    href: str
    """The address as written."""
    markup: Markup
    alternatives: tuple[str, ...]
    """Absolute URLs of the same picture that srcset offers."""
    texts: tuple[ImageText, ...]
    label: str | None
    colour: str | None
    special: tuple[str, ...]
    reason: str | None
    """Why the image cannot get into the shards, whatever its texts; None if it can."""
    sha256: str | None
    """The hex digest of the bytes that a GET of `url` ends at, redirects followed; None if there are none."""

    @property
    def urls(self) -> tuple[str, ...]:
        """The URLs of which a crawl may choose any: readers of srcset take the largest."""
        return (self.url, *self.alternatives)


def references(site: str, page: DrawnPage, digest: Callable[[str], str | None]) -> list[Reference]:
    """Return the truth about the page's images, in the order in which they stand in it.

    `digest` gives the SHA-256 of everything that is behind an absolute URL, or None.
    """
    base = urljoin(page.url, page.base) if page.base else page.url
    found = []
    for mark in sorted(page.marks, key=lambda mark: mark.markup != "og"):  # <head> comes first
        alternatives = tuple(urljoin(base, href) for href, _ in mark.alternatives)
        # A fragment never reaches the server: it is no part of the request.
        url = mark.href if mark.href.startswith("data:") else urljoin(base, mark.href).partition("#")[0]
        found.append(
            Reference(
                site=site,
                page=page.url,
                url=url,
                href=mark.href,
                markup=mark.markup,
                alternatives=alternatives,
                texts=mark.texts,
                label=mark.label,
                colour=mark.colour,
                special=mark.special,
                reason=mark.reason,
                sha256=digest(url),
            )
        )
    return found


def render(page: DrawnPage) -> bytes:
    """Return the page as HTML bytes in its charset."""
    head = [f'<meta charset="{page.charset}">', f"<title>{html.escape(page.title)}</title>"]
    if page.base:
        head.append(f'<base href="{html.escape(page.base)}">')
    head += [_open_graph(mark) for mark in page.marks if mark.markup == "og"]
    body = [f"<h1>{html.escape(page.title)}</h1>"]
    body += [_element(mark) for mark in page.marks if mark.markup != "og"]
    body += _navigation(page.links)
    lines = [
        "<!DOCTYPE html>",
        f'<html lang="{page.language}">',
        "<head>",
        *head,
        "</head>",
        "<body>",
        *body,
        "</body>",
        "</html>",
        "",
    ]
    return "\n".join(lines).encode(page.charset, errors="xmlcharrefreplace")


def _attributes(pairs: Sequence[tuple[str, str | None]]) -> str:
    return "".join(f' {name}="{html.escape(value)}"' for name, value in pairs if value is not None)


def _text(mark: ImageElement, kind: TextKind) -> str | None:
    return next((text.text for text in mark.texts if text.kind == kind), None)


def _open_graph(mark: ImageElement) -> str:
    image = f"<meta{_attributes([('property', 'og:image'), ('content', mark.href)])}>"
    alt = _text(mark, "og")
    if alt is None:
        return image
    return f"{image}\n<meta{_attributes([('property', 'og:image:alt'), ('content', alt)])}>"


def _element(mark: ImageElement) -> str:
    srcset = ", ".join(f"{href} {width}w" for href, width in mark.alternatives) or None
    pairs: list[tuple[str, str | None]] = [("alt", _text(mark, "alt")), ("title", _text(mark, "title"))]
    if mark.markup == "lazy":
        pairs = [("class", "lazy"), ("src", TRANSPARENT_GIF), (mark.lazy_attribute, mark.href), *pairs]
    elif mark.markup == "srcset":
        pairs = [("src", mark.href), ("srcset", srcset), ("loading", "lazy"), *pairs]
    else:
        pairs = [("src", mark.href), *pairs]
    image = f"<img{_attributes(pairs)}>"
    if mark.markup == "picture":
        source = _attributes([("type", "image/webp"), ("srcset", srcset)])
        image = f"<picture><source{source}>{image}</picture>"
    caption = _text(mark, "figcaption")
    if caption is None:
        return f"<p>{image}</p>"
    return f"<figure>{image}<figcaption>{html.escape(caption)}</figcaption></figure>"


def _navigation(links: Sequence[str]) -> list[str]:
    items = "".join(f'<li><a href="{html.escape(link)}">Page {i}</a></li>' for i, link in enumerate(links, 1))
    return [f"<nav><ul>{items}</ul></nav>"] if items else []
