"""Fetch one URL as a well-behaved stranger: robots.txt, opt-outs, bounds on everything, no exceptions.

In this order: the URL's policy, the site's rules (`site_rules`), the request (its address is judged where the
socket is made), status, opt-out headers, encoding, declared length, body. A body that may not be read is not
read: the connection is closed. Redirects are followed by hand, each hop through all of it. Many URLs at once:
`scheduler.fetch_many`.
"""

import contextlib
import functools
import ipaddress
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from pipeline import urls
from pipeline.http import dns, fd_limits
from pipeline.http.address_policy import ATTEMPTS, AddressPolicy, Attempts, check_url, split_authority
from pipeline.http.client import Client, authority
from pipeline.http.gate import Gate, OpenGate, Stopwatch
from pipeline.http.optout import Refusal
from pipeline.http.response import Reader, Reply
from pipeline.http.site_rules import SiteRules
from pipeline.options import FetchOptions
from pipeline.rights.link_header import RSL, licences

LinkedTerms = Sequence[tuple[str, str]]
"""URLs of terms for machines (Really Simple Licensing), each with the URL of the page that links to them."""
_MAX_LINKED: Final = 4
"""Files of terms that are asked for on account of one image or page."""


class Outcome(NamedTuple):
    """The outcome of one URL; `reason` is a word of `pipeline.reasons`, or "" with the file in `body`.

    `url` is as given, `final_url` the last URL asked or, with `redirect_elsewhere`, the next URL to ask;
    `status` that of the last answer or 0; `elapsed` seconds on the network; `address` the numeric address;
    `retry_after` the seconds that the server asked for with 429 or 503; `links` the header Link, as far as it
    may speak of licences.
    """

    url: str
    final_url: str
    reason: str
    detail: str
    status: int
    body: bytes
    content_type: str
    elapsed: float
    address: str
    retry_after: float | None
    links: str = ""


