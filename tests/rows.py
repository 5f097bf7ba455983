"""Small caption-row tables for tests."""

import hashlib

import pyarrow as pa

from pipeline import records


def uid_of(url: str) -> bytes:
    """Return the 16 bytes of a URL's uid."""
    return hashlib.sha256(url.encode()).digest()[:16]


def caption_row(url: str, caption: str, matched: list[int]) -> tuple[object, ...]:
    """Return one CAPTION_ROWS tuple."""
    text_hash = records.caption_hash(caption)
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
    )


def caption_table(rows: list[tuple[str, str, list[int]]]) -> pa.Table:
    """Return a sorted CAPTION_ROWS table of (url, caption, matched) rows."""
    table = records.to_table([caption_row(*row) for row in rows], records.CAPTION_ROWS)
    return records.sort_rows(table)
