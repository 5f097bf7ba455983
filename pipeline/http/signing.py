"""Sign requests, so that a site can verify who asks: Web Bot Auth on HTTP Message Signatures (RFC 9421).

draft-ietf-webbotauth-httpsig-protocol, formerly draft-meunier-web-bot-auth-architecture: Ed25519 over the
authority and the Signature-Agent member, which names the origin where the public key is hosted. A signature
holds for minutes, and for one site: anyone who sees it can do no more with it than ask there again.
"""

import base64
import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from yarl import URL

from pipeline import keys

SECONDS: Final = 300
"""For how long a signature holds; the draft advises no more than 24 hours."""
TAG: Final = "web-bot-auth"
_LABEL: Final = "sig1"


def signature_base(covered: Sequence[tuple[str, str]], parameters: str) -> bytes:
    """Return the signature base (RFC 9421, section 2.5).

    covered: component identifiers as they are serialised, such as '"@authority"', with their values.
    parameters: those of the signature, the list of components first.
    """
    lines = [f"{identifier}: {value}" for identifier, value in covered]
    return "\n".join([*lines, f'"@signature-params": {parameters}']).encode("ascii")


def authority(url: URL) -> str:
    """Return @authority (RFC 9421, section 2.2.3): host in lower case, the port unless it is the scheme's."""
    host = (url.raw_host or "").lower()
    host = f"[{host}]" if ":" in host else host
    return host if url.is_default_port() or url.port is None else f"{host}:{url.port}"


class Signer:
    """Sign requests with one key."""

    def __init__(
        self, key: keys.Key, label: str = _LABEL, clock: Callable[[], float] = time.time,
        seconds: int = SECONDS, nonce: Callable[[], bytes] = lambda: os.urandom(64),
    ) -> None:  # fmt: skip
        """Take a key; ValueError for a key that does not say where its directory is hosted."""
        if not key.agent:
            raise ValueError("the key names no --url of a directory: make one by `openwit identity --url`")
        self._key, self._label, self._clock, self._seconds, self._nonce = key, label, clock, seconds, nonce
        self._agent = f'"{key.agent}"'
        self._member = f'"signature-agent";key="{label}"'

    def headers(self, url: URL) -> dict[str, str]:
        """Return the three header fields of a request for a URL."""
        created = int(self._clock())
        nonce = base64.b64encode(self._nonce()).decode()
        parameters = (
            f'("@authority" {self._member});created={created};keyid="{self._key.thumbprint}";alg="ed25519";'
            f'expires={created + self._seconds};nonce="{nonce}";tag="{TAG}"'
        )
        base = signature_base([('"@authority"', authority(url)), (self._member, self._agent)], parameters)
        signature = base64.b64encode(self._key.sign(base)).decode()
        return {
            "Signature-Agent": f"{self._label}={self._agent}",
            "Signature-Input": f"{self._label}={parameters}",
            "Signature": f"{self._label}=:{signature}:",
        }
