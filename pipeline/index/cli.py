"""`openwit index`: make every picture of a dataset reachable at once, and its captions searchable."""

from collections.abc import Sequence
from typing import Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from pipeline import config as parser
from pipeline import storage
from pipeline.cli_runtime import guarded
from pipeline.formats import count, size
from pipeline.index import place
from pipeline.index.offsets import write_energon, write_webshart
from pipeline.options.finished import BrowseConfig, IndexConfig
from pipeline.terminal import Terminal, output, show_places, terminal


def main(argv: Sequence[str], prog: str = "openwit index") -> int:
    """Build or renew an index; return the exit code."""
    options, _ = parser.parse(IndexConfig, parser.first_as("--run", argv), prog=prog)
    return guarded(prog, terminal(), "", lambda: index(options))


def index(options: IndexConfig) -> int:
    """Build or renew an index and show what it holds; 1 if an archive could not be read."""
    of = place.dataset(options.run)
    if of.layout is not None and not storage.exists(of.layout.manifest):
        raise ValueError(f"{of.name} is not finished: openwit browse shows it while it runs")
    if options.check:
        show_check(of, options)
        return 0
    path, refused = renew(of, terminal())
    console = output()
    for sentence in refused:
        console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    from pipeline.index.question import Filter
    from pipeline.index.search import Search

    search = Search(path)
    table = Table("", "rows", title=f"index of {of.name}")
    for name in ("samples", "rejects"):
        table.add_row(name, f"{search.page(Filter(), 0, table=name).total:,}")
    console.print(table)
    places_shown = [("index", f"{path} ({size(path.stat().st_size)})")]
    if options.webshart:
        written = write_webshart(tars(of), options.webshart)
        places_shown.append(("offsets", f"{options.webshart} ({count(written, 'file')})"))
    if options.energon:
        written = write_energon(tars(of), options.energon)
        places_shown.append(("offsets", f"{options.energon} ({count(written, 'file')})"))
    show_places(console, [*places_shown, ("look", f"openwit browse {of.name}")])
    return 1 if refused else 0


def show_check(of: place.Dataset, options: IndexConfig | BrowseConfig) -> None:
    """Print which index would be made from which files, and the effective configuration."""
    shards = tars(of)
    path = place.local_file(of)
    known = f"the index {path} is renewed" if path.exists() else f"an index is built, {path}"
    console = output()
    console.print(f"{of.name}: {count(len(shards), 'shard')}; {known}. Nothing was written.", soft_wrap=True)
    console.print(parser.to_toml(parser.effective(options)), soft_wrap=True, highlight=False, markup=False)


def tars(of: place.Dataset) -> Sequence[str]:
    """Return the archives of a dataset."""
    return of.shards if of.layout is None else storage.glob(storage.join(of.layout.shards, "*.tar"))


def renew(of: place.Dataset, console: Terminal) -> Any:
    """Renew an index with a bar on the terminal; return `place.renew`'s result."""
    with Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total} shards"),
        TextColumn("{task.fields[rows]:,} rows"), TimeElapsedColumn(), console=console, transient=True,
    ) as shown:  # fmt: skip
        task = shown.add_task("index", total=None, rows=0)
        return place.renew(
            of, lambda done, total, rows: shown.update(task, completed=done, total=total, rows=rows)
        )
