"""What a site says before it is asked: robots.txt and tdmrep.json, fetched once and remembered."""

import asyncio
import functools
from typing import Final

from pipeline import urls
from pipeline.http import errors, robots, tdmrep
from pipeline.http.address_policy import ATTEMPTS, AddressPolicy, Attempts, check_url
from pipeline.http.client import Client, authority
from pipeline.http.gate import Gate, Stopwatch
from pipeline.http.optout import Refusal, reason
from pipeline.http.origin_cache import CACHE_SECONDS, RETRY_SECONDS, AuthorityCache
from pipeline.http.pathrules import PathRules
from pipeline.http.response import Reader, Reply
from pipeline.http.robots import RobotsVerdict
from pipeline.options import FetchOptions

REDIRECTS: Final = 5
"""RFC 9309, section 2.3.1.2: at least five."""


class SiteRules:
    """The rules of authorities; `load` what is not known, then `refuse` says what they mean for a URL."""

    def __init__(self, options: FetchOptions, policy: AddressPolicy, client: Client) -> None:
        self._options = options
        self._policy = policy
        self._client = client
        self._reader = Reader(options)
        self._robots: AuthorityCache[RobotsVerdict] = AuthorityCache(_keep_verdict)
        self._reserved: AuthorityCache[PathRules] = AuthorityCache(lambda rules: (CACHE_SECONDS, rules.size))

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
        return None

    def knows(self, href: str) -> bool:
        """Return whether all rules that hold for a resolved URL are at hand."""
        origin = authority(href)
        verdict = self._robots.known(origin)
        if verdict is None:
            return False
        return not self._has_tdmrep(verdict, origin) or self._reserved.known(origin) is not None

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
            await self._reserved.get(origin, lambda: self._fetch_tdmrep(origin, gate))

    def _has_tdmrep(self, verdict: RobotsVerdict, origin: str) -> bool:
        """Return whether tdmrep.json is asked for: not where robots.txt keeps us out anyway."""
        if "tdmrep" not in self._options.opt_out or verdict.rules is None:
            return False
        return verdict.rules.refusal(origin + tdmrep.PATH, self._options.opt_out) is None

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
        """Ask for tdmrep.json; what is missing, or is no answer, reserves nothing (section 6.1)."""
        reply, _ = await self._get(origin + tdmrep.PATH, gate, tdmrep.MAX_BYTES)
        if reply.reason or not 200 <= reply.status < 300:
            return PathRules()
        return await asyncio.to_thread(tdmrep.parse, reply.body)  # half a megabyte takes 50 ms

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


def _keep_verdict(verdict: RobotsVerdict) -> tuple[float, int]:
    seconds = RETRY_SECONDS if verdict.reason else CACHE_SECONDS
    return seconds, verdict.rules.size if verdict.rules else 0
