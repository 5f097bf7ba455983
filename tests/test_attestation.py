"""Who vouches for a set, and whether its URLs still show what was fetched."""

import base64
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import beam_job
from pipeline import against_web, attestation, checked_manifest, finished_set, keys
from pipeline.options import FetchOptions, ImageOptions
from pipeline.run_folder import Layout
from tests import finished_run
from tests.crawling import samples

pytest.importorskip("cryptography")
pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def signed(tmp_path: Path) -> tuple[Layout, keys.Key]:
    layout = finished_run.build(tmp_path / "run", ["a dog"] * 3)
    key = keys.generate(tmp_path / "private.jwk", "")
    attestation.sign(layout, key)
    return layout, key


def test_the_dsse_signature_is_the_specifications() -> None:
    """The protocol's test vector: the bytes to sign, of its example's type and body."""
    found = attestation.encode("http://example.com/HelloWorld", b"hello world")
    assert found == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_a_signed_manifest_is_verified_offline(
    signed: tuple[Layout, keys.Key], tmp_path: Path, capsys: Any
) -> None:
    layout, key = signed
    envelope = json.loads(Path(attestation.path(layout)).read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicate"]["samples"] == 3 and statement["subject"][0]["name"] == "manifest.json"
    (tmp_path / "public.json").write_text(json.dumps({"keys": [key.public]}))
    for wanted in (
        set(),
        attestation.trusted(key.thumbprint),
        attestation.trusted(str(tmp_path / "public.json")),
    ):
        assert attestation.check(layout, wanted) == (key.thumbprint, [])
    other = keys.generate(tmp_path / "other.jwk", "")
    assert "is signed by" in attestation.check(layout, {other.thumbprint})[1][0]
    assert attestation.NAME in {path.name for path in Path(layout.root).iterdir()}
    with pytest.raises(ValueError, match="neither a file"):
        attestation.trusted("nobody")


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        ("manifest", "about another manifest"),
        ("payload", "none of its signatures is valid"),
        ("signature", "none of its signatures is valid"),
        ("type", "none of its signatures is valid"),
        ("signer", "none of its signatures is valid"),
        ("nonsense", "no signed statement"),
        ("nothing", "is not signed"),
    ],
)
def test_whatever_is_changed_is_noticed(
    signed: tuple[Layout, keys.Key], tmp_path: Path, tamper: str, says: str
) -> None:
    layout, key = signed
    path = Path(attestation.path(layout))
    envelope = json.loads(path.read_text())
    statement = json.loads(base64.b64decode(envelope["payload"]))
    if tamper == "manifest":
        Path(layout.manifest).write_text(Path(layout.manifest).read_text() + "\n")
    if tamper == "payload":
        statement["predicate"]["samples"] += 1
    if tamper == "signer":
        statement["predicate"]["signer"] = keys.generate(tmp_path / "other.jwk", "").public
    envelope["payload"] = base64.b64encode(json.dumps(statement, sort_keys=True).encode()).decode()
    if tamper == "signature":
        envelope["signatures"][0]["sig"] = base64.b64encode(bytes(64)).decode()
    if tamper == "type":
        envelope["payloadType"] = "text/plain"
    path.write_text("[[" if tamper == "nonsense" else json.dumps(envelope))
    if tamper == "nothing":
        path.unlink()
    _, problems = attestation.check(layout, {key.thumbprint})
    assert problems and says in problems[0]


def test_what_was_taken_down_is_signed_again_and_the_web_asked(
    whole: Path, tmp_path: Path, capfd: Any
) -> None:
    assert beam_job.main(["identity", "--out", str(tmp_path / "id")]) == 0
    private = str(tmp_path / "id" / "private.jwk")
    out = Path(shutil.copytree(whole, tmp_path / "run", ignore=shutil.ignore_patterns("work")))
    verify = ["verify", "--run", str(out)]
    assert beam_job.main([*verify, "--sign-manifest", private]) == 0
    assert beam_job.main([*verify, "--signed-by", str(next((tmp_path / "id").rglob("http-*")))]) == 0
    assert "which is signed by" in capfd.readouterr().out
    gone = samples(out)[0]["url"]
    assert beam_job.main(["takedown", "--run", str(out), "--url", gone]) == 0
    assert beam_job.main(verify) == 1
    assert "has to be signed again" in capfd.readouterr().out.replace("\n", " ")
    assert beam_job.main([*verify, "--sign-manifest", private]) == 0
    assert beam_job.main(verify) == 0
    again = ["--against-web", "12", "--allow-network", "127.0.0.0/8", "--seed", "3"]
    capfd.readouterr()
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert beam_job.main([*verify, *again]) == 0
    said = capfd.readouterr().out
    assert "12 URLs asked again" in said and "12 100.0%  same bytes" in said
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before
    assert beam_job.main([*verify, "--against-web", "12"]) == 0
    assert "12 100.0%  address_blocked" in capfd.readouterr().out, "nobody has opened loopback"


def test_the_web_has_changed(whole: Path) -> None:
    layout = Layout(str(whole))
    state = finished_set.load(layout, checked_manifest.of(layout.root))
    rows = against_web.choose(state, 30, seed=1)
    assert len({row["uid"] for row in rows}) == 30 == len(rows)
    assert rows == against_web.choose(state, 30, seed=1) != against_web.choose(state, 30, seed=2)
    assert len(against_web.choose(state, 10**6, seed=1)) == len(samples(whole))
    other = rows[3]
    rows[0] = {**rows[0], "sha256": "00" * 32}
    rows[1] = {**rows[1], "sha256": "00" * 32, "phash": f"{int(rows[1]['phash'], 16) ^ (2**256 - 1):064x}"}
    rows[2] = {**rows[2], "url": rows[2]["url"] + ".gone"}
    found = against_web.compare(rows, FetchOptions(allow_network=("127.0.0.0/8",)), ImageOptions())
    assert found.verdicts == Counter({
        against_web.SAME_BYTES: 27, against_web.SAME_PICTURE: 1, against_web.OTHER_PICTURE: 1, "http_gone": 1,
    })  # fmt: skip
    assert found.others == [(rows[1]["uid"], rows[1]["url"], 256)] and other["uid"] != rows[1]["uid"]
