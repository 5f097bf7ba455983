"""Signed requests: the RFC's and the drafts' vectors, keys on disk, and a server that verifies a crawl."""

import base64
import contextlib
import json
import re
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

import beam_job
from pipeline import keys
from pipeline.http import signing
from pipeline.http.signing import Signer, authority, signature_base
from pipeline.identity import DIRECTORY
from tests.crawling import refused
from tests.scenes import jpeg, scene

pytest.importorskip("cryptography")
pytestmark = pytest.mark.timeout(600)

RFC_KEY = {  # RFC 9421, appendix B.1.4
    "kty": "OKP", "crv": "Ed25519", "kid": "test-key-ed25519",
    "d": "n4Ni-HpISpVObnQMW0wOhCKROaIKqKtW_2ZYb2p9KcU",
    "x": "JrQLj5P_89iXES9-vFgrIy29clF9CC_oPPsw3c5D0bs",
}  # fmt: skip
THUMBPRINT = "poqkLGiymh_W0uP6PZFw-dvez3QJT5SolqXBCW38r0U"
CREATED, EXPIRES = 1735689600, 4889289600


def key_file(folder: Path, agent: str = "https://signature-agent.test") -> str:
    """Write the RFC's test key as `openwit identity` writes keys."""
    path = folder / "private.jwk"
    path.touch(0o600)
    path.write_text(json.dumps({**RFC_KEY, "signature_agent": agent}))
    return str(path)


def test_the_rfcs_signature(tmp_path: Path) -> None:
    """RFC 9421, appendix B.2.6: signing a request using ed25519."""
    covered = [
        ('"date"', "Tue, 20 Apr 2021 02:07:55 GMT"), ('"@method"', "POST"), ('"@path"', "/foo"),
        ('"@authority"', "example.com"), ('"content-type"', "application/json"), ('"content-length"', "18"),
    ]  # fmt: skip
    listed = " ".join(identifier for identifier, _ in covered)
    base = signature_base(covered, f'({listed});created=1618884473;keyid="test-key-ed25519"')
    signature = base64.b64encode(keys.load(key_file(tmp_path)).sign(base)).decode()
    assert signature == (
        "wqcAqbmYJ2ji2glfAMaRy4gruYYnx2nEFN2HN6jrnDnQCK1u02Gb04v9EDgwUPiu4A0w6vuQv5lIp5WPpBKRCw=="
    )


def test_the_drafts_thumbprint_and_signature(tmp_path: Path) -> None:
    """The vector with a Signature-Agent that draft-ietf-webbotauth-httpsig-protocol publishes for Ed25519."""
    nonce = "n9p433xm+NJ3ph3upfBIGmsuwHw387YV7Q/F+6BSpGCVjYCqQw6rznNA8PVVLySrAWsv0hQtFioQb6E1YsauiA=="
    key = keys.load(key_file(tmp_path))
    assert key.thumbprint == keys.thumbprint(RFC_KEY["x"]) == THUMBPRINT
    signer = Signer(
        key, "agent2", clock=lambda: CREATED, seconds=EXPIRES - CREATED, nonce=lambda: base64.b64decode(nonce)
    )
    found = signer.headers(URL("https://example.com/path/to/resource"))
    # There the label of the signature is sig2 and that of the member agent2; here one word is both.
    assert found["Signature-Agent"] == 'agent2="https://signature-agent.test"'
    assert found["Signature-Input"].removeprefix("agent2=") == (
        '("@authority" "signature-agent";key="agent2");created=1735689600;'
        f'keyid="{THUMBPRINT}";alg="ed25519";expires=4889289600;nonce="{nonce}";tag="web-bot-auth"'
    )
    assert found["Signature"].removeprefix("agent2=") == (
        ":RdNFx5Bj6au3YgAMQL/RzmUlZE8QZLIaXGRpw985hWnwPfMxT228NMk6ehRS1PSl4e8PhbNZACSanGdhEwYCCg==:"
    )


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Example.COM/x", "example.com"),
        ("https://example.com:443/", "example.com"),
        ("http://example.com:80/", "example.com"),
        ("http://example.com:8080/", "example.com:8080"),
        ("https://[::1]:8443/", "[::1]:8443"),
        ("https://xn--bcher-kva.example/", "xn--bcher-kva.example"),
    ],
)
def test_authority(url: str, expected: str) -> None:
    assert authority(URL(url, encoded=True)) == expected


def is_signed(headers: dict[str, str], public: keys.Jwk) -> bool:
    """Verify a request as a server does that knows the key: from its headers alone."""
    given = {name.lower(): value for name, value in headers.items()}
    label, _, parameters = given["signature-input"].partition("=")
    agent = given["signature-agent"].removeprefix(f"{label}=")
    covered = [('"@authority"', given["host"]), (f'"signature-agent";key="{label}"', agent)]
    assert parameters.startswith(f"({' '.join(identifier for identifier, _ in covered)});")
    times = {name: int(value) for name, value in re.findall(r";(created|expires)=(\d+)", parameters)}
    assert times["expires"] - times["created"] == signing.SECONDS
    assert f'keyid="{public["kid"]}"' in parameters and 'tag="web-bot-auth"' in parameters
    signature = base64.b64decode(given["signature"].removeprefix(f"{label}=:").removesuffix(":"))
    return keys.verify(public, signature, signature_base(covered, parameters))


