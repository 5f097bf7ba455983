"""The rules of a site: robots.txt, tdmrep.json, ai.txt and RSL, fetched before all else, and remembered."""

import asyncio
import functools
from collections.abc import Callable, Iterable
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


class _RulesFile(NamedTuple):
    """A file of rules that a site may have beside robots.txt; fields only."""

    signal: OptOut
    path: str
    limit: int
    """Bytes that are read."""
    parse: Callable[[bytes], PathRules | Permissions]
    says: str


_FILES: Final = (
    _RulesFile("tdmrep", tdmrep.PATH, tdmrep.MAX_BYTES, tdmrep.parse, "tdmrep.json reserves"),
    _RulesFile("ai-txt", aitxt.PATH, aitxt.MAX_BYTES, aitxt.parse, "ai.txt disallows"),
)
"""In the order in which they are asked for, after robots.txt."""


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
        self._files: dict[OptOut, AuthorityCache[PathRules | Permissions]] = {
            file.signal: AuthorityCache(lambda rules: (CACHE_SECONDS, rules.size)) for file in _FILES
        }

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
        for file in _FILES:
            found = self._files[file.signal].known(origin)
            if found is not None and (pattern := found.reserving(href)):
                return Refusal(reason(file.signal), f"{file.says} {pattern}"[:300])
        rules = self._terms.known(origin)
        if rules is not None and (pattern := rules.reserving(href)):
            return Refusal(reason("rsl"), f"the License of robots.txt reserves {pattern}"[:300])
        return None

    async def linked(
        self, targets: Iterable[str], about: Iterable[str], gate: Gate, where: str
    ) -> Refusal | None:
        """Return the refusal by terms that an answer or a page links to, or None.

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
        if self._lacking(verdict, origin) is not None:
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
            if (file := self._lacking(verdict, origin)) is not None:
                await self._files[file.signal].get(origin, lambda: self._fetch_file(origin, file, gate))
            else:
                await self._terms.get(origin, lambda: self._fetch_licences(origin, verdict, gate))

    def _lacking(self, verdict: RobotsVerdict, origin: str) -> _RulesFile | None:
        """Return the next file of rules that is to be asked for: none that robots.txt keeps us out of."""
        opt_out, rules = self._options.opt_out, verdict.rules
        if rules is None:
            return None
        for file in _FILES:
            is_known = self._files[file.signal].known(origin) is not None  # first: robots.txt takes longer
            if not is_known and file.signal in opt_out and not rules.refusal(origin + file.path, opt_out):
                return file
        return None

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

    async def _fetch_file(self, origin: str, file: _RulesFile, gate: Gate) -> PathRules | Permissions:
        """Ask for a file of rules; a missing file, or a malformed answer, reserves nothing."""
        reply, _ = await self._get(origin + file.path, gate, file.limit)
        if reply.reason or not 200 <= reply.status < 300 or not reply.body:
            return file.parse(b"")
        return await asyncio.to_thread(file.parse, reply.body)  # half a megabyte takes 50 ms

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