class Fetcher:
    """One HTTP client with its caches, for one event loop; an async context manager.

    `lookup` asks for names in place of --dns-server and the system.
    """

    def __init__(self, options: FetchOptions, lookup: dns.Lookup | None = None) -> None:
        self.options = options
        self.policy = AddressPolicy.from_text(options.allow_network)
        self._lookup = lookup

    async def __aenter__(self) -> "Fetcher":
        """Open the session."""
        self._resolver = dns.Resolver(
            dns.source(self.options, self._lookup),
            at_once=fd_limits.lookups_at_once(self.options),
            max_failures=self.options.max_dns_failures,
        )
        self._client = Client(self.options, self.policy, self._resolver)
        self._site_rules = SiteRules(self.options, self.policy, self._client)
        self._reader = Reader(self.options)
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close all connections."""
        await self._client.close()
        await self._resolver.close()

    async def fetch(
        self, url: str, gate: Gate | None = None, *, keep_alive: bool = True, terms: LinkedTerms = ()
    ) -> Outcome:
        """Fetch `url`; a failure is a reason. Without `keep_alive` the connection ends with it.

        `terms` are the terms for machines that its pages link to, with the page of each: they are asked for
        first.
        """
        watch, attempts, final_url = Stopwatch(self.options.timeout), Attempts(), url
        token = ATTEMPTS.set(attempts)
        try:
            final_url, reply = await self._follow(url, gate or OpenGate(), watch, keep_alive, terms)
        except Exception as error:  # noqa: BLE001 - one URL must not end the others; it becomes a counted row
            reply = Reply("internal_error", f"{type(error).__name__}: {error}"[:300])
        finally:
            ATTEMPTS.reset(token)
        elapsed = self.options.timeout - watch.left
        known = attempts.address or self._client.address_of(authority(final_url))
        address = known if reply.status else ""
        return Outcome(url, final_url, *reply[:5], elapsed, address, reply.retry_after, reply.links)

    def refuse(self, href: str) -> Refusal | None:
        """Return why a resolved URL is not to be asked for, by policy and by its site as far as known."""
        reason = check_url(href, self.policy)
        if reason is not None:
            return Refusal(reason, "")
        return self._site_rules.refuse(href)

    def knows_rules(self, href: str) -> bool:
        """Return whether the rules (robots.txt and others) that hold for a resolved URL are at hand."""
        return self._site_rules.knows(href)

    async def load_rules(self, href: str, gate: Gate) -> None:
        """Fetch the next file of rules that a resolved URL waits for; robots.txt comes first."""
        await self._site_rules.load(href, gate)

    def crawl_delay(self, href: str) -> float:
        """Return the Crawl-delay in seconds that is known for a resolved URL, or 0."""
        return self._site_rules.crawl_delay(href)

    def address(self, href: str) -> str | Refusal | None:
        """Return the address that a resolved URL leads to first, why there is none, or None if unknown."""
        host, _ = split_authority(href)
        if literal := _literal(host):
            return literal
        answer = self._resolver.known(host)
        if answer is None:
            return None
        if isinstance(answer, str):
            return Refusal("dns_error", answer)
        # Said here already: on a busy machine twenty of them would use up the time for a connection.
        if all(self.policy.check(ip) == "address_blocked" for _, ip in answer):
            return Refusal("address_blocked", f"{host} is {answer[0][1]}")
        return answer[0][1]

    async def find_address(self, href: str) -> None:
        """Ask for the name of a resolved URL; raises dns.OutageError if nobody answers any more."""
        await self._resolver.find(split_authority(href)[0])

    async def _follow(
        self, url: str, gate: Gate, watch: Stopwatch, keep_alive: bool, terms: LinkedTerms
    ) -> tuple[str, Reply]:
        """Return the last URL of a chain of redirects, and its answer."""
        try:
            href = urls.resolve(url)
        except urls.BadUrl as error:
            return url, Reply(error.reason, str(error))
        seen: list[str] = []
        while True:
            if refusal := await self._refuse_with_rules(href, gate, terms):
                via = f"redirected from {seen[-1]}" if seen else ""
                return href, Reply(refusal.reason, (refusal.detail or via)[:300])
            reply = await self._client.ask(href, gate, watch, self._reader.image, keep_alive=keep_alive)
            if reply.redirect is None:
                return href, await self._by_terms(href, reply, gate)
            seen.append(href)
            try:
                target = urls.resolve(reply.redirect, href)
            except urls.BadUrl as error:
                return href, reply._replace(reason="bad_redirect", detail=f"{error.reason}: {error}"[:300])
            if target in seen:
                return target, reply._replace(reason="redirect_loop", detail=f"back to {target}"[:300])
            if blocked := check_url(target, self.policy):
                return target, reply._replace(reason=blocked, detail=f"redirected from {href}"[:300])
            if urls.site(target) != urls.site(href):
                return target, reply._replace(reason="redirect_elsewhere", detail=target[:300])
            if len(seen) > self.options.max_redirects:
                return target, reply._replace(reason="too_many_redirects", detail=f"{len(seen)} redirects")
            href = target

    async def _by_terms(self, href: str, reply: Reply, gate: Gate) -> Reply:
        """Return an answer, refused if the terms for machines that it links to say so."""
        if reply.reason or RSL not in reply.links.lower() or "rsl" not in self.options.opt_out:
            return reply
        targets = _resolved((one.target for one in licences(reply.links) if one.is_rsl), href)
        refusal = await self._site_rules.linked(targets, [href], gate, "Link")
        if refusal is None:
            return reply
        return reply._replace(reason=refusal.reason, detail=refusal.detail, body=b"", links="")

    async def _refuse_with_rules(self, href: str, gate: Gate, terms: LinkedTerms) -> Refusal | None:
        refusal = self.refuse(href)
        while refusal is None and not self.knows_rules(href):
            await self.load_rules(href, gate)
            refusal = self.refuse(href)
        for target, page in terms[:_MAX_LINKED] if "rsl" in self.options.opt_out else ():
            targets, pages = _resolved([target], href), _resolved([page], href)
            refusal = refusal or await self._site_rules.linked(targets, [href, *pages], gate, "its page")
        return refusal


@functools.lru_cache(maxsize=1 << 12)
def _literal(host: str) -> str:
    """Return an IP address as Python writes it; nothing for a name."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""


def _resolved(references: Iterable[str], base: str) -> list[str]:
    """Return the first references made absolute, up to the limit, without malformed URLs."""
    found: list[str] = []
    for reference in references:
        with contextlib.suppress(urls.BadUrl):
            found.append(urls.resolve(reference, base))
    return found[:_MAX_LINKED]
