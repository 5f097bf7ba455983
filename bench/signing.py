"""The cost of signing a request: CPU time of its three header fields, beside http-message-signatures.

python -m bench.signing
PYTHONPATH=.:PEERS python -m bench.signing    # with http-message-signatures and requests in PEERS
"""

import datetime
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from yarl import URL

from pipeline import keys
from pipeline.http.signing import SECONDS, TAG, Signer

REQUESTS = 5_000


def main() -> None:
    """Print microseconds a request, the best of five rounds that take turns."""
    with tempfile.TemporaryDirectory() as folder:
        key = keys.generate(Path(folder) / "private.jwk", "https://bot.example.org")
        secret = json.loads((Path(folder) / "private.jwk").read_text())["d"]
    url = URL("https://images.example.com/a/b/c.jpg?size=large", encoded=True)
    signer, message = Signer(key), b"x" * 300
    work: dict[str, Callable[[], object]] = {
        "openwit": lambda: signer.headers(url),
        "Ed25519 alone": lambda: key.sign(message),
    }
    if peer := _peer(secret, key.thumbprint, str(url)):
        work["http-message-signatures"] = peer
    best = dict.fromkeys(work, float("inf"))
    for _ in range(5):
        for name, once in work.items():
            started = time.process_time()
            for _ in range(REQUESTS):
                once()
            best[name] = min(best[name], (time.process_time() - started) / REQUESTS)
    for name, seconds in best.items():
        print(f"{name:<24} {1e6 * seconds:6.1f} us a request")


def _peer(secret: str, key_id: str, url: str) -> Callable[[], object] | None:
    try:
        import http_message_signatures as peer
        import requests
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    except ImportError:
        return None
    private = Ed25519PrivateKey.from_private_bytes(keys.decoded(secret))

    class Resolver(peer.HTTPSignatureKeyResolver):  # type: ignore[misc]
        def resolve_private_key(self, key_id: str) -> object:
            return private

        def resolve_public_key(self, key_id: str) -> object:
            return private.public_key()

    signer = peer.HTTPMessageSigner(
        signature_algorithm=peer.algorithms.ED25519, key_resolver=Resolver()
    )  # fmt: skip
    request = requests.Request("GET", url, headers={"Signature-Agent": '"https://bot.example.org"'}).prepare()

    def once() -> None:
        now = datetime.datetime.now(datetime.UTC)
        signer.sign(
            request, key_id=key_id, created=now, expires=now + datetime.timedelta(seconds=SECONDS), tag=TAG,
            nonce="n" * 88, covered_component_ids=("@authority", "signature-agent"), label="sig1",
        )  # fmt: skip

    return once


if __name__ == "__main__":
    main()
