"""`openwit convert`: a finished run as plain files, or as Parquet with the images in it.

Both are laid out as img2dataset's outputs of that name. Samples that a takedown or an extension removed from
the run are left out. A shard's Parquet file is written last of its files: it says that the shard is done.
"""

import json
from collections.abc import Iterator, Sequence

import orjson
import pyarrow as pa
from rich.table import Table

from pipeline import checked_manifest, dataset, schemas, storage
from pipeline import config as parser
from pipeline.cli_runtime import guarded
from pipeline.dataset import Row
from pipeline.finished_set import FinishedSet
from pipeline.formats import count
from pipeline.options.finished import ConvertConfig
from pipeline.run_folder import Layout
from pipeline.terminal import output, show_places, terminal

_IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
_FEATURES = {"huggingface": json.dumps({"info": {"features": {"image": {"_type": "Image"}}}})}
"""Metadata that makes `datasets` and the Hub's viewer read the column as pictures."""


def main(argv: Sequence[str], prog: str = "openwit convert") -> int:
    """Run `openwit convert`; return the exit code."""
    options, _ = parser.parse(ConvertConfig, parser.first_as("--run", argv), prog=prog)
    return guarded(prog, terminal(), "", lambda: convert(options))


def convert(options: ConvertConfig) -> int:
    """Write the files that are missing; ValueError for a run that is not finished."""
    layout, out = Layout(options.run.rstrip("/")), options.out.rstrip("/")
    checked_manifest.of(layout.root)
    name, shards, run = dataset.find(layout.root)
    assert run is not None, "it has a manifest"
    stored, whole = run
    if options.check:
        said = f"{name}: {count(len(shards), 'shard')}, {count(stored.counts.samples, 'sample')}"
        output().print(f"{said}, as {options.format} to {out}. Nothing was written.", soft_wrap=True)
        return 0
    made = skipped = 0
    for path in shards:
        done = storage.join(out, f"{storage.stem(path)}.parquet")
        if storage.exists(done):
            skipped += 1
            continue
        rows = _as_files(path, whole, out) if options.format == "files" else _as_parquet(path, whole)
        schemas.write_table(done, rows)
        made += 1
    table = Table("", "")
    for label, value in (
        ("samples", stored.counts.samples),
        ("shards written", made),
        ("there before", skipped),
    ):
        table.add_row(label, f"{value:,}")
    output().print(table)
    show_places(output(), [(options.format, out)])
    return 0


def _samples(path: str, whole: FinishedSet) -> Iterator[tuple[str, bytes, str, Row]]:
    for key, image, captions, row in dataset.samples((path,), whole):
        yield key, image, captions[0], row


def _as_files(path: str, whole: FinishedSet, out: str) -> pa.Table:
    """Write NNNNN/KEY.jpg, .txt and .json; return the rows."""
    folder = storage.join(out, storage.stem(path))
    for key, image, caption, row in _samples(path, whole):
        described = {name: value for name, value in row.items() if name not in ("descriptor", "fetched_at")}
        for suffix, data in (
            ("jpg", image),
            ("txt", caption.encode()),
            ("json", orjson.dumps(described, option=orjson.OPT_SORT_KEYS)),
        ):
            storage.write_bytes(storage.join(folder, f"{key}.{suffix}"), data)
    return whole.rows(storage.stem(path))


def _as_parquet(path: str, whole: FinishedSet) -> pa.Table:
    """Return the rows with a column `image` of files, as `datasets` stores them."""
    files = {key: image for key, image, _, _ in _samples(path, whole)}
    rows = whole.rows(storage.stem(path))
    images = [{"bytes": files[key], "path": f"{key}.jpg"} for key in rows["key"].to_pylist()]
    found = rows.add_column(0, pa.field("image", _IMAGE), pa.array(images, _IMAGE))
    return found.replace_schema_metadata(_FEATURES)
