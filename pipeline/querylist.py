"""Read a query list: Parquet as `openwit queries` writes it, text with one query per line, or a JSON list."""

from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import storage, untrusted
from pipeline.captions.match import Rule, tokens
from pipeline.foreign_text import DAMAGED, listed, text_of
from pipeline.options.presets import ALL

EVERYTHING: Final = ["*"]
"""The only query of `--queries all`."""
_MAX_JSON: Final = 1 << 30  # bytes
_MAX_BYTES: Final = 512 << 20  # of a list as text: 500,000 queries have 10 MB
NO_CAP: Final = 2**40
"""Samples per query where nothing is to be left out."""


def report_of(path: str) -> str:
    """Return the page that `openwit queries` writes beside a list."""
    return storage.sibling(path, "_report.html")


def load(path: str) -> list[str]:
    """Return the queries in order; their positions are their ids. Raise ValueError for anything that is no
    list."""
    if path == ALL:
        return list(EVERYTHING)
    if path.endswith(".parquet"):
        with storage.open_input(path) as file:
            table = pq.read_table(file)
        if "query" not in table.column_names:
            raise ValueError(f"{path} has no column 'query'; it has {', '.join(table.column_names)}")
        if "query_id" in table.column_names:
            ids = table["query_id"].to_pylist()
            if ids != list(range(len(ids))):
                raise ValueError(f"{path}: query_id must be 0..{len(ids) - 1} in file order")
        queries = table["query"].cast(pa.string()).to_pylist()
    elif path.endswith(".json"):
        queries = untrusted.load_json(path, _MAX_JSON)
        if not isinstance(queries, list):
            raise ValueError(f"{path} is not a JSON list of strings")
    else:
        try:
            with storage.open_input(path) as file, text_of(file) as (text, _):
                queries = [line for _, line in listed(text, _MAX_BYTES)]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is not text in UTF-8: {error}") from None
        except DAMAGED as error:
            if isinstance(error, FileNotFoundError | IsADirectoryError):
                raise
            raise ValueError(f"{path} is damaged or ends early: {error}") from None
        except ValueError as error:
            raise ValueError(f"{path} is no list of queries, one per line: {error}") from None
    if not queries or not all(isinstance(query, str) for query in queries):
        raise ValueError(f"{path} must hold at least one query, and only strings")
    return list(queries)


def save(path: str, queries: list[str]) -> None:
    """Publish the run's own copy of the list, which every worker reads."""
    table = pa.table({"query_id": pa.array(range(len(queries)), pa.int32()), "query": queries})
    with storage.atomic_output(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def normalised(queries: list[str], rule: Rule) -> list[str]:
    """Return the form in which queries are matched and hashed: under MetaCLIP's rule as they are."""
    return list(queries) if rule == "metaclip" else [" ".join(tokens(query)) for query in queries]
