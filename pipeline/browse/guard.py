"""Let only this machine's browser, or anyone who has the token, ask; and let the page load nothing but
itself.

A page of another site can send requests to 127.0.0.1, and with a name that it lets point there (DNS
rebinding) even read the answers: so Host must be an address that was asked for, and a request that writes
needs this server's own Origin. Text from the web is only ever shown as text or a picture.
"""

import hmac
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
_COOKIE: Final = "openwit-token"
_HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY",
    "Cross-Origin-Resource-Policy": "same-origin", "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}  # fmt: skip

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach an address."""
    return host in _LOOPBACK


@dataclass(frozen=True, kw_only=True)
class Guard:
    """Who may ask: `host` is the address that the server listens on."""

    host: str
    port: int
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24))

    @property
    def needs_token(self) -> bool:
        """Return whether other machines can reach the server."""
        return not is_loopback(self.host)

    @property
    def url(self) -> str:
        """Return the address to open."""
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.port}/" + (f"?token={self.token}" if self.needs_token else "")

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests of other hosts, and set the headers of every answer."""
        has_token = self._has_token(request)
        try:
            if self.needs_token and not has_token:
                raise web.HTTPForbidden(text="open the address that openwit browse printed: it has a token")
            self._check(request)
            response = await handler(request)
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.text)
        response.headers.update(_HEADERS)
        if self.needs_token and has_token:
            response.set_cookie(_COOKIE, self.token, httponly=True, samesite="Strict")
        return response

    def _has_token(self, request: web.Request) -> bool:
        given = request.query.get("token") or request.cookies.get(_COOKIE, "")
        return hmac.compare_digest(given.encode(), self.token.encode())

    def _check(self, request: web.Request) -> None:
        names = (f"[{name}]" if ":" in name else name for name in _LOOPBACK)
        if not self.needs_token and request.host not in {f"{name}:{self.port}" for name in names}:
            raise web.HTTPForbidden(text="this server is at 127.0.0.1 only")
        origin = request.headers.get("Origin")
        own = f"http://{request.host}"
        if request.method not in ("GET", "HEAD") and origin != own:
            raise web.HTTPForbidden(text="a request of another site")
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise web.HTTPForbidden(text="a request of another site")
