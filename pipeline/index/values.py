"""Values of a sample in the form in which its index has them."""

import re
from typing import Final

from pipeline import urls

_HASH: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)


def site_of(url: str) -> str:
    """Return a URL's registrable domain, or "", such as for a row that was rejected for its URL."""
    try:
        return urls.site(url) if url else ""
    except urls.BadUrl:
        return ""


def hash_of(text: object) -> bytes | None:
    """Return a perceptual hash of 64 hex digits as bytes [32], or None for anything else."""
    return bytes.fromhex(text) if isinstance(text, str) and _HASH.fullmatch(text) else None
