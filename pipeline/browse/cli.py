"""`openwit browse`: index missing samples, serve the page, open it."""

import asyncio
import contextlib
import socket
import webbrowser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aiohttp import web
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline import config as parser
from pipeline import storage
from pipeline.browse.guard import Guard, is_loopback
from pipeline.browse.pairs import Pairs
from pipeline.browse.server import Server
from pipeline.cli_runtime import guarded
from pipeline.index import cli, place
from pipeline.index.search import Search
from pipeline.options.finished import BrowseConfig
from pipeline.terminal import output, terminal

if TYPE_CHECKING:
    from pipeline.browse.semantic import Semantic


def main(argv: Sequence[str], prog: str = "openwit browse") -> int:
    """Serve until Ctrl-C; return the exit code."""
    options, _ = parser.parse(BrowseConfig, parser.first_as("--run", argv), prog=prog)
    return guarded(prog, terminal(), "", lambda: browse(options))


def browse(options: BrowseConfig) -> int:
    """Renew the index if the run is finished, and serve."""
    of = place.dataset(options.run)
    if options.check:
        cli.show_check(of, options)
        return 0
    path: Path | None = None
    if of.layout is None or storage.exists(of.layout.manifest):
        console = terminal()
        path, refused = cli.renew(of, console)
        for sentence in refused:
            console.print(sentence, soft_wrap=True, markup=False, highlight=False)
    overlaps = [Pairs(folder) for folder in options.overlap]
    semantic = _semantic(path, options.checkpoint) if path and options.checkpoint else None
    with contextlib.suppress(KeyboardInterrupt):  # how it ends
        asyncio.run(serve(of, path, options, overlaps, semantic))
    return 0


def _semantic(path: Path, checkpoint: str) -> "Semantic":
    """Return the model with a vector of every picture; those that are missing are made now."""
    from pipeline.browse.semantic import Semantic  # imports torch

    found, search = Semantic(path, checkpoint), Search(path)
    try:
        with Progress(
            TextColumn("encoding pictures"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
            console=terminal(), transient=True,
        ) as shown:  # fmt: skip
            task = shown.add_task("encode", total=None)
            found.renew(search, lambda done, total: shown.update(task, completed=done, total=total))
    finally:
        search.close()
    return found


async def serve(
    of: place.Dataset, path: Path | None, options: BrowseConfig, overlaps: Sequence[Pairs] = (),
    semantic: "Semantic | None" = None,
) -> None:  # fmt: skip
    """Serve a dataset until the task is cancelled; OSError if the port is taken."""
    guard = Guard(host=options.host, port=options.port or _free_port(options.host))
    server = Server(of, path, guard, overlaps=overlaps, semantic=semantic, mask=options.mask_contacts)
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, guard.host, guard.port).start()
        console = output()
        console.print(f"{of.name} at {guard.url}", soft_wrap=True, highlight=False)
        if guard.needs_token:
            console.print("Other machines can reach it: everybody who has the address sees the dataset.")
        console.print("Ctrl-C ends it.")
        if options.open and is_loopback(options.host):
            await asyncio.to_thread(webbrowser.open, guard.url)
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as found:
        return int(found.getsockname()[1])
