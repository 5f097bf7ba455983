"""The summary as a page to publish, with known fields told apart from those that a person has to add."""

import posixpath
from pathlib import Path
from typing import Any, Final

from pipeline import safe_html
from pipeline.formats import percent, size

MOST_DOMAINS: Final = 2_000
"""Domains on the page; the JSON file has all."""

_PARTS: Final = {"1": "General information", "2": "List of data sources", "3": "Data processing aspects"}


def render(summary: dict[str, Any], root: str) -> str:
    """Return the page of a run whose folder is `root`."""
    fields = [field for section in summary["sections"] for field in section["fields"]]
    return safe_html.render(
        Path(__file__).parent,
        {"percent": percent, "size": size, "words": _words},
        name=posixpath.basename(root.rstrip("/")), summary=summary, parts=_PARTS,
        most=MOST_DOMAINS, is_list=lambda value: isinstance(value, list),
        is_map=lambda value: isinstance(value, dict),
        left=sum(one["filled_by"] == "person" and one["value"] is None for one in fields),
        own=sum(one["filled_by"] == "openwit" for one in fields),
    )  # fmt: skip


def _words(value: Any) -> str:
    """Return a value as text: numbers with commas, yes and no."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
