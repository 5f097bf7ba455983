"""Whether a machine made a picture, and refusals in C2PA's manifests, in the places that standards name."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from pipeline.fetch.terms import Terms
from pipeline.http.fetch_url import Outcome
from pipeline.images import c2pa, embedded, odrl, said
from tests.crawling import rejected, samples
from tests.test_terms import Site, by_name, crawl, packet, picture

FIXTURES = Path(__file__).parent / "rights"
TERMS = "http://cv.iptc.org/newscodes/digitalsourcetype/"


@pytest.mark.parametrize(
    ("name", "synthetic", "source", "refused"),
    [
        *((f"c2pa_created.{ending}", "generated", "c2pa c2pa.created: trainedAlgorithmicMedia", "")
          for ending in ("jpg", "png", "webp", "avif")),
        *((f"digital_source.{ending}", "generated", "xmp DigitalSourceType: trainedAlgorithmicMedia", "")
          for ending in ("jpg", "png", "webp")),
        ("c2pa_notallowed.jpg", "", "", "cawg.ai_generative_training: notAllowed"),
        ("c2pa_constrained.png", "", "", "c2pa.ai_training: constrained"),
        ("c2pa_allowed.webp", "", "", ""),
        ("c2pa_jpegtrust.jpg", "", "", "jpt.rights prohibition: mine"),
    ],
)  # fmt: skip
def test_what_the_standards_tools_write_is_read(name: str, synthetic: str, source: str, refused: str) -> None:
    found = said.read((FIXTURES / name).read_bytes())
    assert (found.synthetic, found.synthetic_source, found.refused) == (synthetic, source, refused)


@pytest.mark.parametrize("path", sorted(FIXTURES.glob("c2pa_*")), ids=lambda path: path.name)
def test_assertions_are_those_that_c2pas_own_reader_sees(path: Path) -> None:
    tool = pytest.importorskip("c2pa")
    kind = {"jpg": "jpeg"}.get(path.suffix[1:], path.suffix[1:])
    with path.open("rb") as file:
        stored = json.loads(tool.Reader(f"image/{kind}", file).json())
    expected = stored["manifests"][stored["active_manifest"]]["assertions"]
    ours = {one.label: one.value for one in c2pa.read(embedded.find(path.read_bytes()).jumbf).assertions}
    for one in expected:
        if one["label"] in ours:
            assert json.loads(json.dumps(ours[one["label"]])) == one["data"], one["label"]
    assert {one["label"] for one in expected} - {*ours} <= {"c2pa.hash.bmff.v3"}


@pytest.mark.parametrize(
    ("term", "synthetic"),
    [("trainedAlgorithmicMedia", "generated"), ("algorithmicMedia", "generated"),
     ("compositeWithTrainedAlgorithmicMedia", "partly"), ("compositeSynthetic", "partly"),
     ("digitalCapture", ""), ("digitalArt", ""), ("algorithmicallyEnhanced", ""), ("", "")],
)  # fmt: skip
def test_digital_source_types(term: str, synthetic: str) -> None:
    content = f'<rdf:Description rdf:about="" iptcExt:DigitalSourceType="{TERMS}{term}"/>'
    assert said.read(picture("JPEG", xmp=packet(content))).synthetic == synthetic


def png(**texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_text(key, text)
    return picture("PNG", pnginfo=info)


A1111 = "a dog\nNegative prompt: cat\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 1, Size: 512x512"


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (png(parameters=A1111), "png parameters: Stable Diffusion"),
        (png(prompt='{"3": {"class_type": "KSampler", "inputs": {"seed": 1}}}'), "png prompt: ComfyUI"),
        (png(Software="NovelAI"), "png software: NovelAI"),
        (png(invokeai_metadata="{}"), "png invokeai_metadata: InvokeAI"),
        (png(Description="a dog --v 6 Job ID: 12345678-1234-1234-1234-123456789abc"),
         "png description: Midjourney"),
        (picture("JPEG", xmp=packet('<rdf:Description xmp:CreatorTool="Adobe Firefly 3"/>')),
         "xmp xmp:CreatorTool: Adobe Firefly"),
        (picture("JPEG", xmp=packet('<rdf:Description photoshop:Credit="Made with Google AI"/>')),
         "xmp photoshop:Credit: Made with Google AI"),
        (png(parameters="Steps to reproduce: none", prompt="Your name", Software="Adobe ImageReady"), ""),
        (png(Description="Firefly at night, midjourney of my life", Title="steps"), ""),
    ],
)  # fmt: skip
def test_generators_marks(data: bytes, source: str) -> None:
    found = said.read(data)
    assert (found.synthetic, found.synthetic_source) == (("generated", source) if source else ("", ""))


@pytest.mark.parametrize("order", ["little", "big"])
def test_a_comment_in_exif(order: str) -> None:
    exif = Image.Exif()
    exif.endian = "<" if order == "little" else ">"
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + A1111.encode(
        "utf-16-le" if order == "little" else "utf-16-be"
    )
    for kind in ("JPEG", "WEBP"):
        assert said.read(picture(kind, exif=exif)).synthetic_source == "exif UserComment: Stable Diffusion"


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return (8 + len(body)).to_bytes(4, "big") + kind + body


def superbox(label: str, *content: bytes) -> bytes:
    return box(b"jumb", box(b"jumd", bytes(16), b"\3", label.encode(), b"\0"), *content)


def store(*manifests: list[tuple[str, Any]]) -> c2pa.Store:
    made = []
    for number, assertions in enumerate(manifests):
        boxes = (superbox(label, box(b"json", json.dumps(value).encode())) for label, value in assertions)
        made.append(superbox(f"m{number}", superbox("c2pa.assertions", *boxes)))
    return c2pa.read(superbox("c2pa", *made))


@pytest.mark.parametrize("family", ["c2pa", "cawg"])
@pytest.mark.parametrize("entry", ["ai_training", "ai_generative_training", "data_mining", "ai_inference"])
@pytest.mark.parametrize("use", ["notAllowed", "constrained", "allowed", "maybe", None])
def test_training_and_mining(family: str, entry: str, use: str | None) -> None:
    value = {"entries": {f"{family}.{entry}": {"use": use}}}
    refuses = use in ("notAllowed", "constrained") and entry != "ai_inference"
    expected = f"{family}.{entry}: {use}" if refuses else ""
    assert c2pa.refusal(store([(f"{family}.training-mining", value)])) == expected
    allowed = {"entries": {f"{family}.{entry}": {"use": "allowed"}}}
    both = store([(f"{family}.training-mining", value)], [(f"{family}.training-mining__1", allowed)])
    assert c2pa.refusal(both) == expected, "of what differs the strictest holds"


AGREEMENT = {  # from the tests of the library mipams-jpeg-trust
    "@context": "http://www.w3.org/ns/odrl.jsonld", "@type": "Agreement",
    "obligation": [{"action": [{"rdf: value": {"@id": "odrl: compensate"}, "refinement": [{"x": 5}]}]}],
}  # fmt: skip
CONSENT = [{"action": "obtainConsent"}]


@pytest.mark.parametrize(
    ("policy", "refused"),
    [
        ({"prohibition": [{"action": "tdm:mine"}]}, "prohibition: mine"),
        ({"odrl:prohibition": {"action": {"@id": "http://www.w3.org/ns/tdmrep#mine"}}}, "prohibition: mine"),
        ({"prohibition": [{"action": ["odrl:print", "ai-training"]}]}, "prohibition: aitraining"),
        ([{"policies": [{"prohibition": [{"action": "use"}]}]}], "prohibition: use"),
        ({"prohibition": [{"action": "odrl:reproduce"}]}, "prohibition: reproduce"),
        ({"prohibition": [{"action": "mine", "constraint": [1]}]}, "prohibition: mine under conditions"),
        ({"permission": [{"action": "tdm:mine", "duty": CONSENT}]}, "permission: mine under conditions"),
        ({"permission": [{"action": [{"rdf:value": {"@id": "tdm:mine"}, "refinement": [1]}]}]},
         "permission: mine under conditions"),
        ({"permission": [{"action": "tdm:mine"}]}, ""), ({"permission": [{"action": "use"}]}, ""),
        ({"permission": [{"action": "use", "duty": CONSENT}]}, ""),  # of mining it says nothing
        ({"prohibition": [{"action": "odrl:use", "constraint": [{"leftOperand": "spatial"}]}]}, ""),
        ({"prohibition": [{"action": "odrl:sell"}, {"action": None}, {}, 5]}, ""),
        (AGREEMENT, ""), ([], ""), (None, ""), ("tdm:mine", ""),
    ],
)  # fmt: skip
def test_rights_declarations_of_jpeg_trust(policy: Any, refused: str) -> None:
    expected = f"jpt.rights {refused}" if refused else ""
    assert c2pa.refusal(store([("jpt.rights", policy)])) == expected
    assert c2pa.refusal(store([("jpt.rights__1", policy)], [("c2pa.actions", {})])) == expected
    assert c2pa.refusal(store([("jpt.rights-other", policy)])) == ""


def test_what_a_picture_was_made_from_makes_it_partly_generated() -> None:
    def actions(term: str, name: str = "c2pa.created") -> tuple[str, Any]:
        return "c2pa.actions", {"actions": [{"action": name, "digitalSourceType": TERMS + term}]}

    def judged(*manifests: list[tuple[str, Any]]) -> str:
        found = list(c2pa.source_types(store(*manifests)))
        from pipeline.images import origin

        return origin.origin(embedded.Embedded(), {}, store(*manifests))[0] if found else "nothing"

    assert judged([actions("trainedAlgorithmicMedia")]) == "generated"
    assert judged([actions("trainedAlgorithmicMedia")], [actions("digitalCapture")]) == "partly"
    assert judged([actions("digitalCapture"), actions("trainedAlgorithmicMedia", "c2pa.placed")]) == "partly"
    assert (
        judged([actions("digitalCapture"), actions("compositeWithTrainedAlgorithmicMedia", "c2pa.edited")])
        == "partly"
    )
    assert judged([actions("digitalCapture")]) == ""


LEAVES = st.none() | st.booleans() | st.integers(0, 2**40) | st.text(max_size=8)
KEYS = st.text(max_size=4)
TREES = st.recursive(LEAVES, lambda x: st.lists(x, max_size=4) | st.dictionaries(KEYS, x, max_size=4))


@given(TREES | st.dictionaries(st.sampled_from(["permission", "prohibition", "odrl:x"]), TREES))
def test_any_policy_is_no_crash(policy: Any) -> None:
    odrl.refusal(policy)


@given(TREES)
def test_cbor_is_read_as_it_is_written(value: Any) -> None:
    assert c2pa.cbor(encoded(value)) == value


def encoded(value: Any) -> bytes:
    def head(kind: int, number: int) -> bytes:
        if number < 24:
            return bytes([kind << 5 | number])
        return bytes([kind << 5 | 27]) + number.to_bytes(8, "big")

    if value is None or isinstance(value, bool):
        return bytes([{None: 0xF6, False: 0xF4, True: 0xF5}[value]])
    if isinstance(value, int):
        return head(0, value)
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(encoded, value))
    return head(5, len(value)) + b"".join(encoded(key) + encoded(inner) for key, inner in value.items())


@given(st.binary(max_size=300))
def test_any_bytes_are_no_crash(noise: bytes) -> None:
    c2pa.read(noise)
    for kind in (b"cbor", b"json"):
        list(c2pa.source_types(c2pa.read(superbox("c2pa", superbox("c2pa.actions", box(kind, noise))))))
        c2pa.refusal(c2pa.read(superbox("c2pa", superbox("cawg.training-mining", box(kind, noise)))))


@given(
    st.sampled_from(sorted(FIXTURES.glob("c2pa_*"))), st.integers(0, 4200), st.binary(min_size=1, max_size=12)
)
def test_damaged_manifests_are_no_crash(path: Path, place: int, noise: bytes) -> None:
    data = path.read_bytes()
    said.read(data[:place])
    said.read(data[:place] + noise + data[place + len(noise) :])


def test_bombs_end_soon() -> None:
    nested = b""
    for _ in range(3000):
        nested = superbox("c2pa.actions", nested)[: 1 << 20]
    assert c2pa.read(nested).assertions == ()
    assert c2pa.read(box(b"jumb", b"") * 100_000).manifests == 0
    for bomb in (b"\x9f" * 5000, b"\x9b" + b"\xff" * 8, b"\x7f" * 5000, b"\xbf" * 5000, b"\xc0" * 5000):
        with pytest.raises(ValueError):
            c2pa.cbor(bomb)


def test_a_refusal_and_an_origin_have_their_reasons() -> None:
    def reason(name: str, terms: Terms) -> str:
        body = (FIXTURES / name).read_bytes()
        return terms.judge(
            b"", Outcome("u", "u", "", "", 200, body, "", 0.1, "", None), said.read(body)
        ).reason

    assert reason("c2pa_notallowed.jpg", Terms()) == "opt_out_c2pa"
    assert reason("c2pa_notallowed.jpg", Terms(opt_out=("xmp",))) == ""
    assert reason("c2pa_created.png", Terms()) == ""
    assert reason("c2pa_created.png", Terms(drop_synthetic=True)) == "synthetic"


def test_a_crawl_counts_and_drops_what_machines_made(tmp_path: Path) -> None:
    site, pages = Site(), tmp_path / "pages"
    pages.mkdir()
    names = ["c2pa_created.jpg", "c2pa_notallowed.jpg", "c2pa_allowed.webp", "digital_source.png"]
    for name in names:
        site.answers[f"/{name}"] = ((FIXTURES / name).read_bytes(), {})
    buffer = io.BytesIO()
    Image.new("RGB", (48, 40), "red").save(buffer, "JPEG")
    site.answers["/plain.jpg"] = (buffer.getvalue(), {})
    (pages / "a.html").write_text(
        "".join(f'<img src="/{n}" alt="picture {n[:4]} of it">' for n in [*names, "plain.jpg"])
    )
    try:
        crawl(site, pages, tmp_path / "all", "--dedup", "off")
        crawl(site, pages, tmp_path / "some", "--dedup", "off", "--drop-synthetic")
    finally:
        site.server.shutdown()
    rows = by_name(samples(tmp_path / "all"))
    assert {name: row["synthetic"] for name, row in rows.items()} == {
        "c2pa_created.jpg": "generated", "digital_source.png": "generated", "c2pa_allowed.webp": "",
        "plain.jpg": "",
    }  # fmt: skip
    assert [row["reason"] for row in rejected(tmp_path / "all")] == ["opt_out_c2pa"]
    report = json.loads((tmp_path / "all/report/report.json").read_text())
    assert report["synthetic"] == {"": 2, "generated": 2}
    assert [one["reason"] for one in report["opt_outs"]] == ["opt_out_c2pa"]
    assert sorted(by_name(samples(tmp_path / "some"))) == ["c2pa_allowed.webp", "plain.jpg"]
    gone = {row["reason"]: row["detail"] for row in rejected(tmp_path / "some")}
    assert gone["synthetic"].startswith("generated: ")
