"""Serve the demonstration web on loopback: every site under an address of its own.

Linux answers on all of 127.0.0.0/8: each site is another host to a crawler, and its politeness is real. Where
only 127.0.0.1 exists (macOS), the sites differ by port.

The server is a child process, lest it share the crawler's interpreter lock. It ends with its parent, because
it reads from a pipe that then closes.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from aiohttp import web as http

from pipeline.demo.edge_cases import Answer
from pipeline.demo.web import SiteInfo, Web, load

_READY: Final = "ready"
_START_TIMEOUT_S: Final = 60
_TYPES: Final = {
    ".bmp": "image/bmp",
    ".gif": "image/gif",
    ".jpg": "image/jpeg",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".txt": "text/plain",
    ".webp": "image/webp",
    ".xml": "text/xml",
}


class Server(NamedTuple):
    """Hold a running server."""

    web: Web
    log_path: Path
    """JSON lines `{time, host, method, path, status, agent}`, one a request, written before the answer."""

    def url_of(self, site: str) -> str:
        """Return a site's root URL, with a slash at its end; KeyError for an unknown site."""
        return self.web.url_of(site)

    def requests(self) -> list[dict[str, object]]:
        """Return the access log so far."""
        return [json.loads(line) for line in self.log_path.read_text("utf-8").splitlines()]


@contextlib.contextmanager
def serve(web: Web, log_path: Path | None = None) -> Iterator[Server]:
    """Serve `web` in a child process until the block ends; RuntimeError if it cannot start.

    The log is appended to; its default place is `access.jsonl` in the web's folder.
    """
    log_path = (log_path or web.folder / "access.jsonl").resolve()
    log_path.touch()
    folder = str(web.folder.resolve())
    command = [sys.executable, "-m", "pipeline.demo.server", folder, "--log", str(log_path)]
    root = str(Path(__file__).resolve().parents[2])
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    assert child.stdin and child.stdout
    try:
        if child.stdout.readline().strip() != _READY:
            child.wait(_START_TIMEOUT_S)
            raise RuntimeError(
                f"the demonstration web cannot be served (exit status {child.returncode}, see above): "
                f"is another program using port {web.sites[0].port}? Build it again with another port"
            )
        yield Server(web, log_path)
    finally:
        child.stdin.close()
        try:
            child.wait(10)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        child.stdout.close()


class _Handler:
    """Answer requests from the files of a web and its table of special answers."""

    def __init__(self, web: Web, log_path: Path) -> None:
        self._log = log_path.open("a", encoding="utf-8", buffering=1)
        self._sites = {site.address: site for site in web.sites}
        self._answers = web.answers
        self._failed: Counter[tuple[str, str]] = Counter()
        # Only listed files are served: no request can name a path outside.
        self._files: dict[tuple[str, str], Path] = {}
        for site in web.sites:
            folder = web.folder / "sites" / site.name
            for path in sorted(p for p in folder.rglob("*") if p.is_file()):
                self._files[site.name, "/" + path.relative_to(folder).as_posix()] = path

    async def __call__(self, request: http.BaseRequest) -> http.StreamResponse:
        site = self._sites.get(request.host)
        path = request.rel_url.path
        response = http.Response(status=421) if site is None else await self._respond(site, path)
        line = {
            "time": round(time.time(), 3),
            "host": request.host,
            "method": request.method,
            "path": request.path_qs,
            "status": response.status,
            "agent": request.headers.get("User-Agent", ""),
        }
        self._log.write(json.dumps(line) + "\n")
        return response

    async def _respond(self, site: SiteInfo, path: str) -> http.Response:
        path = "/index.html" if path == "/" else path
        answer = self._answers.get((site.name, path), Answer())
        if answer.delay_s:
            await asyncio.sleep(answer.delay_s)
        if self._failed[site.name, path] < answer.fail_first:
            self._failed[site.name, path] += 1
            return http.Response(status=503, headers={"Retry-After": "1"})
        file = self._files.get((site.name, path))
        if file is None and answer.status == 200:
            return http.Response(status=404, text="not found\n", headers=site.headers)
        body = file.read_bytes() if file else b""
        headers = {"Content-Type": _content_type(path, site), **site.headers, **answer.headers}
        return http.Response(status=answer.status, body=body, headers=headers)


def _content_type(path: str, site: SiteInfo) -> str:
    if path.endswith(".html"):
        return f"text/html; charset={site.charset}"
    return _TYPES.get(Path(path).suffix, "application/octet-stream")


def _listen(address: str) -> socket.socket:
    host, port = address.rsplit(":", 1)
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    return listener


def _wait_for_end(then: Callable[[], object]) -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock would be held while Python shuts down
        pass
    with contextlib.suppress(RuntimeError):  # the loop has ended by itself
        then()


async def _run(web: Web, log_path: Path) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    # A pipe from the parent is at its end when the parent closes it or dies.
    at_end = functools.partial(loop.call_soon_threadsafe, stop.set)
    threading.Thread(target=_wait_for_end, args=(at_end,), daemon=True).start()
    runner = http.ServerRunner(http.Server(_Handler(web, log_path)))
    await runner.setup()
    for site in web.sites:
        await http.SockSite(runner, _listen(site.address), backlog=512).start()
    sys.stdout.write(_READY + "\n")
    sys.stdout.flush()
    await stop.wait()
    await runner.cleanup()


def main() -> None:
    """Serve a web that was built before, until standard input ends."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.demo.server", description=main.__doc__)
    parser.add_argument("folder", type=Path, help="what pipeline.demo.web.build wrote")
    parser.add_argument("--log", type=Path, help="the access log (default: access.jsonl in the folder)")
    options = parser.parse_args()
    try:
        asyncio.run(_run(load(options.folder), options.log or options.folder / "access.jsonl"))
    except OSError as error:  # no such folder, or an address in use: the message says which
        sys.exit(f"cannot serve {options.folder}: {error}")


if __name__ == "__main__":
    main()
