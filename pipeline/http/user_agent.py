"""Who we say we are, and when somebody must be named whom site owners can reach."""

import importlib.metadata
import ipaddress
from collections.abc import Iterable
from typing import Final

from pipeline import urls
from pipeline.http.address_policy import AddressPolicy

TOKEN: Final = "openwit"  # noqa: S105 - the product token of RFC 9309: letters, "_" and "-" only
"""The name by which robots.txt and other opt-outs address us."""

ALIASES: Final = ("img2dataset", "laiondownloader", "ccbot")
"""Agents that are honoured too where they are named: such a site has decided about image-text datasets."""


NO_CONTACT: Final = (
    "the images are on hosts of others: give --contact, a URL or a mail address for the User-Agent, so that "
    "their owners can reach you"
)
"""What to tell anyone who would fetch from others and has named nobody."""


def user_agent(contact: str) -> str:
    """Return the User-Agent header: who we are, in which version, and whom to reach."""
    try:
        version = importlib.metadata.version("openwit")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout
        version = "0"
    return f"{TOKEN}/{version}" + (f" (+{contact})" if contact else "")


def requires_contact(references: Iterable[str], networks: tuple[str, ...] = ()) -> bool:
    """Return whether any of the URLs leads elsewhere than to this machine or `networks`, written as such."""
    policy = AddressPolicy.from_text(networks)
    return any(not _is_own(url, policy) for url in references)


def _is_own(url: str, policy: AddressPolicy) -> bool:
    try:
        host = urls.host(url)
    except urls.BadUrl:
        return True  # it is never asked
    try:
        address = host.strip("[]")
        return ipaddress.ip_address(address).is_loopback or policy.opens(address)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")  # RFC 6761, section 6.3
