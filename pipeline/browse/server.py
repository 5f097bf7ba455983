"""The server of `openwit browse`: answers as JSON, pictures by byte range, and the static page."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from aiohttp import web

from pipeline.browse.answers import LIMIT, Answers
from pipeline.browse.guard import Guard
from pipeline.browse.pairs import Pairs
from pipeline.images.headers import sniff
from pipeline.index.place import Dataset

if TYPE_CHECKING:
    from pipeline.browse.semantic import Semantic

T = TypeVar("T")

_FILES: Final = {"page.html": "text/html", "app.js": "text/javascript", "style.css": "text/css"}
_THREADS: Final = 6  # as many pictures as a browser asks for at a time


class Server(Answers):
    """Serve the page of one dataset, and the answers that it asks for."""

    def __init__(
        self, of: Dataset, path: Path | None, guard: Guard, *,
        overlaps: Sequence[Pairs] = (), semantic: "Semantic | None" = None, mask: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(of, path, overlaps=overlaps, semantic=semantic, mask=mask)
        self._guard = guard
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="openwit-browse")

    def application(self) -> web.Application:
        """Return the aiohttp application."""
        app = web.Application(middlewares=[self._guard.middleware], client_max_size=4 << 20)
        for name in _FILES:
            app.router.add_get("/" if name == "page.html" else f"/{name}", partial(self._file, name))
        app.router.add_get("/favicon.ico", self._no_icon)
        for place, answer in (
            ("info", self.info), ("samples", self.samples), ("sample/{uid}", self.sample),
            ("facets", self.facets), ("queries", self.queries), ("query/{query}", self.query),
            ("histogram", self.histogram), ("stars", self.stars), ("overlap", self.overlaps),
            ("overlap/{report}", self.pairs), ("similar", self.similar), ("live", self.live),
            ("arrived", self.arrived), ("troubled", self.troubled), ("views", self.views),
        ):  # fmt: skip
            app.router.add_get(f"/api/{place}", self._json(answer))
        for place, read in (
            ("image/{uid}", self._stored), ("staged/{uid}", self._staged), ("arrived/{uid}", self._fetched),
            ("overlap/{report}/picture", self._example),
        ):  # fmt: skip
            app.router.add_get(f"/api/{place}", self._image(read))
        app.router.add_post("/api/export", self._written(self.export))
        app.router.add_post("/api/views", self._written(self.save_view))
        app.router.add_post("/api/similar", self._like)
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

    async def _answer(self, action: Callable[..., T], *arguments: Any) -> T:
        """Return a function's value; a refusal is 400, an absence 404, a timeout 503."""
        try:
            return await self._in_thread(action, *arguments)
        except ValueError as error:
            raise web.HTTPBadRequest(text=str(error)) from None
        except LookupError as error:
            raise web.HTTPNotFound(text=str(error.args[0])) from None
        except FileNotFoundError:
            raise web.HTTPNotFound(text="its shard is gone") from None
        except TimeoutError as error:
            raise web.HTTPServiceUnavailable(text=str(error)) from None

    def _json(self, action: Callable[[web.Request], Any]) -> Callable[[web.Request], Any]:
        """Return a handler that answers with a function's value."""

        async def handler(request: web.Request) -> web.Response:
            return web.json_response(await self._answer(action, request))

        return handler

    def _image(self, read: Callable[[web.Request], bytes | None]) -> Callable[[web.Request], Any]:
        """Return a handler that answers with a picture, if browsers read the file as a picture."""

        async def handler(request: web.Request) -> web.Response:
            data = await self._answer(read, request)
            kind = sniff(data) if data else ""
            if data is None or kind not in ("jpeg", "png", "gif", "webp", "avif", "bmp"):
                raise web.HTTPNotFound(text="no such picture")
            return web.Response(body=data, content_type=f"image/{kind}")

        return handler

    async def _like(self, request: web.Request) -> web.Response:
        """Answer with the samples that look most like the picture in the request's body."""
        data = await request.read()
        return web.json_response(
            await self._answer(lambda: self._ranked(self._model().by_picture(data, LIMIT)))
        )

    def _written(self, action: Callable[[dict[str, Any]], Any]) -> Callable[[web.Request], Any]:
        """Return a handler that writes by a function of the request's JSON object."""

        async def handler(request: web.Request) -> web.Response:
            try:
                given = await request.json()
            except ValueError:
                given = None
            if not isinstance(given, dict):
                raise web.HTTPBadRequest(text="a JSON object is wanted")
            return web.json_response(await self._answer(action, given))

        return handler
