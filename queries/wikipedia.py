"""Read a Wikipedia dump: cut it into pieces that are read in parallel, and yield their pages.

The dump is MediaWiki's export XML (https://www.mediawiki.org/xml/export-0.11/), one revision a page, written
by one program in one form: a `<page>` and a `</page>` each on a line, text escaped. So the bytes are searched
for these, which costs nothing beside the decompression.

A multistream dump is a sequence of many bzip2 streams of 100 whole pages; the index beside it names where
each begins.
"""

import bz2
import posixpath
import re
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final, NamedTuple

from pipeline import storage
from queries.parts import DumpPiece

PIECE_BYTES: Final = 48 << 20
"""Compressed bytes of a multistream dump in one piece: about 200 MB of XML, 12 s of one core."""

_CHUNK: Final = 1 << 20
_BLOCK: Final = 8 << 20  # decompressed at a time: a megabyte of bzip2 can hold gigabytes
# MediaWiki refuses pages above 2 MB; with every character escaped and metadata a page stays far below this.
_MAX_PAGE: Final = 64 << 20
_STREAM_MAGIC: Final = re.compile(rb"BZh[1-9]1AY&SY")
_CHARACTER: Final = re.compile(rb"&#(x?)([0-9a-fA-F]+);")
_MULTISTREAM: Final = re.compile(r"(.*multistream)(\d*)\.xml(.*)")  # of a dump's file names
_REDIRECT: Final = re.compile(rb'<redirect title="([^"]*)"')
_NAMESPACE: Final = re.compile(rb'<namespace key="(-?\d+)"[^>/]*>([^<]*)<')


class Article(NamedTuple):
    """Hold one page of the main namespace; a redirect has a target and no text."""

    title: str
    redirect: str | None
    text: str


@dataclass(frozen=True, kw_only=True)
class Wiki:
    """Hold the statements of a dump's head about its wiki."""

    domain: str = ""
    """For instance en.wikipedia."""
    main_page: str = "Main Page"
    images: frozenset[str] = frozenset({"file", "image", "media"})
    categories: frozenset[str] = frozenset({"category"})
    namespaces: frozenset[str] = frozenset()
    """Lower-case names of all namespaces but the main namespace."""


def plan(paths: list[str], piece_bytes: int = PIECE_BYTES) -> list[DumpPiece]:
    """Return the pieces of a dump's files; an index lying beside a file, or named with it, is used, not read
    as a dump. ValueError for a file that is not .xml or .xml.bz2."""
    pieces: list[DumpPiece] = []
    for path in paths:
        name = path.rsplit("/", 1)[-1]
        if "-index" in name:
            continue
        size = storage.file_info(path).size
        index = index_path(path)
        if index is not None:
            cuts = _even_cuts(_stream_offsets(index), size, piece_bytes)
        elif name.endswith(".bz2"):
            cuts = [0]  # one stream holds no place to start from
        elif ".xml" in name:
            cuts = list(range(0, size, piece_bytes)) or [0]
        else:
            raise ValueError(f"{path}: not a dump; expected pages-articles[-multistream].xml.bz2 or .xml")
        for start, end in zip(cuts, [*cuts[1:], size], strict=True):
            pieces.append(DumpPiece(name=f"{len(pieces):05d}", path=path, start=start, end=end))
    return pieces


def index_path(path: str) -> str | None:
    """Return the multistream index beside a dump file, or None."""
    found = _MULTISTREAM.fullmatch(posixpath.basename(path))
    if found is None:
        return None
    index = storage.join(posixpath.dirname(path), f"{found[1]}-index{found[2]}.txt{found[3]}")
    plain = storage.sibling(index, "") if index.endswith(".bz2") else index
    return next((file for file in (index, plain) if storage.exists(file)), None)


def _stream_offsets(index: str) -> list[int]:
    """Return the distinct offsets in an index of `offset:page id:title` lines."""
    offsets = {0}
    with storage.open_input(index) as raw:
        file: IO[bytes] = bz2.BZ2File(raw) if index.endswith(".bz2") else raw
        previous = b""
        for number, line in enumerate(file, 1):
            offset, colon, _ = line.partition(b":")
            if offset != previous:
                if not colon or not offset.isdigit():
                    raise ValueError(f"{index}, line {number}: expected offset:page id:title")
                offsets.add(int(offset))
                previous = offset
    return sorted(offsets)


def _even_cuts(offsets: list[int], size: int, piece_bytes: int) -> list[int]:
    """Return a subset of `offsets`, each at least `piece_bytes` after the previous offset."""
    cuts = [0]
    for offset in offsets:
        if offset >= cuts[-1] + piece_bytes and offset < size:
            cuts.append(offset)
    return cuts


def read_pages(piece: DumpPiece, damage: Callable[[str], None]) -> Iterator[Article]:
    """Yield the main namespace's pages that begin in a piece; call `damage` for each fault passed over."""
    blocks = _bz2_blocks(piece, damage) if piece.path.endswith(".bz2") else _plain_blocks(piece)
    for page in _page_bytes(blocks, damage):
        parsed = _parse(page)
        if parsed is not None:
            yield parsed


def read_site(path: str) -> Wiki:
    """Return the statements of a dump about its wiki; a dump without a head is taken for English."""
    head = b""
    for block in _blocks_of(path):
        head += block
        if b"</siteinfo>" in head or len(head) > _CHUNK:
            break
    names = {int(key): _decode(name).lower() for key, name in _NAMESPACE.findall(head)}
    base = re.search(rb"<base>https?://([^/<]*?)(?:\.org)?/(?:wiki/)?([^<]*)</base>", head)
    return Wiki(
        domain=_decode(base[1]) if base else "",
        main_page=urllib.parse.unquote(_decode(base[2])).replace("_", " ") if base else "Main Page",
        # The English names work in every wiki.
        images=Wiki.images | {names[key] for key in (6, -2) if key in names},
        categories=Wiki.categories | {names[key] for key in (14,) if key in names},
        namespaces=frozenset(name for name in names.values() if name),
    )


