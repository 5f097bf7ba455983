"""Links from one HTML page to others, as far as the page lets robots follow them."""

from typing import Final

from pipeline.http.user_agent import ALIASES, TOKEN
from pipeline.sources.page_images import base_url, parse
from pipeline.urls import BadUrl, resolve

MAX_LINKS: Final = 5_000
"""Taken from one page."""
_ROBOTS: Final = frozenset(("robots", TOKEN, *ALIASES))
_NOFOLLOW: Final = frozenset(("nofollow", "none"))

# Links to files that are no page; asking for them would be a wasted request.
_FILES: Final = frozenset(
    (
        *("bmp", "gif", "ico", "jpeg", "jpg", "png", "svg", "tif", "tiff", "webp"),
        *(
            "avi",
            "flac",
            "m4a",
            "m4v",
            "mkv",
            "mov",
            "mp3",
            "mp4",
            "mpeg",
            "mpg",
            "ogg",
            "wav",
            "webm",
            "wmv",
        ),
        *("csv", "doc", "docx", "epub", "odt", "pdf", "ppt", "pptx", "ps", "xls", "xlsx"),
        *("7z", "dmg", "exe", "gz", "iso", "rar", "tar", "tgz", "zip", "css", "js", "json", "rss", "xml"),
    )
)


def links(data: bytes, page_url: str, content_type: str = "") -> list[str]:
    """Return the absolute http(s) URLs that <a>, then <area>, point to, each once; never raises.

    [] if <meta name=robots> says nofollow; without those of rel=nofollow and those named like files.
    """
    tree = parse(data, page_url, content_type).tree
    for node in tree.tags("meta"):
        name = (node.attributes.get("name") or "").strip().lower()
        content = (node.attributes.get("content") or "").lower()
        if name in _ROBOTS and _NOFOLLOW & {word.strip() for word in content.split(",")}:
            return []
    base = base_url(tree, page_url)
    found: dict[str, None] = {}
    for tag in ("a", "area"):
        for node in tree.tags(tag):
            href = node.attributes.get("href")
            if href is None or "nofollow" in (node.attributes.get("rel") or "").lower().split():
                continue
            try:
                url = resolve(href, base)
            except BadUrl:
                continue
            if url.partition("?")[0].rpartition("/")[2].rpartition(".")[2].lower() not in _FILES:
                found[url] = None
            if len(found) >= MAX_LINKS:
                return list(found)
    return list(found)