@contextlib.contextmanager
def serve(seen: list[dict[str, str]], picture: bytes = b"") -> Iterator[str]:
    """Serve a picture at every path but robots.txt, and note the requests; yield the origin."""
    picture = picture or jpeg(scene(1, 96, 128))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            seen.append({name.lower(): value for name, value in self.headers.items()} | {"path": self.path})
            is_picture = not self.path.endswith(".txt")
            self.send_response(200 if is_picture else 404)
            self.send_header("Content-Length", str(len(picture) if is_picture else 0))
            self.end_headers()
            self.wfile.write(picture if is_picture else b"")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_verifies_every_request_of_a_crawl(tmp_path: Path, capfd: Any) -> None:
    """And neither the key nor where it lies gets into the run."""
    assert beam_job.main(["identity", "--out", str(tmp_path / "id"), "--url", "https://bot.example.org"]) == 0
    said = capfd.readouterr().out
    assert "https://bot.example.org/.well-known/http-message-signatures-directory" in said
    (entry,) = json.loads((tmp_path / "id" / "public" / DIRECTORY).read_text())["keys"]
    path = tmp_path / "id" / "private.jwk"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    secret = json.loads(path.read_text())["d"]
    assert secret not in said and "d" not in entry and entry["use"] == "sig"
    seen: list[dict[str, str]] = []
    out = tmp_path / "run"
    with serve(seen) as origin:
        (tmp_path / "urls.txt").write_text("".join(f"{origin}/{n}.jpg\n" for n in range(3)))
        line = ["--preset", "img2dataset", "--source", str(tmp_path / "urls.txt"), "--out", str(out)]
        line += ["--allow-network", "127.0.0.0/8", "--workers", "1", "--sign-with", str(path)]
        keys.generate(tmp_path / "vouch.jwk", "")
        line += ["--sign-manifest", str(tmp_path / "vouch.jwk")]
        assert beam_job.main(["crawl", *line]) == 0
    voucher = keys.load(str(tmp_path / "vouch.jwk")).thumbprint
    assert beam_job.main(["verify", "--run", str(out), "--signed-by", voucher]) == 0
    assert {request["path"] for request in seen} >= {"/robots.txt", "/0.jpg", "/1.jpg", "/2.jpg"}
    assert all(is_signed(request, keys.public_jwk(entry["x"])) for request in seen)
    nonces = [re.findall(r'nonce="([^"]+)"', request["signature-input"])[0] for request in seen]
    assert len(set(nonces)) == len(nonces)
    for file in out.rglob("*"):
        data = file.read_bytes() if file.is_file() else b""
        assert secret.encode() not in data, file
        is_published = "work" not in file.relative_to(out).parts
        assert not is_published or (b"private.jwk" not in data and b"vouch.jwk" not in data), file


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda path: path.chmod(0o644), "others may read"),
        (lambda path: path.write_text("{}"), "no private key"),
        (lambda path: path.write_text(json.dumps({**RFC_KEY, "x": THUMBPRINT})), "do not belong together"),
        (lambda path: path.write_text(json.dumps(RFC_KEY)), "names no --url"),
        (lambda path: path.unlink(), "no private key"),
    ],
    ids=["mode", "empty", "halves", "agent", "missing"],
)
def test_keys_that_cannot_sign_are_refused_before_anything(
    tmp_path: Path, capfd: Any, change: Any, says: str
) -> None:
    path = Path(key_file(tmp_path))
    change(path)
    (tmp_path / "urls.txt").write_text("http://127.0.0.1:1/a.jpg\n")
    out = str(tmp_path / "run")
    line = ["--preset", "img2dataset", "--source", str(tmp_path / "urls.txt"), "--out", out]
    line += ["--sign-with", str(path)]
    assert says in refused(capfd, line) and not Path(out).exists()


def test_a_key_is_for_one_purpose_and_never_overwritten(tmp_path: Path, capfd: Any) -> None:
    path = key_file(tmp_path)
    (tmp_path / "urls.txt").write_text("http://127.0.0.1:1/a.jpg\n")
    line = ["--preset", "img2dataset", "--source", str(tmp_path / "urls.txt"), "--out", str(tmp_path / "run")]
    assert "keys of their own" in refused(capfd, [*line, "--sign-with", path, "--sign-manifest", path])
    before = Path(path).read_bytes()
    with pytest.raises(SystemExit) as stop:
        beam_job.main(["identity", "--out", str(tmp_path)])
    assert stop.value.code == 2 and "is there already" in capfd.readouterr().err
    assert Path(path).read_bytes() == before and not (tmp_path / "public").exists()
    with pytest.raises(SystemExit):
        beam_job.main(["identity", "--out", str(tmp_path / "new"), "--url", "http://bot.example.org"])
    assert "must be an origin" in capfd.readouterr().err
