"""The rules of a site: robots.txt, tdmrep.json, ai.txt and RSL, fetched before all else, and remembered."""

import asyncio
import functools
from collections.abc import Iterable
from typing import Final, NamedTuple

from pipeline import urls
from pipeline.http import aitxt, errors, robots, rsl, tdmrep
from pipeline.http.address_policy import ATTEMPTS, AddressPolicy, Attempts, check_url
from pipeline.http.aitxt import Permissions
from pipeline.http.client import Client, authority
from pipeline.http.gate import Gate, Stopwatch
from pipeline.http.optout import Refusal, reason
from pipeline.http.origin_cache import CACHE_SECONDS, RETRY_SECONDS, AuthorityCache
from pipeline.http.pathrules import PathRules
from pipeline.http.response import Reader, Reply
from pipeline.http.robots import RobotsVerdict
from pipeline.options import FetchOptions
from pipeline.options.fetch import OptOut

REDIRECTS: Final = 5
"""RFC 9309, section 2.3.1.2: at least five."""


class SiteRules:
    """The rules of authorities; `load` those not known, then `refuse` applies them to a URL."""

    def __init__(self, options: FetchOptions, policy: AddressPolicy, client: Client) -> None:
        self._options = options
        self._policy = policy
        self._client = client
        self._reader = Reader(options)
        self._robots: AuthorityCache[RobotsVerdict] = AuthorityCache(_keep_verdict)
        self._terms: AuthorityCache[PathRules] = AuthorityCache(lambda rules: (CACHE_SECONDS, rules.size))
        self._linked: AuthorityCache[_Linked] = AuthorityCache(lambda found: (CACHE_SECONDS, found.size))
        self._reserved: AuthorityCache[PathRules] = AuthorityCache(lambda rules: (CACHE_SECONDS, rules.size))
        self._permissions: AuthorityCache[Permissions] = AuthorityCache(lambda it: (CACHE_SECONDS, it.size))

    def refuse(self, href: str) -> Refusal | None:
        """Return why a resolved URL is not to be asked for, as far as is known."""
        origin = authority(href)
        verdict = self._robots.known(origin)
        if verdict is None:
            return None
        if verdict.rules is None:
            return Refusal(verdict.reason, verdict.detail)
        if refusal := verdict.rules.refusal(href, self._options.opt_out):
            return refusal
        rules = self._reserved.known(origin)
        if rules is not None and (pattern := rules.reserving(href)):
            return Refusal(reason("tdmrep"), f"tdmrep.json reserves {pattern}"[:300])
        permissions = self._permissions.known(origin)
        if permissions is not None and (pattern := permissions.reserving(href)):
            return Refusal(reason("ai-txt"), f"ai.txt disallows {pattern}"[:300])
        rules = self._terms.known(origin)
        if rules is not None and (pattern := rules.reserving(href)):
            return Refusal(reason("rsl"), f"the License of robots.txt reserves {pattern}"[:300])
        return None

    async def linked(
        self, targets: Iterable[str], about: Iterable[str], gate: Gate, where: str
    ) -> Refusal | None:
        """Return the refusal by terms that an answer or a page links to, or "".

        All are resolved URLs. Terms that cannot be read refuse.
        """
        for url in targets:
            if check_url(url, self._policy) is not None:
                return Refusal(reason("rsl"), f"{where}: its terms cannot be asked for")
            found = await self._linked.get(url, functools.partial(self._fetch_terms, url, gate))
            if found.terms is None:
                return Refusal(reason("rsl"), f"{where}: the terms at {url} cannot be read"[:300])
            for href in about:
                if pattern := rsl.rules(found.terms, authority(href)).reserving(href):
                    return Refusal(reason("rsl"), f"{where}: the terms at {url} reserve {pattern}"[:300])
        return None

    def knows(self, href: str) -> bool:
        """Return whether all rules that hold for a resolved URL are at hand."""
        origin = authority(href)
        verdict = self._robots.known(origin)
        if verdict is None:
            return False
        if self._lacks_tdmrep(verdict, origin) or self._lacks_permissions(verdict, origin):
            return False
        return not self._has_terms(verdict) or self._terms.known(origin) is not None

    def crawl_delay(self, href: str) -> float:
        """Return the Crawl-delay in seconds that is known for a resolved URL, or 0."""
        verdict = self._robots.known(authority(href))
        return verdict.rules.crawl_delay if verdict and verdict.rules else 0.0

    async def load(self, href: str, gate: Gate) -> None:
        """Fetch the next file that a resolved URL waits for, unless it is under way: robots.txt comes first.

        Its Crawl-delay holds for the second one already, so the caller decides when that is asked for.
        """
        origin = authority(href)
        if self._robots.known(origin) is None:
            await self._robots.get(origin, lambda: self._fetch_robots(origin, gate))
        elif not self.knows(href):
            verdict = self._robots.known(origin)
            assert verdict is not None
            if self._lacks_tdmrep(verdict, origin):
                await self._reserved.get(origin, lambda: self._fetch_tdmrep(origin, gate))
            elif self._lacks_permissions(verdict, origin):
                await self._permissions.get(origin, lambda: self._fetch_permissions(origin, gate))
            else:
                await self._terms.get(origin, lambda: self._fetch_licences(origin, verdict, gate))

    def _lacks_tdmrep(self, verdict: RobotsVerdict, origin: str) -> bool:
        return self._may_ask(verdict, origin, "tdmrep", tdmrep.PATH) and self._reserved.known(origin) is None

    def _lacks_permissions(self, verdict: RobotsVerdict, origin: str) -> bool:
        return (
            self._may_ask(verdict, origin, "ai-txt", aitxt.PATH) and self._permissions.known(origin) is None
        )

    def _may_ask(self, verdict: RobotsVerdict, origin: str, signal: OptOut, path: str) -> bool:
        """Return whether a file of rules is asked for: not where robots.txt keeps us out of it."""
        if signal not in self._options.opt_out or verdict.rules is None:
            return False
        return verdict.rules.refusal(origin + path, self._options.opt_out) is None

    def _has_terms(self, verdict: RobotsVerdict) -> bool:
        return "rsl" in self._options.opt_out and verdict.rules is not None and bool(verdict.rules.licences)

    async def _fetch_licences(self, origin: str, verdict: RobotsVerdict, gate: Gate) -> PathRules:
        """Ask for the terms that robots.txt names; those that cannot be read reserve everything."""
        assert verdict.rules is not None
        found: list[rsl.Term] = []
        everything = rsl.Term(origin, "/", True)
        for named in verdict.rules.licences:
            try:
                url = urls.resolve(named, f"{origin}/robots.txt")
            except urls.BadUrl:
                found.append(everything)
                continue
            terms = None
            if check_url(url, self._policy) is None:
                terms = (await self._fetch_terms(url, gate)).terms
            found += [everything] if terms is None else terms
        return rsl.rules(found, origin)

    async def _fetch_terms(self, url: str, gate: Gate) -> "_Linked":
        reply, last = await self._get(url, gate, rsl.MAX_BYTES)
        if reply.reason or not 200 <= reply.status < 300:
            return _Linked(None, 0)
        terms = await asyncio.to_thread(rsl.parse, reply.body, last)
        return _Linked(terms, len(reply.body))

    async def _fetch_robots(self, origin: str, gate: Gate) -> RobotsVerdict:
        reply, last = await self._get(f"{origin}/robots.txt", gate, robots.MAX_BYTES)
        if reply.status and not reply.reason:
            return await robots.verdict_off_loop(reply.status, reply.body)
        if reply.reason in errors.UNREACHABLE and last.startswith(f"{origin}/"):
            return RobotsVerdict(
                None, reply.reason, reply.detail
            )  # the name or the machine, not its robots.txt
        return RobotsVerdict(None, "robots_unavailable", f"robots.txt: {reply.reason} {reply.detail}"[:300])

    async def _fetch_tdmrep(self, origin: str, gate: Gate) -> PathRules:
        """Ask for tdmrep.json; a missing file, or a malformed answer, reserves nothing (section 6.1)."""
        body = await self._optional(origin + tdmrep.PATH, gate, tdmrep.MAX_BYTES)
        return await asyncio.to_thread(tdmrep.parse, body) if body else PathRules()  # half a MB takes 50 ms

    async def _fetch_permissions(self, origin: str, gate: Gate) -> Permissions:
        """Ask for ai.txt; a missing file, or another text of this name, reserves nothing."""
        body = await self._optional(origin + aitxt.PATH, gate, aitxt.MAX_BYTES)
        return await asyncio.to_thread(aitxt.parse, body) if body else Permissions([])

    async def _optional(self, href: str, gate: Gate, limit: int) -> bytes:
        """Return the body of a file of a site, empty if it is missing."""
        reply, _ = await self._get(href, gate, limit)
        return b"" if reply.reason or not 200 <= reply.status < 300 else reply.body

    async def _get(self, href: str, gate: Gate, limit: int) -> tuple[Reply, str]:
        """Return the answer after redirects, and the URL that gave it; it holds for the first authority."""
        watch, attempts = Stopwatch(self._options.timeout), Attempts()
        token = ATTEMPTS.set(attempts)
        try:
            for _ in range(REDIRECTS + 1):
                reply = await self._client.ask(
                    href, gate, watch, functools.partial(self._reader.site_file, limit=limit)
                )
                if reply.redirect is None:
                    break
                target = urls.resolve(reply.redirect, href)
                if check_url(target, self._policy) is not None:
                    break
                href = target
        except urls.BadUrl as error:
            reply = Reply("bad_redirect", str(error), reply.status)
        finally:
            ATTEMPTS.reset(token)
        return reply, href


class _Linked(NamedTuple):
    """A file of terms, None where it cannot be read, and its size in characters; fields only."""

    terms: list[rsl.Term] | None
    size: int


def _keep_verdict(verdict: RobotsVerdict) -> tuple[float, int]:
    seconds = RETRY_SECONDS if verdict.reason else CACHE_SECONDS
    return seconds, verdict.rules.size if verdict.rules else 0
