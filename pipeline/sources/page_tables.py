"""Pages that the crawl fetched itself: their images as tables, written by one stage and read by the next."""

from collections.abc import Iterable, Iterator
from typing import cast

from pipeline import schemas
from pipeline.sources.records import Image, Kind


def write(path: str, images: Iterable[tuple[int, Image]]) -> int:
    """Publish images, each with the position of its page; return how many."""
    rows = [
        (
            position, _text(image.url), [kind for kind, _ in image.texts],
            [_text(text) for _, text in image.texts], _text(image.page_url), image.reason or "",
            _text(image.detail), _text(image.opt_out), _text(image.page_lang), image.rights,
        )
        for position, image in images
    ]  # fmt: skip
    schemas.write_table(path, schemas.to_table(rows, schemas.IMAGE_ROWS))
    return len(rows)


def _text(text: str) -> str:
    """Return the text without characters that UTF-8 cannot encode."""
    return text.encode("utf-8", "replace").decode()


def read(path: str) -> Iterator[Image]:
    """Yield the images that `write` wrote."""
    for row in schemas.read_table(path).to_pylist():
        kinds = cast(list[Kind], row["kinds"])
        texts = tuple(zip(kinds, row["texts"], strict=True))
        image = Image(row["url"], texts, row["page_url"], None, row["reason"] or None, row["detail"])
        yield image._replace(opt_out=row["opt_out"], page_lang=row["page_lang"], rights=row["rights"])


def unavailable(page_url: str, detail: str) -> Image:
    """Stand for a page that could not be had; `detail` says why."""
    return Image("", (), page_url, None, "page_unavailable", detail)
