"""Every published table with its columns and types as one page: `python -m pipeline.file_reference >
docs/files.md`.

The types are those of the schemas that the program writes by; this file adds a sentence per column.
"""

import sys
from collections.abc import Mapping
from typing import Final, NamedTuple

import pyarrow as pa

from dedup.detector.parts import DESCRIPTORS, NEIGHBOURS
from dedup.parts import MATCHES, TEXT_MATCHES
from pipeline import dropped_samples
from pipeline.data.descriptors import PACKED_BYTES
from pipeline.finish.parts import SAMPLE_ROWS
from pipeline.finish.workers import published, shard_table
from pipeline.manifest import QUERY_COUNTS
from pipeline.schemas import REJECTED_ROWS
from queries.merge import QUERIES
from train.evaluation.results import PREDICTIONS

_UID: Final = "first 32 hex digits of the SHA-256 of the canonical URL: the sample's name everywhere"

_RIGHTS: Final = {
    "licence": "as the picture, its answer or its page state it: an identifier of SPDX, Creative Commons or "
               "rightsstatements.org (`RS-...`), `other`, `conflict`, or empty",
    "licence_url": "of the licence, or else of a page about the terms",
    "licence_source": "where the licence is stated; of a conflict each statement",
    "creator": "as the picture's metadata, or markup about it, name them; separated by semicolons",
    "copyright_notice": "of the picture, or else of its page",
}  # fmt: skip


class Table(NamedTuple):
    """A published Parquet file: where it lies, its columns, and a sentence per column."""

    title: str
    path: str
    about: str
    schema: pa.Schema
    columns: Mapping[str, str]


def shard_schema() -> pa.Schema:
    """Return the columns of RUN/shards/NNNNN.parquet."""
    schema = shard_table(SAMPLE_ROWS.empty_table(), [], ()).schema
    return schema.append(pa.field("descriptor", pa.binary(PACKED_BYTES)))


def rejected_schema() -> pa.Schema:
    """Return the columns of RUN/rejected/*.parquet."""
    return published(REJECTED_ROWS.empty_table()).schema


def tables() -> list[Table]:
    """Return every table that the page describes."""
    return [
        Table("Samples", "RUN/shards/00000.parquet", "One row per sample of `00000.tar`, in its order; `KEY.json` in "
              "the tar holds the same row without `fetched_at` and `descriptor`. `--scorer` adds `score_*` columns "
              "(float), `--blur-faces` the column `faces` (boxes: left, top, width, height), `--iscc` the column "
              "`iscc` (ISO 24138), `--keep-columns` adds columns of the source (string or double).", shard_schema(), {
            "key": "name of the sample's members in the tar: shard number, then index",
            "url": "image URL as the source has it, absolute",
            "caption": "first caption, also in `KEY.txt`",
            "status": "always `success`; for readers of img2dataset's output",
            "error_message": "always null; for readers of img2dataset's output",
            "width": "of the stored image, pixels",
            "height": "of the stored image, pixels",
            "original_width": "of the image as served, after its Exif orientation",
            "original_height": "of the image as served, after its Exif orientation",
            "exif": "JSON of the Exif fields; empty unless `--keep-exif`, since it names places and people",
            "sha256": "of the bytes as fetched, hex",
            "uid": _UID,
            "captions": "all captions, the first one first",
            "query_ids": "queries that keep the sample; never more than `--per-query` samples list the same one",
            "matched_query_ids": "all queries that its captions contain",
            "page_url": "page on which the image was found, or empty",
            "source": "source file",
            "lang": "most probable language of the first caption, given its page",
            "lang_score": "its probability",
            "lang_page": "language that the page declares, a BCP 47 tag, or empty",
            "phash": "256-bit sign hash of the 64-pixel DCT, 64 hex digits",
            "quality": "detail that `phash` was made from, 0 to 100; little detail makes hashes unreliable",
            "format": "of the image as served: jpeg, png, webp, ...",
            "bytes": "of the image as served",
            "http_status": "of the answer",
            "fetched_at": "when the image was fetched",
            "descriptor": "perceptual descriptors by which `openwit overlap` finds near-duplicates; not with "
                          "`--describe later`",
            **_RIGHTS,
            "synthetic": "`generated` or `partly` where something says that a machine made it, or empty",
            "synthetic_source": "what says so",
        }),
        Table("Rejected rows", "RUN/rejected/*.parquet", "One row per candidate that is not in the set. "
              "[reasons.md](reasons.md) explains every reason.", rejected_schema(), {
            "uid": f"{_UID}; empty where the URL is not valid",
            "url": "image URL as the source has it",
            "caption": "the candidate's text",
            "page_url": "page on which the image was found, or empty",
            "stage": "stage that rejected it",
            "reason": "a word from the closed set",
            "detail": "more about it, at most 300 characters",
            "candidates": "candidates for which this row accounts; the sum over all rows plus the captions in the "
                          "shards is the number of candidates",
            **_RIGHTS,
        }),
        Table("Query counts", "RUN/query_counts.parquet", "One row per query. [concepts.md](concepts.md) has an "
              "example in numbers.", QUERY_COUNTS, {
            "query_id": "row of the query list, from 0",
            "query": "the query",
            "matched": "samples that matched it",
            "kept": "samples that list it in `query_ids`, at most `--per-query`",
            "present": "samples of the set that contain it",
            "short": "samples that it lacks although there were more to try: min(per_query - kept, untried)",
            "untried": "samples that matched it and were not fetched",
            "threshold": "it keeps the samples whose priority is not above this number",
        }),
        Table("Dropped samples", "RUN/dropped.parquet", "Only after `--extend`: samples of old shards that no query "
              "keeps any more. The set is the shards without them.", dropped_samples.ROWS, {
            "uid": _UID, "key": "name of its members in the tar", "shard": "shard, without `.tar`",
            "reason": "always `over_cap`", "captions": "captions of the sample",
            "extension": "number of the extension that dropped it",
        }),
        Table("Query list", "queries.parquet", "Written by `openwit queries`. Two runs over the same inputs give the "
              "same bytes.", QUERIES, {
            "query_id": "row, from 0", "query": "the query",
            "source": "`wordnet`, `unigram`, `bigram`, `title` or `extra`",
            "count": "occurrences in Wikipedia, page views, or synsets",
            "score": "the number by which its source ranks it: for bigrams pointwise mutual information in bits",
        }),
        Table("Overlap matches", "OVERLAP/matches.parquet", "One row per pair of an evaluation image and a training "
              "image that look alike.", MATCHES, {
            "dataset": "name of the evaluation set",
            "example_id": "the example: path in its folder, shard and key, or file and row",
            "uid": "uid of the training image", "url": "URL of the training image",
            "similarity": "0 to 1",
            "verified": "whether the pair was confirmed by alignment; only these count as overlap",
            "rank": "1 for the most similar training image of an example",
            "refused": "the check that it failed; empty if verified",
            "inliers": "matching points that fit one transformation",
            "correlation": "of both images once aligned",
            "view": "view of the evaluation image that was found, such as `flip` or a crop",
            "mirrored": "whether one is the mirror image of the other",
            "caption": "caption of the training image", "shard": "its shard", "key": "its key",
            "hashes": "similarity by hash and colour, null if these did not find it",
            "learned": "similarity by `--detector`, null if it did not find it",
        }),
        Table("Text matches", "OVERLAP/text_matches.parquet", "With `--text`: training captions that resemble captions "
              "or class names of an evaluation set.", TEXT_MATCHES, {
            "dataset": "name of the evaluation set", "kind": "`caption` or `prompt`",
            "example_id": "first example with this text", "text": "text of the evaluation set",
            "uid": "uid of the training image", "url": "URL of the training image",
            "caption": "caption of the training image", "jaccard": "similarity of the two texts, 0 to 1",
        }),
        Table("Predictions", "EVALUATION/predictions/NAME.parquet", "With `eval --save-predictions`; "
              "`overlap --predictions` reads it.", PREDICTIONS, {
            "example_id": "the example, named as in the overlap matches", "label": "its class",
            "prediction": "the predicted class; empty if the image cannot be decoded",
            "correct": "null without a label or a picture", "probability": "of the predicted class",
        }),
        Table("Descriptors", "EMBEDDED/{shards,eval}/*.parquet", "Written by `openwit detector embed`: "
              "a file for each shard, and for each evaluation set or, where it has several files, each of its pieces.",
              DESCRIPTORS, {
            "uid": "uid of the image; of an evaluation set the example", "key": "its key; of an evaluation set the view, "
            "such as `whole`", "quality": "its detail, 0 to 100; images below 25 are not searched for",
            "bias": "is subtracted from its similarities", "embedding": "unit vector of the detector's length",
        }),
        Table("Neighbours", "EMBEDDED/neighbours.parquet", "Written by `openwit detector embed --eval`.", NEIGHBOURS, {
            "dataset": "name of the evaluation set", "example_id": "the example",
            "uid": "uid of the training image", "shard": "its shard", "key": "its key",
            "similarity": "cosine of both descriptors", "rank": "1 for the most similar training image",
        }),
    ]  # fmt: skip


