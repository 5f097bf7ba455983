"""Make HTML pages that hold text of the web: escaped, invisible characters shown, nothing run.

A page names its own script and style by their hashes in its content security policy; nothing else may run
or load.
"""

import base64
import contextlib
import functools
import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote

import jinja2
import markupsafe

from pipeline import storage
from pipeline.formats import count
from pipeline.untrusted import visible

_SHARED: Final = Path(__file__).parent
_LINKS: Final = re.compile(r'<p class="soft" id="links"(?: hidden>|>See also )(.*?)\.?</p>')


def link(page: str, target: str, text: str) -> list[tuple[str, str]]:
    """Return a link from a page to another on this machine, by `render`'s `links`, if that page exists."""
    if not (storage.is_local(page) and storage.is_local(target) and storage.exists(target)):
        return []
    start = storage.local_path(page).resolve().parent
    return [("./" + quote(os.path.relpath(storage.local_path(target).resolve(), start)), text)]


def link_back(page: str, target: str, text: str) -> None:
    """Add a link to a later page to one that is written already, if both are on this machine.

    A page that cannot be written, or is not of this form, stays as it is.
    """
    found = link(page, target, text) if storage.exists(page) else []
    for place, words in found:
        body = storage.read_bytes(page).decode()
        known = _LINKS.search(body)
        if known is None or f'href="{html.escape(place)}"' in known[1]:
            continue
        links = ", ".join(
            [*filter(None, [known[1]]), f'<a href="{html.escape(place)}">{html.escape(words)}</a>']
        )
        links = f'<p class="soft" id="links">See also {links}.</p>'
        with contextlib.suppress(OSError):
            storage.write_bytes(page, (body[: known.start()] + links + body[known.end() :]).encode())


def trusted(text: str) -> markupsafe.Markup:
    """Return text of our own as markup: never anything that came from outside."""
    return markupsafe.Markup(text)  # noqa: S704 - our own files, and JSON in which no tag can begin


def content_hash(text: str) -> str:
    """Return the hash by which a content security policy names an inline script or style."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def script_json(value: object) -> markupsafe.Markup:
    """Return JSON that can stand in a script element: no tag can begin in it."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return trusted(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def data_url(jpeg: bytes) -> str:
    """Return a JPEG as the URL of an image that loads nothing."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


@functools.cache  # it keeps the templates that it has compiled
def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FileSystemLoader([folder, _SHARED]),
    )  # fmt: skip
    environment.filters |= {"number": "{:,}".format, "visible": visible}
    environment.globals["count"] = count
    return environment


def render(folder: Path, filters: Mapping[str, Callable[..., str]] | None = None, **values: object) -> str:
    """Return the page made of a folder's report.html and report.css, and report.js if it exists.

    report.html fills the blocks of page.html, which has the head; page.css is the style that all pages share.
    Everything is escaped, unknown names are refused, and the page holds style and script itself.
    """
    environment = _environment(folder)
    environment.filters |= filters or {}
    style, script = (
        "".join(path.read_text(encoding="utf-8") for path in paths if path.exists())
        for paths in ([_SHARED / "page.css", folder / "report.css"], [folder / "report.js"])
    )
    return environment.get_template("report.html").render(
        **{"links": (), **values}, style=trusted(style), style_hash=content_hash(style),
        script=trusted(script), script_hash=content_hash(script),
    )  # fmt: skip
