"""Sources of (image reference, texts): crawl archives, HTML folders and URL lists, behind `plan` and `read`.

`plan` turns the user's arguments into pieces, `read` yields the images of one piece. One bad record never
ends a file: it is an Image with a reason. OSError means that the file cannot be had: try the piece again.
"""

from collections.abc import Collection, Iterator
from urllib.parse import urlsplit

from pipeline import storage
from pipeline.images.headers import FORMATS
from pipeline.options.sources import Format, SourceOptions
from pipeline.schemas import Piece
from pipeline.sources import page_images, page_tables, table, warc, wat
from pipeline.sources.inputs import open_stored
from pipeline.sources.plan import listed_pages, page_url, plan
from pipeline.sources.records import Image, Kind, bad_record

__all__ = ["Format", "Image", "Kind", "Piece", "SourceOptions", "plan", "read"]


def read(piece: Piece, options: SourceOptions, formats: Collection[str] = FORMATS) -> Iterator[Image]:
    """Yield the images of a piece, in the order of the file; OSError if the file cannot be opened.

    `formats` are the accepted image formats: a page may offer a picture in several.
    """
    if piece.format == "html":
        yield from _read_pages(piece, formats)
    elif piece.format == "pages":
        yield from page_tables.read(piece.path)
    elif piece.format in ("wat", "warc"):
        with open_stored(piece.path) as file:
            yield from wat.read(file, piece) if piece.format == "wat" else warc.read(file, piece, formats)
    elif options.empty_captions:
        yield from map(_with_caption, table.read(piece, options))
    else:
        yield from table.read(piece, options)


def _with_caption(image: Image) -> Image:
    """Give a row without a caption an empty caption."""
    return image if image.texts else image._replace(texts=(("caption", ""),))


def _read_pages(piece: Piece, formats: Collection[str]) -> Iterator[Image]:
    if piece.end < 0:  # a page of the web
        with open_stored(piece.path) as file:
            url = urlsplit(piece.path)._replace(fragment="").geturl()
            yield from page_images.images(file.read(page_images.MAX_HTML), url, "", (), formats)
        return
    root, names = listed_pages(piece.path)
    for name in names[piece.start : piece.end]:
        try:
            with storage.open_input(storage.join(root, name)) as file:
                data = file.read(page_images.MAX_HTML)
        except OSError as error:
            yield bad_record(f"{name}: {error}")
            continue
        content_type = "application/xhtml+xml" if name.lower().endswith(".xhtml") else ""
        yield from page_images.images(data, page_url(piece.base_url, name), content_type, (), formats)
