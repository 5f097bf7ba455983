"""Build or renew the index of anybody's WebDataset, of which only the archives are known."""

import re
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import IO, Any, Final

import xxhash

from pipeline import storage, untrusted
from pipeline.index import near
from pipeline.index.offsets import Place, places
from pipeline.index.tables import FACETS, SAMPLE_COLUMNS, Index, Progress, Source, finish
from pipeline.index.values import hash_of, site_of

_UID: Final = re.compile(r"[\w-]{1,32}", re.ASCII)
_PACKED: Final = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")


def index_shards(path: Path, name: str, shards: Sequence[str], progress: Progress) -> list[str]:
    """Renew the index of anybody's WebDataset; return a sentence for each archive that is not whole."""
    refused = list[str]()
    with closing(Index(path)) as index:

        def add(source: Source, number: int) -> None:
            index.insert("samples", SAMPLE_COLUMNS, _foreign_rows(index, source, number, refused))

        index.renew("samples", [_described(shard) for shard in shards], add, progress)
        near.renew(index)
        finish(index, name)
    return refused


def _described(path: str) -> Source:
    info = storage.file_info(path)
    return Source(path, path, f"{info.size} {info.etag}")


def _foreign_rows(
    index: Index, source: Source, number: int, refused: list[str]
) -> Iterator[Sequence[object]]:
    """Yield the rows of an archive: caption from KEY.txt, and the fields of KEY.json by openwit's names."""
    with storage.open_input(source.path) as file, storage.open_input(source.path) as content:
        if file.read(6).startswith(_PACKED):
            refused.append(f"{source.path} is compressed, so no single picture can be read: unpack it")
            return
        try:
            for key, place in places(file):
                yield _foreign_row(index, source, number, key, place, content)
        except ValueError as error:
            refused.append(f"{source.path}: {error}; the samples before it are indexed")


def _foreign_row(
    index: Index, source: Source, number: int, key: str, place: Place, content: IO[bytes]
) -> Sequence[object]:
    known = _json_of(content, place)
    text = _read(content, place.text_offset, place.text_length).decode("utf-8", "replace")
    caption, url = text or _text(known, "caption"), _text(known, "url")
    uid = _text(known, "uid")
    if not _UID.fullmatch(uid):
        uid = xxhash.xxh3_128_hexdigest(f"{source.path}\n{key}".encode())
    values = {kind: _text(known, kind) for kind in FACETS}
    values |= {"site": site_of(url), "shard": storage.stem(source.path)}
    tags = " ".join(index.tag("samples", kind, value) for kind, value in values.items() if value)
    return (
        uid, key, number, *place[:5], caption, url, _text(known, "page_url"), tags,
        _number(known, "width"), _number(known, "height"), place.length, None,
        hash_of(known.get("phash")),
    )  # fmt: skip


def _json_of(content: IO[bytes], place: Place) -> dict[str, Any]:
    try:
        return untrusted.parse_row(_read(content, place.json_offset, place.json_length) or b"{}")
    except ValueError:
        return {}


def _read(file: IO[bytes], offset: int, length: int) -> bytes:
    if not length or length > untrusted.MAX_JSON:
        return b""
    file.seek(offset)
    return file.read(length)


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    return value if isinstance(value, str) else ""


def _number(row: dict[str, Any], name: str) -> int | None:
    value = row.get(name)
    return value if isinstance(value, int) and abs(value) < 1 << 40 else None
