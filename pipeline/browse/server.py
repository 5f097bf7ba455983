"""The server of `openwit browse`: pages of an index as JSON, pictures by byte range, and the static page."""

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import pyarrow as pa
from aiohttp import web

from pipeline import schemas, status, storage, untrusted
from pipeline.browse.guard import Guard
from pipeline.images.headers import sniff
from pipeline.index.place import Dataset
from pipeline.index.search import MOST, Filter, Search
from pipeline.index.tables import FACETS

T = TypeVar("T")

_FILES: Final = {"page.html": "text/html", "app.js": "text/javascript", "style.css": "text/css"}
_THREADS: Final = 4
_LIMIT: Final = 60
SELECTIONS: Final = "selections"
"""Folder of a run in which exported lists lie."""


class Server:
    """Answer questions about one dataset."""

    def __init__(self, of: Dataset, path: Path | None, guard: Guard) -> None:
        self._of, self._path, self._guard = of, path, guard
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="openwit-browse")
        self._local = threading.local()

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(middlewares=[self._guard.middleware], client_max_size=4 << 20)
        for name in _FILES:
            app.router.add_get("/" if name == "page.html" else f"/{name}", partial(self._file, name))
        app.router.add_get("/favicon.ico", self._no_icon)
        app.router.add_get("/api/info", self._json(self.info))
        app.router.add_get("/api/samples", self._json(self.samples))
        app.router.add_get("/api/sample/{uid}", self._json(self.sample))
        app.router.add_get("/api/image/{uid}", self._image)
        app.router.add_get("/api/facets", self._json(self.facets))
        app.router.add_get("/api/queries", self._json(self.queries))
        app.router.add_get("/api/query/{query}", self._json(self.query))
        app.router.add_get("/api/histogram", self._json(self.histogram))
        app.router.add_get("/api/live", self._json(self.live))
        app.router.add_post("/api/export", self._export)
        return app

    async def _file(self, name: str, request: web.Request) -> web.Response:
        del request
        body = (Path(__file__).parent / name).read_bytes()
        return web.Response(body=body, content_type=_FILES[name], charset="utf-8")

    async def _no_icon(self, request: web.Request) -> web.Response:
        del request
        return web.Response(status=204)

    async def _in_thread(self, action: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, action, *arguments)

    def _json(self, action: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
        """Return a handler that answers with a function's value; what it refuses is 400, an absence 404."""

        async def handler(request: web.Request) -> web.Response:
            try:
                found = await self._in_thread(action, request)
            except ValueError as error:
                raise web.HTTPBadRequest(text=str(error)) from None
            except LookupError as error:
                raise web.HTTPNotFound(text=str(error.args[0])) from None
            except TimeoutError as error:
                raise web.HTTPServiceUnavailable(text=str(error)) from None
            return web.json_response(found)

        return handler

    @property
    def _search(self) -> Search:
        """Return this thread's connection to the index; LookupError if there is none yet."""
        if self._path is None:
            raise LookupError("there is no index yet: the crawl is under way")
        found = getattr(self._local, "search", None)
        if found is None:
            found = self._local.search = Search(self._path)
        assert isinstance(found, Search), "this thread's own"
        return found

    def info(self, request: web.Request) -> dict[str, Any]:
        """Return what the page needs to know of the dataset."""
        del request
        is_run = self._of.layout is not None
        if self._path is None:
            return {"name": self._of.name, "is_run": is_run, "is_indexed": False}
        search = self._search
        kinds = [kind for kind in (*FACETS, "reason", "stage") if self._has(kind)]
        return {
            "name": self._of.name, "is_run": is_run, "is_indexed": True, "facets": kinds,
            "samples": search.page(Filter(), 0, 0).total, "numbers": search.numbers,
            "rejects": search.page(Filter(), 0, 0, "rejects").total,
            "queries": bool(search.queries("", 1)),
        }  # fmt: skip

    def _has(self, kind: str) -> bool:
        search = self._search
        return bool(search.facets(kind, 1) or search.facets(kind, 1, "rejects"))

    def samples(self, request: web.Request) -> dict[str, Any]:
        """Return a page of samples, or of rejected rows where a reason, or rejected=1, is asked for."""
        wanted = self._filter(request.query)
        table = "rejects" if {"reason", "stage", "rejected"} & set(request.query) else "samples"
        offset, limit = (_whole(request.query.get(name), default) for name, default in _PAGING)
        if request.query.get("count"):
            page = self._search.count(wanted, table)
        else:
            page = self._search.page(wanted, offset, limit, table)
        return {"total": page.total, "is_exact": page.is_exact, "samples": [_shown(row) for row in page.rows]}

    def _filter(self, given: Any) -> Filter:
        """Return the filter of a request's parameters; ValueError for what is none."""
        query, number = given.get("query", ""), None
        if query:
            number = self._search.query_number(query)
            if number is None:
                raise ValueError(f"no query is called {query!r}")
        bounds: dict[str, dict[str, float]] = {"min_": {}, "max_": {}}
        for name, value in given.items():
            if name[:4] in bounds and value:
                bounds[name[:4]][name[4:]] = _real(name, value)
        kinds = (*FACETS, "reason", "stage")
        return Filter(
            text=given.get("q", ""), query=number, sort=given.get("sort", ""),
            facets={kind: given[kind] for kind in kinds if given.get(kind)},
            least=bounds["min_"], most=bounds["max_"],
        )  # fmt: skip

    def sample(self, request: web.Request) -> dict[str, Any]:
        """Return all that is known of one sample: its KEY.json, its queries, what was merged into it."""
        uid = request.match_info["uid"]
        row = self._search.sample(uid)
        rejected = [_shown(one) for one in self._search.rejects_of(uid)]
        if row is None:
            if not rejected:
                raise LookupError("no such sample")
            return {"uid": uid, "rejected": rejected}
        stored: dict[str, Any] = {}
        if row["json_length"]:
            try:
                stored = untrusted.parse_row(self._bytes(row, "json_offset", "json_length"))
            except ValueError:
                stored = {}
        numbers = [int(tag[1:]) for tag in row["tags"].split() if tag[0] == "q"]
        kept = set(stored.get("query_ids") or [])
        queries = [one | {"keeps": one["id"] in kept} for one in self._search.queries_of(numbers[:MOST])]
        return {
            **_shown(row), "caption": row["caption"], "shard": self._search.shard(row["shard"]),
            "stored": stored, "queries": queries, "rejected": rejected,
        }  # fmt: skip

    def _bytes(self, row: dict[str, Any], offset: str = "offset", length: str = "length") -> bytes:
        start = row[offset]
        path = self._search.shard(row["shard"])
        return storage.read_ranges([(path, start, start + row[length])])[0]

    async def _image(self, request: web.Request) -> web.Response:
        """Answer with a sample's picture as it is stored, if it is one that browsers take for a picture."""

        def read() -> bytes | None:
            row = self._search.sample(request.match_info["uid"])
            return None if row is None else self._bytes(row)

        data = await self._in_thread(read)
        kind = sniff(data) if data else ""
        if data is None or kind not in ("jpeg", "png", "gif", "webp", "avif", "bmp"):
            raise web.HTTPNotFound(text="no such picture")
        return web.Response(body=data, content_type=f"image/{kind}")

    def facets(self, request: web.Request) -> list[dict[str, Any]]:
        """Return the commonest values of a facet, or those that begin with q."""
        given = request.query
        table = "rejects" if given.get("of") == "rejects" else "samples"
        limit = _whole(given.get("limit"), _LIMIT)
        return self._search.facets(given.get("kind", ""), limit, table, given.get("q", ""))

    def queries(self, request: web.Request) -> list[dict[str, Any]]:
        """Return queries by their words."""
        given = request.query
        offset, limit = (_whole(given.get(name), default) for name, default in _PAGING)
        return self._search.queries(given.get("q", ""), limit, offset, given.get("sort") or "-kept")

    def query(self, request: web.Request) -> dict[str, Any]:
        """Return a query, and a page of its samples by priority: first those that it keeps."""
        number = self._search.query_number(request.match_info["query"])
        if number is None:
            raise LookupError("no such query")
        offset, limit = (_whole(request.query.get(name), default) for name, default in _PAGING)
        found = self._search.queries_of([number])[0]
        rows = self._search.ranked(number, offset, min(limit, MOST))
        return {
            "query": found, "total": found["present"], "kept": found["kept"],
            "samples": [_shown(row) for row in rows],
        }  # fmt: skip

    def histogram(self, request: web.Request) -> list[tuple[float, int]]:
        """Return the distribution of a numeric column."""
        return self._search.histogram(request.query.get("column", ""))

    def live(self, request: web.Request) -> dict[str, Any]:
        """Return how far the crawl is, as `openwit status --json` prints it."""
        del request
        if self._of.layout is None:
            raise LookupError("not a run of openwit")
        return status.state_of(self._of.name, time.time())

    async def _export(self, request: web.Request) -> web.Response:
        """Write the uids of a selection or filter as Parquet, for --keep or --drop; answer with its path."""
        given = await request.json()
        if not isinstance(given, dict) or not isinstance(name := given.get("name"), str):
            raise web.HTTPBadRequest(text="name is missing")
        if not name.replace("-", "").replace("_", "").isalnum() or len(name) > 80:
            raise web.HTTPBadRequest(text="a name has letters, digits, - and _")
        uids = given.get("uids")
        if uids is not None and not (isinstance(uids, list) and all(isinstance(uid, str) for uid in uids)):
            raise web.HTTPBadRequest(text="uids is a list of strings")

        def write() -> dict[str, Any]:
            chosen = uids
            if chosen is None:
                filters = {key: value for key, value in given.items() if isinstance(value, str)}
                chosen = list(self._search.uids(self._filter(filters)))
            folder = self._of.name if self._of.layout is not None else "."
            path = storage.join(folder, SELECTIONS, f"{name}.parquet")
            schemas.write_table(path, pa.table({"uid": pa.array(sorted(set(chosen)), pa.string())}))
            return {"path": path, "samples": len(set(chosen))}

        try:
            return web.json_response(await self._in_thread(write))
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None


_PAGING: Final = (("offset", 0), ("limit", _LIMIT))


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row without what only the server needs."""
    hidden = ("id", "tags", "suffix", "offset", "length", "json_offset", "json_length", "shard")
    return {name: value for name, value in row.items() if name not in hidden}


def _whole(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdigit() or len(text) > 15:
        raise ValueError("offset and limit are whole numbers")
    return int(text)


def _real(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} is not a number") from None
