"""A classifier that remembers: it answers with the label of the most similar picture of the crawl.

Its accuracy shows what contamination does at worst. It knows nothing but the descriptors that the run keeps.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dedup.decode_images import Pictures, decode_jpeg
from dedup.search import F32, Whitening
from pipeline.data import evalsets, views
from pipeline.data.descriptors import describe, mirrored_descriptors, unpack
from pipeline.demo.web import Web


def write_predictions(run: Path, web: Web, dataset: str, path: Path) -> None:
    """Classify an evaluation set: Parquet with example_id, label, prediction, correct."""
    labels, vectors, whitening = _remembered(run, web)
    folder, decoder = str(web.folder / "eval" / dataset), Pictures()
    examples = list(evalsets.read(folder))
    pictures = [decode_jpeg(decoder.normalised(example.image)) for example in examples]
    decoder.close()
    thumbnails = np.stack([views.thumbnail(views.inner(rgb)) for rgb in pictures if rgb is not None])
    assert len(thumbnails) == len(examples), "the demo's own drawings can be decoded"
    seen = describe(thumbnails)
    likeness = np.maximum(
        *(whitening.apply(one.colours) @ vectors.T for one in (seen, mirrored_descriptors(seen)))
    )
    predicted = [labels[row] for row in likeness.argmax(axis=1)]
    table = {
        "example_id": [example.example_id for example in examples],
        "label": [example.label for example in examples],
        "prediction": predicted,
        "correct": [one.label == guess for one, guess in zip(examples, predicted, strict=True)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(table), path)


def _remembered(run: Path, web: Web) -> tuple[list[str], F32, Whitening]:
    """Return the labels and whitened vectors of the crawl's drawings."""
    label_of = {
        url: reference.label
        for reference in web.references
        if reference.label
        for url in (reference.url, *reference.alternatives)
    }
    shards = [
        pq.read_table(path, columns=["url", "descriptor"]) for path in sorted(run.glob("shards/*.parquet"))
    ]
    rows = [row for row in pa.concat_tables(shards).to_pylist() if row["url"] in label_of]
    colours = unpack([row["descriptor"] for row in rows]).colours
    whitening = Whitening.fit(colours)
    return [label_of[row["url"]] for row in rows], whitening.apply(colours), whitening
