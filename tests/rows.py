"""Small caption-row tables for tests, and a check of any tables that steps have left."""

import hashlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import schemas
from pipeline.flow.parts import Part, files
from pipeline.flow.steps import results_in


def uid_of(url: str) -> bytes:
    """Return the 16 bytes of a URL's uid."""
    return hashlib.sha256(url.encode()).digest()[:16]


def caption_row(url: str, caption: str, matched: list[int]) -> tuple[object, ...]:
    """Return one CAPTION_ROWS tuple."""
    text_hash = schemas.caption_hash(caption)
    return (
        uid_of(url),
        url,
        caption,
        text_hash,
        sorted(matched),
        "en",
        0.9,
        "",
        "https://page.test/",
        "test",
        "",
        "",
    )


def caption_table(rows: list[tuple[str, str, list[int]]]) -> pa.Table:
    """Return a sorted CAPTION_ROWS table of (url, caption, matched) rows."""
    table = schemas.to_table([caption_row(*row) for row in rows], schemas.CAPTION_ROWS)
    return schemas.sort_rows(table)


def checked_results(work: Path) -> set[str]:
    """Check that results below a folder name files that are there, tables as they say; return their kinds."""
    kinds = set()
    for done in sorted(work.rglob("results.jsonl")):
        for part in results_in(str(done.parent), Part):
            kinds.add(type(part).__name__)
            for path, file in files(part):
                assert Path(path).is_file(), path
                assert file.schema is None or pq.read_schema(path).equals(file.schema), path
    return kinds
