"""Small pictures of samples, from the shards."""

import io
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from PIL import Image

from pipeline import schemas, storage
from pipeline.images import faces
from pipeline.shards import read_shard

_SIDE: Final = 160
_QUALITY: Final = 72


def thumbnail(jpeg: bytes, boxes: Sequence[faces.Box] = ()) -> bytes:
    """Return a JPEG of at most 160 pixels, some 4 KB; b"" if it cannot be decoded.

    boxes: of faces, which are blurred.
    """
    sink = io.BytesIO()
    try:
        with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
            if not boxes:
                image.draft("RGB", (2 * _SIDE, 2 * _SIDE))
            small = image.convert("RGB")
            if boxes:
                small = Image.fromarray(faces.blurred(np.asarray(small), list(boxes)))
    except (OSError, ValueError, Image.DecompressionBombError):
        return b""
    small.thumbnail((_SIDE, _SIDE), Image.Resampling.BICUBIC, reducing_gap=None)
    small.save(sink, "JPEG", quality=_QUALITY, optimize=True)
    return sink.getvalue()


def read(shards: str, keys: Iterable[tuple[str, str]]) -> dict[str, tuple[dict[str, Any], bytes]]:
    """Return row and thumbnail by key of some (shard, key); a shard is read up to its last wanted sample."""
    wanted: dict[str, set[str]] = {}
    for shard, key in keys:
        wanted.setdefault(shard, set()).add(key)
    found: dict[str, tuple[dict[str, Any], bytes]] = {}
    for shard, own in sorted(wanted.items()):
        base = storage.join(shards, shard)
        rows = {row["key"]: row for row in _rows(f"{base}.parquet", own)}
        with storage.open_input(f"{base}.tar") as file:
            for sample in read_shard(file):
                if sample.key in own:
                    row = rows[sample.key]
                    found[sample.key] = (row, thumbnail(sample.jpg, row.get("faces") or ()))
                if sample.key >= max(own):
                    break
    return found


def _rows(path: str, keys: set[str]) -> list[dict[str, Any]]:
    table = schemas.read_table(path)
    places = [index for index, key in enumerate(table["key"].to_pylist()) if key in keys]
    return table.take(places).to_pylist()  # type: ignore[no-any-return]
