"""The public summary of training content that the European Union's AI Act asks for, as far as a run knows it.

Article 53(1)(d) of Regulation (EU) 2024/1689; the fields are those of the Commission's template, C(2025) 8311
of 5 December 2025 (first published on 24 July 2025). The summary is of a model, a run is one of its data
sources: fields that only the model's provider can fill are marked as such, and answers stay whenever the
report is written again. Each number is a sum over the shards or the rejected rows, so that `openwit verify`
can make the whole file again and compare.
"""

from collections.abc import Mapping
from typing import Any, Final

from pipeline import checked_manifest, finished_set, storage, untrusted
from pipeline.report import samples
from pipeline.report.eu_summary import sections
from pipeline.report.samples import SampleFigures
from pipeline.run_folder import Layout

NAME: Final = "eu-training-summary"
_TEMPLATE: Final = {
    "title": "Template for the Public Summary of Training Content for general-purpose AI models required by "
    "Article 53(1)(d) of Regulation (EU) 2024/1689 (AI Act)",
    "document": "C(2025) 8311 final", "date": "2025-12-05",
}  # fmt: skip

Summary = dict[str, Any]
"""The contents of the JSON file."""


def path(layout: Layout, kind: str = "json") -> str:
    """Return the path of a run's summary, `json` or `html`."""
    return storage.join(layout.report, f"{NAME}.{kind}")


def read(layout: Layout) -> Summary | None:
    """Return a run's summary as it is stored, None if there is none; ValueError if it is no such file."""
    found = untrusted.read_json(path(layout))
    if found is None:
        return None
    if not isinstance(found, dict) or found.get("format") != "openwit EU training summary":
        raise ValueError(f"{path(layout)} is not a summary that openwit writes: remove it")
    return found


def answers_of(summary: Summary | None) -> dict[str, str]:
    """Return people's answers, by field."""
    return {
        field["id"]: field["value"]
        for section in (summary or {}).get("sections", [])
        for field in section.get("fields", [])
        if field.get("filled_by") == "person" and isinstance(field.get("value"), str)
    }


def build(
    layout: Layout, answers: Mapping[str, str], *, sme: bool = False, figures: SampleFigures | None = None
) -> Summary:
    """Return the summary of a finished run from its shards and its manifest alone.

    answers: of people, by field. sme: cut the list of domains as smaller providers may. figures: the sums
    over the shards, where they are there. ValueError for an answer without its question.
    """
    manifest = checked_manifest.of(layout.published)
    figures = figures or samples.read(finished_set.load(layout, manifest))
    found = sections.of(manifest, figures, sme=sme)
    asked = {field["id"]: field for one in found for field in one["fields"] if field["filled_by"] == "person"}
    if unknown := sorted(set(answers) - set(asked)):
        raise ValueError(f"{unknown[0]} is not a field that a person fills; they are {', '.join(asked)}")
    for name, answer in answers.items():
        asked[name]["value"] = answer
    return {
        "format": "openwit EU training summary", "format_version": 1, "template": _TEMPLATE, "sme": sme,
        "sections": found,
    }  # fmt: skip


def unanswered(summary: Summary) -> list[str]:
    """Return the fields that wait for a person."""
    fields = [field for section in summary["sections"] for field in section["fields"]]
    return [one["id"] for one in fields if one["filled_by"] == "person" and one["value"] is None]


def problems(layout: Layout) -> list[str]:
    """Return where the stored summary differs from the shards; [] if nowhere, or if there is none."""
    stored = read(layout)
    if stored is None:
        return []
    expected = build(layout, answers_of(stored), sme=stored.get("sme") is True)
    was, now = (_counted(one) for one in (stored, expected))
    said = ", ".join(name for name in now if was.get(name) != now[name])
    if not said:
        return []
    return [f"{path(layout)} does not match the shards ({said}): `openwit summary --run` writes it again"]


def _counted(summary: Summary) -> dict[str, Any]:
    """Return the fields that hold numbers; sentences are worded otherwise by other versions of openwit."""
    fields = [field for section in summary["sections"] for field in section["fields"]]
    found = {one["id"]: one["value"] for one in fields if one["filled_by"] == "openwit"}
    counted = {name: value for name, value in found.items() if isinstance(value, dict)}
    return counted | {"left_out": {one["reason"]: one["captions"] for one in found.get("left_out", [])}}


def write(
    layout: Layout, answers: Mapping[str, str] | None = None, *, sme: bool | None = None,
    figures: SampleFigures | None = None,
) -> Summary:  # fmt: skip
    """Publish the summary as JSON and as a page; answers stay until others are given."""
    from pipeline import manifest
    from pipeline.report.eu_summary import page  # needs the crawl extra

    before = read(layout)
    if sme is None:
        sme = bool(before and before.get("sme") is True)
    summary = build(layout, {**answers_of(before), **(answers or {})}, sme=sme, figures=figures)
    manifest.write_json(path(layout), summary)
    storage.write_bytes(path(layout, "html"), page.render(summary, layout.root).encode())
    return summary
