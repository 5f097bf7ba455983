"""The reports of a finished run: a page to look at, its numbers as JSON, a dataset card and a Croissant."""

import json
from collections.abc import Iterable

from pipeline import manifest, storage
from pipeline.run_folder import Layout


def write(layout: Layout) -> None:
    """Publish the report, the card and the Croissant of a run that has a manifest, from its files alone."""
    from pipeline import safe_html  # this and the next need the crawl extra
    from pipeline.report import card, collect, croissant, eu_summary, numbers, page

    run = collect.collect(layout)
    folder = layout.report
    _write_lines(storage.join(folder, "sites.jsonl"), (one._asdict() for one in numbers.all_sites(run)))
    names = ("start", "images", "arrived", "bytes", "in_flight")
    moments = (
        dict(zip(names, row, strict=True)) | {"seconds": run.network.width} for row in run.network.pace
    )
    _write_lines(storage.join(folder, "pace.jsonl"), moments)
    manifest.write_json(storage.join(folder, "report.json"), numbers.as_json(run))
    own = storage.join(folder, "index.html")
    storage.write_bytes(own, page.render(run, layout.root).encode())
    if listed := page.query_report(run):
        safe_html.link_back(listed, own, f"the dataset {storage.stem(layout.root)}")
    eu_summary.write(layout, figures=run.samples)
    found = run.samples
    readme = card.render(run.manifest, layout.root, found.languages, found.words, found.licences)
    storage.write_bytes(layout.card, readme.encode())
    manifest.write_json(layout.croissant, croissant.build(layout, run.manifest))


def _write_lines(path: str, rows: Iterable[object]) -> None:
    with storage.atomic_output(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)
