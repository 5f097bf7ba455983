"""Ed25519 keys as JSON Web Keys (RFC 8037): for signed requests and signed manifests.

A private key is one local file that its owner alone may read; nothing of openwit copies it anywhere.
"""

import base64
import hashlib
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import storage, untrusted

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

Jwk = dict[str, Any]


@dataclass(frozen=True)
class Key:
    """A private key; its repr shows the public half alone."""

    public: Jwk
    """kty, crv, kid, x; kid is the thumbprint."""
    agent: str
    """Origin at which the directory of public keys is hosted, such as https://bot.example.org, or ""."""
    _private: "Ed25519PrivateKey" = field(repr=False)

    @property
    def thumbprint(self) -> str:
        """Return the key's id: the SHA-256 thumbprint of RFC 7638."""
        return str(self.public["kid"])

    def sign(self, message: bytes) -> bytes:
        """Return the 64 bytes of a signature (RFC 8032)."""
        return self._private.sign(message)


def encoded(data: bytes) -> str:
    """Return base64url without padding, as in JWKs."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decoded(text: str) -> bytes:
    """Return the bytes of base64url without padding; ValueError for anything else."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def thumbprint(x: str) -> str:
    """Return the thumbprint of an Ed25519 key, of its public member x (RFC 7638; RFC 8037, appendix A.3)."""
    members = json.dumps({"crv": "Ed25519", "kty": "OKP", "x": x}, separators=(",", ":"))
    return encoded(hashlib.sha256(members.encode()).digest())


def public_jwk(x: str) -> Jwk:
    """Return a public key from its member x; ValueError if it is no 32 bytes."""
    if len(decoded(x)) != 32:
        raise ValueError("not the 32 bytes of an Ed25519 key")
    return {"kty": "OKP", "crv": "Ed25519", "kid": thumbprint(x), "x": x}


def verify(public: Jwk, signature: bytes, message: bytes) -> bool:
    """Return whether a signature is that of a public key; ValueError if it is no Ed25519 key."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(decoded(public["x"])).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def generate(path: Path, agent: str) -> Key:
    """Make a key and write it to a new file that nobody else may read; FileExistsError if it is there."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    public = public_jwk(encoded(private.public_key().public_bytes_raw()))
    whole = {**public, "d": encoded(private.private_bytes_raw()), "signature_agent": agent}
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w") as sink:
        json.dump(whole, sink, indent=1)
        sink.write("\n")
    return Key(public, agent, private)


def load(path: str) -> Key:
    """Return the private key in a file of `openwit identity`; ValueError if it is none or open to others."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if not storage.is_local(path):
        raise ValueError(f"{path}: a private key is a file on each machine's own disk")
    if os.name == "posix" and storage.exists(path) and stat.S_IMODE(Path(path).stat().st_mode) & 0o077:
        raise ValueError(f"others may read {path}: chmod 600 {path}")
    found = untrusted.read_json(path)
    try:
        if not isinstance(found, dict) or (found.get("kty"), found.get("crv")) != ("OKP", "Ed25519"):
            raise ValueError("not an Ed25519 key")
        private = Ed25519PrivateKey.from_private_bytes(decoded(found["d"]))
        public = public_jwk(encoded(private.public_key().public_bytes_raw()))
        if found.get("x", public["x"]) != public["x"]:
            raise ValueError("its halves do not belong together")
        return Key(public, str(found.get("signature_agent", "")), private)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} is no private key of `openwit identity`: {error}") from None


def public_keys(path: str) -> list[Jwk]:
    """Return the keys of a file: a directory (JWK Set) or one public key; ValueError if it holds none."""
    found = untrusted.read_json(path)
    keys = found.get("keys", [found]) if isinstance(found, dict) else []
    try:
        result = [public_jwk(key["x"]) for key in keys if key.get("crv") == "Ed25519"]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path} holds no public key: {error}") from None
    if not result:
        raise ValueError(f"{path} holds no Ed25519 key")
    return result