def _blocks_of(path: str) -> Iterator[bytes]:
    piece = DumpPiece(name="", path=path, start=0, end=storage.file_info(path).size)
    return _bz2_blocks(piece, lambda _: None) if path.endswith(".bz2") else _plain_blocks(piece)


def _plain_blocks(piece: DumpPiece) -> Iterator[bytes]:
    """Yield the bytes from the first page that begins in a piece to the end of its last page."""
    with storage.open_input(piece.path) as file:
        file.seek(piece.start)
        position, tail = piece.start, b""
        while block := file.read(_CHUNK):
            if position + len(block) <= piece.end:
                yield block
                position += len(block)
                continue
            # `tail` begins where the next piece does: stop before the first page that begins there.
            inside = max(piece.end - position, 0)
            if inside:
                yield block[:inside]
            tail += block[inside:]
            position += len(block)
            stop = tail.find(b"<page>")
            if stop >= 0:
                yield tail[:stop]
                return
            keep = len(b"<page>") - 1
            yield tail[:-keep]
            tail = tail[-keep:]
        yield tail


def _bz2_blocks(piece: DumpPiece, damage: Callable[[str], None]) -> Iterator[bytes]:
    """Yield decompressed bytes; after a damaged stream go on with the next, as far as one can be found."""
    with storage.open_input(piece.path) as file:
        file.seek(piece.start)
        left = piece.end - piece.start
        decompressor = bz2.BZ2Decompressor()
        fresh = True  # nothing of the current stream has been read
        data = recent = b""
        while True:
            if not data and decompressor.needs_input:
                data = file.read(min(_CHUNK, left))
                left -= len(data)
                if not data:
                    break
            if data:
                recent = data[1:] if fresh else data  # without the head of the stream that is being read
            try:
                block = decompressor.decompress(data, _BLOCK)
            except OSError as error:
                damage(f"{piece.path}: {error} before byte {piece.end - left}")
                yield b"\n</page>\n"  # ends the page that was cut, so that it is not joined with the next
                data, more = _next_stream(recent, file, left)
                left -= more
                decompressor, fresh = bz2.BZ2Decompressor(), True
                continue
            data, fresh = b"", False
            if block:
                yield block
            if decompressor.eof:
                data = decompressor.unused_data.lstrip(b"\0")  # some tools pad to a block
                decompressor, fresh = bz2.BZ2Decompressor(), True
        if not fresh:
            damage(f"{piece.path}: the bzip2 stream ends early")


def _next_stream(data: bytes, file: IO[bytes], left: int) -> tuple[bytes, int]:
    """Return the bytes from the next stream's head on, b"" if there is none, and how many more were read."""
    more = 0
    while (match := _STREAM_MAGIC.search(data)) is None:
        block = file.read(min(_CHUNK, left - more))
        if not block:
            return b"", more
        more += len(block)
        data = data[-9:] + block
    return data[match.start() :], more


def _page_bytes(blocks: Iterator[bytes], damage: Callable[[str], None]) -> Iterator[bytes]:
    """Yield the text between each `<page>` and its `</page>`."""
    buffer = b""
    for block in blocks:
        buffer += block
        position = 0
        while (end := buffer.find(b"</page>", position)) >= 0:
            start = buffer.rfind(b"<page>", position, end)
            if start >= 0:
                yield buffer[start + len(b"<page>") : end]
            position = end + len(b"</page>")
        buffer = buffer[position:]
        if len(buffer) > _MAX_PAGE:
            damage(f"a page of more than {_MAX_PAGE} bytes was left out")
            buffer = b""
    if b"<page>" in buffer:
        damage("the last page is cut off")


def _parse(page: bytes) -> Article | None:
    """Return a page of the main namespace, None for another."""
    if _between(page, b"<ns>", b"</ns>") != b"0":
        return None
    title = _decode(_between(page, b"<title>", b"</title>"))
    redirect = _REDIRECT.search(page)
    if redirect is not None:
        return Article(title, _decode(redirect[1]), "")
    start = page.find(b"<text")
    if start < 0:
        return Article(title, None, "")
    start = page.find(b">", start) + 1
    if page[start - 2 : start] == b"/>":
        return Article(title, None, "")
    end = page.find(b"</text>", start)
    return None if end < 0 else Article(title, None, _decode(page[start:end]))  # None: cut off by damage


def _between(data: bytes, opening: bytes, closing: bytes) -> bytes:
    start = data.find(opening)
    if start < 0:
        return b""
    start += len(opening)
    return data[start : data.find(closing, start)]


def _decode(data: bytes) -> str:
    """Resolve the escapes of XML; bytes that are not UTF-8 become U+FFFD."""
    if b"&" in data:
        if b"&#" in data:
            data = _CHARACTER.sub(_character, data)
        data = data.replace(b"&lt;", b"<").replace(b"&gt;", b">").replace(b"&quot;", b'"')
        data = data.replace(b"&apos;", b"'").replace(b"&amp;", b"&")
    return data.decode("utf-8", "replace")


def _character(match: re.Match[bytes]) -> bytes:
    code = int(match[2], 16 if match[1] else 10) if match[1] or match[2].isdigit() else -1
    return chr(code).encode("utf-8", "replace") if 0 <= code < 0x110000 else match[0]
