"""Find the columns of a URL list: which of them hold image URLs and captions, or why it is refused."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import IO, Final, NamedTuple
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.foreign_text import DAMAGED, Line, Lines, text_of, what_it_is
from pipeline.options.sources import SourceOptions
from pipeline.sources import delimited
from pipeline.sources.cells import parsed
from pipeline.sources.inputs import open_stored

# Compared in lower case without _, - and spaces, first hit wins: LAION (URL, TEXT), DataComp and COYO
# (url, text), img2dataset (url, caption), RedCaps, WIT (image_url, caption_reference_description).
URL_NAMES: Final = ("url", "imageurl", "imgurl", "imagelink", "photoimageurl", "src", "image")
CAPTION_NAMES: Final = (
    *("caption", "text", "alttext", "alt", "imagecaption", "captions", "texts"),
    *("captionreferencedescription", "captionalttextdescription", "description", "title"),
)

_LEAST_OBJECTS: Final = 1000
_MOST_BYTES: Final = 64 << 20
"""Of a jsonl file, as far as one reads for the keys that its objects have: nulls are often left out."""
_MAX_NAMES: Final = 2000
_NO_TEXT: Final = "an evaluation of pictures reads such files; a crawl reads lists of URLs"


class Columns(NamedTuple):
    """The columns of one file that are read, by name."""

    url: str
    caption: str | None
    """None if there are no captions."""
    kept: tuple[str, ...]


class Listed(NamedTuple):
    """The columns of a list, and those that are read."""

    names: tuple[str, ...]
    """All columns; of a jsonl file all keys in its first objects."""
    columns: Columns
    has_header: bool = True
    """Whether the first record of a csv or tsv file holds the names."""


def find_columns(names: Sequence[str], options: SourceOptions) -> Columns:
    """Choose the URL and caption columns; ValueError names the columns that are there."""
    columns = _find_columns(tuple(names), options.url_col, options.caption_col, options.keep_columns)
    if columns.caption is None and not options.empty_captions:
        raise ValueError(
            f"no column looks like captions; {_there(names)}; name one with --caption-col, or take the rows "
            "without captions: --empty-captions, which is in --preset img2dataset"
        )
    return columns


def listed(path: str, format: str, options: SourceOptions) -> Listed | None:
    """Return the columns of a file, None if it is empty; ValueError says what else is wrong with it."""
    with open_stored(path) as file:
        if format == "parquet":
            return _of_parquet(file, path, options)
        try:
            with text_of(file) as (text, _):
                return of_text(text, path, format, options)
        except DAMAGED as error:
            raise ValueError(f"{path} is damaged or ends early: {error}") from None


def of_text(text: IO[bytes], path: str, format: str, options: SourceOptions) -> Listed | None:
    """Return the columns of a csv, tsv, jsonl or txt file that is read from its start."""
    if format == "txt":
        return _of_urls(text, path, options)
    return _of_jsonl(text, path, options) if format == "jsonl" else _of_delimited(text, path, format, options)


def hive_values(path: str) -> dict[str, str | None]:
    """Return the columns that the folders of a path hold, as in year=2024/part-0.parquet (Hive, Spark)."""
    found = (part.partition("=") for part in path.split("/")[:-1])
    return {
        name: None if value == "__HIVE_DEFAULT_PARTITION__" else unquote(value)
        for name, equals, value in found
        if equals and re.fullmatch(r"\w+", name)
    }


def _of_parquet(file: IO[bytes], path: str, options: SourceOptions) -> Listed:
    try:
        schema = pq.ParquetFile(file).schema_arrow
    except (pa.ArrowException, OSError, ValueError) as error:
        file.seek(0)
        kind = what_it_is(file.read(64))
        raise ValueError(f"{path} is not a parquet file{f' but {kind}' if kind else f': {error}'}") from None
    names = (*schema.names, *(name for name in hive_values(path) if name not in schema.names))
    columns = find_columns(names, options)
    if columns.url in schema.names:
        _refuse_type(path, "URL", columns.url, schema.field(columns.url).type, "--url-col")
    if columns.caption is not None and columns.caption in schema.names:
        kind = schema.field(columns.caption).type
        if not _is_list(kind):
            _refuse_type(path, "caption", columns.caption, kind, "--caption-col")
    return Listed(names, columns)


def _refuse_type(path: str, role: str, name: str, kind: pa.DataType, option: str) -> None:
    """Raise ValueError for a column of lists, structs or pictures where one text a row is needed."""
    shown = str(kind) if len(str(kind)) <= 80 else f"{str(kind)[:77]}..."
    if _is_list(kind):
        raise ValueError(
            f"{path}: the {role} column {name!r} holds lists ({shown}): write one row per {role} "
            f"(pandas: explode), or name another column with {option}"
        )
    if pa.types.is_struct(kind) and "bytes" in {kind.field(i).name for i in range(kind.num_fields)}:
        raise ValueError(
            f"{path}: the column {name!r} holds pictures ({shown}), not URLs; a crawl fetches pictures: "
            f"name a column of URLs with {option}"
        )
    if pa.types.is_nested(kind):
        raise ValueError(
            f"{path}: the {role} column {name!r} holds {shown}, not text; name another with {option}"
        )


def _is_list(kind: pa.DataType) -> bool:
    return (
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or pa.types.is_fixed_size_list(kind)
        or isinstance(kind, pa.ListViewType | pa.LargeListViewType)
    )


def _of_jsonl(text: IO[bytes], path: str, options: SourceOptions) -> Listed | None:
    """Gather the keys of the first objects, of more of them while a wanted column has not been seen."""
    names: dict[str, object] = {}
    objects = 0
    first: bytes | None = b""
    seen_any = ended = False
    try:
        for line in _lines(Lines(text)):
            if not seen_any:
                first, seen_any = line.data, True
            row = parsed(line.data)
            if isinstance(row, dict):
                objects += 1
                for name, value in row.items():
                    if len(names) < _MAX_NAMES and names.get(name) is None:
                        names[name] = value
            if line.offset >= _MOST_BYTES or (objects >= _LEAST_OBJECTS and not _missing(names, options)):
                break
        else:
            ended = True
    except DAMAGED:
        if not objects:
            raise
    if not seen_any:
        return None
    if not objects:
        _refuse_no_objects(path, first)
        return Listed((), Columns("", "", options.keep_columns))
    kept = () if not ended else options.keep_columns  # columns may come further down
    columns = find_columns(tuple(names), replace(options, keep_columns=kept))
    value = names.get(columns.url)
    if isinstance(value, list | dict):
        kind = "lists" if isinstance(value, list) else "objects"
        raise ValueError(
            f"{path}: the URL column {columns.url!r} holds {kind}, not text; name another with --url-col"
        )
    return Listed(tuple(names), columns._replace(kept=options.keep_columns))


def _lines(lines: Lines) -> Iterator[Line]:
    while True:
        lines.skip_blank()
        line = lines.read()
        if line is None:
            return
        if line.data is None or line.data.strip(b" \t\r\n"):
            yield line


def _missing(names: dict[str, object], options: SourceOptions) -> bool:
    """Return whether a column that is wanted has not been found among the names."""
    try:
        return find_columns(tuple(names), options).caption is None
    except ValueError:
        return True


def _refuse_no_objects(path: str, first: bytes | None) -> None:
    """Raise ValueError for a file that looks like JSON of another shape, or like no JSON."""
    start = (first or b"").lstrip()
    if start.startswith(b"["):
        raise ValueError(
            f"{path} is a JSON array; its columns are read from one object per line (JSON Lines): "
            "jq -c '.[]' FILE > FILE.jsonl"
        )
    if start.startswith(b"{"):
        raise ValueError(
            f"{path} has no object that stands on one line; its columns are read from one object per line "
            "(JSON Lines): jq -c . FILE > FILE.jsonl"
        )
    if first is not None:
        kind = what_it_is(first[:64])
        raise ValueError(f"{path} is {kind or 'no JSON'}: no line holds an object with columns")


def _of_urls(text: IO[bytes], path: str, options: SourceOptions) -> Listed | None:
    """Return the only column of a list of URLs, one per line; ValueError if it looks like another format."""
    first = next(_lines(Lines(text)), None)
    if first is None:
        return None
    start = (first.data or b"").strip()
    if kind := what_it_is(start[:64]):
        raise ValueError(f"{path} is {kind}")
    if b"\t" in start:
        raise ValueError(f"{path} has columns separated by tabs: give --source-format tsv")
    if not options.empty_captions:
        raise ValueError(
            f"{path} is text, which is read as image URLs without captions: take them with --preset "
            f"img2dataset or --empty-captions. Page URLs need --source-format pages, paths @{path}"
        )
    if options.caption_col is not None or options.keep_columns:
        raise ValueError(f"{path} holds only URLs, one per line: there are no columns to name")
    return Listed(("url",), Columns("url", None, ()), False)


def _of_delimited(text: IO[bytes], path: str, format: str, options: SourceOptions) -> Listed | None:
    first = next(delimited.records(Lines(text), format), None)
    if first is None:
        return None
    kind = what_it_is((first.data or b"")[:64])
    if kind:
        raise ValueError(f"{path} holds no columns; it is {kind}")
    found = delimited.fields(first, format)
    if isinstance(found, str):
        raise ValueError(f"{path}: its first line holds no column names: {found}")
    if any("\0" in field for field in found):
        raise ValueError(f"{path} is no text in UTF-8: there are zero bytes among its column names")
    names, has_header = header_names(found)
    try:
        return Listed(tuple(names), find_columns(names, options), has_header)
    except ValueError as error:
        raise ValueError(f"{path}: {error}{_other_separator(names, format)}") from None


def _other_separator(names: Sequence[str], format: str) -> str:
    if len(names) != 1:
        return ""
    found = next((c for c in ("\t", ";", "|", ",") if c in names[0]), None)
    if found is None:
        return ""
    if found in "\t,":
        return (
            f"; they look separated by {'tabs' if found == chr(9) else 'commas'}: give --source-format "
            + ("tsv" if format == "csv" else "csv")
        )
    return f"; they look separated by {found!r}: save the list with commas (csv) or tabs (tsv)"


def header_names(found: Sequence[str]) -> tuple[list[str], bool]:
    """Return the column names, and whether the first record holds them: a URL there means that it is data."""
    urls = [i for i, field in enumerate(found) if re.match("https?://", field.strip(), re.IGNORECASE)]
    if not urls:
        return [field.strip() for field in found], True
    names = [f"column {i}" for i in range(1, len(found) + 1)]
    # CC12M is url, caption and CC3M caption, url: the first other column is taken for the caption.
    caption = next((i for i in range(len(found)) if i != urls[0]), None)
    names[urls[0]] = "url"
    if caption is not None:
        names[caption] = "caption"
    return names, False


@lru_cache(maxsize=256)  # once per file, and per set of keys in jsonl
def _find_columns(
    names: tuple[str, ...], url_col: str | None, caption_col: str | None, kept: tuple[str, ...]
) -> Columns:
    there = _there(names)
    for column in (url_col, caption_col, *kept):
        if column is not None and column not in names:
            raise ValueError(f"there is no column {column!r}; {there}")
    simple: dict[str, str] = {}
    for name in names:
        simple.setdefault(re.sub(r"[\s_-]", "", name).lower(), name)
    url = url_col or next((simple[name] for name in URL_NAMES if name in simple), None)
    if url is None:
        raise ValueError(f"no column looks like image URLs; {there}; name one with --url-col")
    caption = caption_col or next(
        (simple[n] for n in CAPTION_NAMES if n in simple and simple[n] != url), None
    )
    return Columns(url, caption, kept)


def _there(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:100])) + (f" and {len(names) - 100} more" if len(names) > 100 else "")
    return f"the columns are: {shown or 'none'}"