INTRODUCTION: Final = """\
# Files and columns

## A run

```
run/
  shards/00000.tar          KEY.jpg, KEY.txt (one caption), KEY.json (the row); the samples are shuffled over all sites
  shards/00000.parquet      the same rows, see Samples
  shards/00000_stats.json   img2dataset's statistics of the shard, its sha256
  shards/sizes.json         samples per shard
  rejected/*.parquet        every candidate that is not in the set, see Rejected rows
  query_counts.parquet      per query: matched, kept, present, short
  report/index.html         the dataset on one page: funnel, balance, contents, gallery, sites
  report/report.json        the same numbers; sites.jsonl per site, pace.jsonl over time
  index/index.sqlite        search index of `openwit browse`, once it was built
  scores/                   tables of `openwit score`
  README.md, croissant.json dataset card for the Hugging Face Hub, and MLCommons Croissant with its RAI fields
  manifest.json             configuration, fingerprints, versions, counts, sha256 of every shard
  config.toml               every option's value; `--config run/config.toml --contact ...` repeats the run
```

Shards are plain ustar and the same bytes from run to run, given the same fetched bytes. `webdataset` (tested with 1.0.2 and
0.2.86), `tar`, and everything that reads img2dataset's output read them. Contacts and the queries of web addresses are in no
published file. The types below are Arrow's, generated by `python -m pipeline.file_reference`.
"""


def page() -> str:
    """Return the page, Markdown; ValueError for a column without a sentence."""
    return "\n".join([INTRODUCTION, *(section(table) for table in tables())])


def section(table: Table) -> str:
    """Return the part of one table."""
    lines = [f"## {table.title}", "", f"`{table.path}`. {table.about}", "", "| column | type | meaning |"]
    lines.append("|---|---|---|")
    for field in table.schema:
        if field.name not in table.columns:
            raise ValueError(f"describe {field.name} of {table.path} in pipeline/file_reference.py")
        kind = str(field.type).replace("list<item: ", "list<").replace("list<element: ", "list<")
        lines.append(f"| `{field.name}` | {kind} | {table.columns[field.name]} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(page())
