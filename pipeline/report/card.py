"""The dataset card: README.md with the metadata that the Hugging Face Hub reads, from the manifest."""

import functools
import json
import posixpath
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import jinja2

from pipeline.checked_manifest import Manifest
from pipeline.formats import count
from pipeline.report import statements
from pipeline.report.funnel import funnel

_SIZES: Final = (
    (10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B"),
)  # fmt: skip
_MOST_LANGUAGES: Final = 20


def size_category(samples: int) -> str:
    """Return the Hub's word for a number of samples."""
    return next((word for limit, word in _SIZES if samples < limit), "10B<n<100B")


def render(
    manifest: Manifest, root: str, languages: Iterable[str], words: int | None,
    licences: Mapping[str, int] = MappingProxyType({}),
) -> str:  # fmt: skip
    """Return README.md of the run in folder `root`; languages as found in the shards, most first.

    licences: samples by the licence that is stated.
    """
    known = "opt_out" in manifest.configuration  # not in runs of older versions
    signals = statements.options_of(manifest).fetch.opt_out
    return _template().render(
        name=plain(posixpath.basename(root.rstrip("/"))), manifest=manifest, counts=manifest.counts,
        words=words, is_balanced=statements.is_balanced(manifest),
        size_category=size_category(manifest.counts.samples),
        languages=[one for one in languages if one.isascii() and one.isalpha()][:_MOST_LANGUAGES],
        collection=statements.collection(manifest), preprocessing=statements.preprocessing(manifest),
        steps=funnel(manifest.counts), opt_outs=statements.opt_outs(manifest),
        honoured=(", ".join(map(statements.code, signals)) or "none") if known else None,
        personal=statements.personal(manifest), limitations=statements.limitations(manifest),
        licences=licences.items(), rights=statements.rights(), datasheet=statements.datasheet(manifest),
        takedown=statements.takedown(manifest),
    )  # fmt: skip


@functools.cache  # it is compiled once
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=False,  # noqa: S701 - Markdown; foreign text goes through `code` or `yaml`
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["yaml"] = _yaml
    environment.globals["count"] = count
    return environment.from_string(Path(__file__).with_name("card.md").read_text(encoding="utf-8"))


def plain(name: str) -> str:
    """Return a folder's name without the things that Markdown or YAML would read as its own."""
    return "".join(c if c.isalnum() or c in " ._-" else "_" for c in name) or "dataset"


def _yaml(value: Any) -> str:
    """Return a scalar as JSON, which is YAML as well."""
    return json.dumps(value, ensure_ascii=False)
