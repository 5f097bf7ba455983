"""A signed statement about a manifest: who vouches for it, to be checked offline.

manifest.dsse.json is a DSSE envelope (protocol and envelope 1.0.2) around an in-toto Statement v1 whose
subject is manifest.json by its SHA-256. The manifest has the hashes of all shards, so it stands for them.
"""

import base64
import hashlib
import json
from typing import Any, Final

from pipeline import checked_manifest, keys, storage, untrusted
from pipeline.manifest import own_version, write_json
from pipeline.run_folder import Layout

NAME: Final = "manifest.dsse.json"
_PAYLOAD: Final = "application/vnd.in-toto+json"
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PREDICATE: Final = "urn:openwit:dataset-manifest:v1"


def path(layout: Layout) -> str:
    """Return the path of a finished run's signed statement."""
    return storage.join(layout.root, NAME)


def encode(kind: str, body: bytes) -> bytes:
    """Return the bytes that a DSSE signature covers: type and body with their lengths, so that neither can be
    moved."""
    return b" ".join([b"DSSEv1", b"%d" % len(kind), kind.encode(), b"%d" % len(body), body])


def sign(layout: Layout, key: keys.Key) -> None:
    """Publish a signed statement about the manifest of a finished run."""
    manifest = checked_manifest.of(layout.root)
    statement = {
        "_type": _STATEMENT,
        "subject": [{"name": "manifest.json", "digest": {"sha256": storage.sha256_file(layout.manifest)}}],
        "predicateType": _PREDICATE,
        "predicate": {
            "openwit": own_version(), "samples": manifest.counts.samples,
            "captions": manifest.counts.captions, "shards": len(manifest.shards), "signer": key.public,
        },
    }  # fmt: skip
    body = json.dumps(statement, sort_keys=True).encode()
    signature = {"keyid": key.thumbprint, "sig": _base64(key.sign(encode(_PAYLOAD, body)))}
    envelope = {"payloadType": _PAYLOAD, "payload": _base64(body), "signatures": [signature]}
    write_json(path(layout), envelope)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def trusted(given: str) -> set[str]:
    """Return the thumbprints that --signed-by means: one itself, or those of the keys in a file."""
    if storage.exists(given):
        return {key["kid"] for key in keys.public_keys(given)}
    if len(given) == 43 and "/" not in given:
        return {given}
    raise ValueError(f"{given} is neither a file of public keys nor a key's thumbprint")


def check(layout: Layout, wanted: set[str]) -> tuple[str, list[str]]:
    """Return the signer of a manifest ("" if it is not signed) and the problems with the signature.

    wanted: thumbprints, one of which must have signed; if empty, any valid signature will do.
    """
    place = path(layout)
    if not storage.exists(place):
        return "", [f"{layout.manifest} is not signed"] if wanted else []
    try:
        body, signer = _opened(untrusted.read_json(place))
        statement = json.loads(body)
        subject = {one["name"]: one["digest"]["sha256"] for one in statement["subject"]}
        is_ours = statement["_type"] == _STATEMENT and statement["predicateType"] == _PREDICATE
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        return "", [f"{place} is no signed statement: {error}"]
    digest = hashlib.sha256(storage.read_bytes(layout.manifest)).hexdigest()
    if not is_ours or subject != {"manifest.json": digest}:
        return "", [
            f"{place} is about another manifest: this one was changed, or has to be signed again by "
            f"`openwit verify --run {layout.root} --sign-manifest KEY`"
        ]
    if wanted and signer not in wanted:
        return signer, [f"{place} is signed by {signer}, not by {' or '.join(sorted(wanted))}"]
    return signer, []


def _opened(envelope: Any) -> tuple[bytes, str]:
    """Return body and signer of an envelope; ValueError if none of its signatures is valid."""
    body = base64.b64decode(envelope["payload"], validate=True)
    public = keys.public_jwk(json.loads(body)["predicate"]["signer"]["x"])
    for one in envelope["signatures"]:
        message = encode(envelope["payloadType"], body)
        is_right = keys.verify(public, base64.b64decode(one["sig"], validate=True), message)
        if envelope["payloadType"] == _PAYLOAD and one["keyid"] == public["kid"] and is_right:
            return body, public["kid"]
    raise ValueError("none of its signatures is valid")
