"""Files that anybody may have written: JSON of any shape, manifests that name other people's files."""

import contextlib
import json
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import beam_job
from pipeline import checked_manifest, progress, schemas, tombstones, untrusted
from pipeline.fetch.parts import Fetched
from pipeline.lock import Holder
from pipeline.run_folder import Layout
from pipeline.takedown import work
from tests import finished_run, train_shards
from train.shard_sources import OpenShard

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=12,
)


@given(JSON_VALUES)
def test_json_is_read_as_the_standard_library_reads_it(value: Any) -> None:
    def small(one: Any) -> Any:
        if isinstance(one, dict):
            return {small(name): small(item) for name, item in one.items()}
        if isinstance(one, list):
            return [small(item) for item in one]
        if isinstance(one, int) and not isinstance(one, bool) and len(str(one)) > 18:
            return float(one)
        return (
            "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in one)
            if isinstance(one, str)
            else one
        )

    try:
        text = json.dumps(small(value))
    except OverflowError:  # an integer that no float holds
        return
    assert untrusted.parse_json(text.encode()) == json.loads(text)
    assert untrusted.parse_json(json.dumps(value).encode()) == small(value)


@given(st.binary())
def test_any_bytes_are_a_value_or_a_value_error(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        untrusted.parse_json(data)


@pytest.mark.parametrize(
    "data",
    [
        b"[" * 100_000, b'{"a":' * 100_000, b"[" * 200 + b"]" * 200, b'["' + b'\\"' * 200_000, b'"' * 300_001,
        b"\xff\xfe[\x00]\x00", b"[1,", b"", b"\x00" * 99, b'"\xff"', b"1" * 5_000_000 + b"x",
    ],
)  # fmt: skip
def test_json_that_would_end_a_program_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        untrusted.parse_json(data)
    assert len(str(raised.value)) < 300


def test_json_of_other_writers_is_taken() -> None:
    assert untrusted.parse_json(b'{"a": NaN}')["a"] != 0
    assert untrusted.parse_json(b"\xef\xbb\xbf[1]") == [1]
    assert untrusted.parse_json(b"[" * 90 + b"]" * 90) is not None
    assert untrusted.parse_json(b'["' + b"[" * 5000 + b'"]') == ["[" * 5000], (
        "brackets in a text are no depth"
    )
    assert untrusted.parse_json(b"9" * 400) == float("inf")
    assert untrusted.parse_json(rb'"\ud83d\ude00 \ud83d \\ud83d"') == "\U0001f600 \ufffd \\ud83d"
    with pytest.raises(ValueError, match="more than 10 bytes"):
        untrusted.parse_json(b"[          1]", 10)


def test_a_sample_whose_json_cannot_be_read_is_trained_on_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    rows = [b"[" * 100_000, b'{"uid": "1"}', b"[1]", b"{", b'{"caption": "%s"}' % (b"x" * (2 << 20))]
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, row in enumerate(rows):
            train_shards.member(tar, f"{number}.jpg", train_shards.jpeg("red"))
            train_shards.member(tar, f"{number}.txt", b"a red square")
            train_shards.member(tar, f"{number}.json", row)
    bad: Counter[str] = Counter()
    with OpenShard(str(path)) as shard:
        assert [shard.row(place, bad) for place in range(5)] == [{}, {"uid": "1"}, {}, {}, {}]
        assert shard.captions(0, {}) == ["a red square"]
    assert bad == {"bad_json": 4}


NOT_NAMES = [
    "../../x.tar", "/abs/x.tar", "x/0.tar", "..tar", ".tar", "0.TAR", "0.tar.gz", "0", "", "\u0660.tar",
    "0.tar\n",
    "gs://b/0.tar", "C:\\0.tar", "\x1b[31m.tar", "[/x].tar", 0, None, ["0.tar"], "9" * 500 + ".tar",
]  # fmt: skip


@pytest.mark.parametrize("name", NOT_NAMES, ids=repr)
@pytest.mark.parametrize("read", [checked_manifest.read, checked_manifest.shards_of])
def test_only_digits_are_names_of_shards(tmp_path: Path, name: Any, read: Any) -> None:
    layout = finished_run.build(tmp_path / "run", ["a dog"])
    assert read(layout.root).shards[0].name == "00000.tar"
    found = json.loads(Path(layout.manifest).read_text())
    found["shards"][0]["name"] = name
    Path(layout.manifest).write_text(json.dumps(found))
    with pytest.raises(ValueError, match=r"shards\[0\].name(: expected `str`| is not the name of a shard)"):
        read(layout.root)


@given(st.data())
def test_no_damage_to_a_manifest_is_anything_but_a_value_error(data: Any) -> None:
    whole = {
        "configuration": {"queries": "q", "per_query": 1, "source": ["s"], "lang": "en"}, "seed": 0,
        "crawled": {"first": None, "last": "2026"}, "rejected_sampled": False,
        "queries": {"queries": 1, "matched": 1, "full": 0, "short": 0},
        "counts": {"candidates": 1, "captions": 1, "samples": 1, "rejected": 0, "rejected_by_stage": {}},
        "rounds": [{"images": 1, "bytes": 1, "reasons": {"": 1}}],
        "shards": [{"name": "0.tar", "samples": 1, "bytes": 1, "sha256": "0" * 64,
                    "parquet_sha256": "0" * 64}],
    }  # fmt: skip
    copy = json.loads(json.dumps(checked_manifest.encode(checked_manifest.decode(whole, "p"))))
    assert {name: copy[name] for name in whole} == whole
    place: Any = whole
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        place[key] = data.draw(JSON_VALUES)
        break
    for decode in (checked_manifest.decode, checked_manifest.decode_shards):
        try:
            decode(whole, "p")
        except ValueError as error:
            assert str(error).startswith("p is not the manifest of a run of openwit: ")


MANIFESTS = {
    "a list": "[]", "null": "null", "nested": "[" * 100_000, "nested objects": '{"shards":' * 5000,
    "a number": '{"shards": 3}', "cut": '{"shards": [', "no text": b"\xff\xfe", "empty": "",
    "names of shards": '{"shards": ["00000.tar"]}',
    "a huge count": '{"shards": [{"name": "0.tar", "samples": 1e999}]}',
    "a path": '{"shards": [{"name": "../../x.tar", "samples": 1}]}',
    "another's path": '{"shards": [{"name": "/etc/0.tar", "samples": 1}]}',
    "markup": '{"shards": [{"name": "[/x]\\u001b[31m.tar", "samples": 1}]}',
}  # fmt: skip


@pytest.mark.parametrize("text", MANIFESTS.values(), ids=MANIFESTS)
@pytest.mark.parametrize(
    "command", ["verify", "status", "takedown", "compact", "plan", "extend", "overlap", "train"]
)
def test_a_foreign_manifest_is_one_line(
    tmp_path: Path, command: str, text: str | bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    finished_run.build(run, ["a dog"])
    path = run / "manifest.json"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    out, image = str(tmp_path / "out"), tmp_path / "eval" / "a" / "x.jpg"
    image.parent.mkdir(parents=True)
    image.write_bytes(train_shards.jpeg("red"))
    arguments = {
        "takedown": ["takedown", "--run", str(run), "--url", "https://a.test/x.jpg"],
        "compact": ["compact", "--run", str(run), "--out", out],
        "extend": ["crawl", "--extend", str(run), "--source", str(image)],
        "overlap": ["overlap", "--run", str(run), "--eval", f"e={image.parent.parent}", "--out", out],
        "train": ["train", "--shards", str(run), "--model", "tiny", "--out", out],
        "plan": ["plan", "--run", str(run), "--pairs", "1000"],
    }.get(command, [command, "--run", str(run)])
    capfd.readouterr()
    try:
        code = beam_job.main(arguments)
    except SystemExit as exit:
        code = int(exit.code or 0)
    said = capfd.readouterr().err
    assert code == 2 and "Traceback" not in said and "\x1b" not in said, said
    lines = [line for line in said.splitlines() if line]
    assert len(lines) == 1 and "manifest.json" in lines[0], said
    assert not (tmp_path / "x.tar").exists()


@pytest.mark.parametrize(
    "notes",
    ["[]", "null1", "[" * 100_000, '{"steps": 3}', '{"steps": [3]}', '{"steps": [{"label": 1}]}',
     '{"steps": [{"label": "a", "folder": "b", "total": 1e99}]}',
     '{"steps": [{"label": "a", "folder": "b", "total": 1, "started": 1e300}]}',
     '{"steps": [{"label": "a", "folder": "b", "total": 1, "tally": {"reasons": {"x": "y"}}}]}'],
)  # fmt: skip
def test_status_of_notes_that_nobody_wrote(
    tmp_path: Path, notes: str, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / progress.STATE).write_text(notes)
    with pytest.raises(SystemExit) as exited:
        beam_job.main(["status", "--run", str(tmp_path)])
    said = capfd.readouterr().err
    assert exited.value.code == 2 and len(said.splitlines()) == 1 and "progress.json" in said


def test_a_record_is_what_its_class_says() -> None:
    step = progress.StepProgress(label="a", folder="b", total=3, tally={"done": 1})
    assert untrusted.record(progress.StepProgress, vars(step), "p") == step
    assert untrusted.record(Holder, {}, "p").pid
    for wrong in ({"pid": "1"}, {"pid": True}, {"beat": float("nan")}, {"other": 1}, [], None):
        with pytest.raises(ValueError, match=r"p (has|lacks)"):
            untrusted.record(Holder, wrong, "p")


def test_a_takedown_that_somebody_planted_touches_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run, other = tmp_path / "run", tmp_path / "other"
    finished_run.build(run, ["a dog"])
    other.mkdir()
    (other / "index.html").write_text("mine")
    stones = {"urls": [], "domains": [], "sha256": [], "phash": []}
    counts = {"candidates": 3, "captions": 1, "samples": 1, "rejected": 2,
              "rejected_by_stage": {"candidates": {"taken_down": 0}}}  # fmt: skip
    for published, overlap in (
        (None, [str(other)]), ({"shards": ["../../other/0.tar"], "counts": counts}, []),
        ({"shards": 3}, []), (3, []),
    ):  # fmt: skip
        pending = {"tombstones": stones, "published": published, "overlap": overlap}
        (run / "takedown.json").write_text(json.dumps(pending))
        with pytest.raises(SystemExit) as exited:
            beam_job.main(["takedown", "--run", str(run), "--url", "https://a.test/x.jpg"])
        assert exited.value.code == 2
        assert (other / "index.html").read_text() == "mine"
    assert "Traceback" not in capfd.readouterr().err


def test_a_run_does_not_say_where_else_to_write(tmp_path: Path) -> None:
    victim, layout = tmp_path / "victim.blob", Layout(str(tmp_path / "run"))
    victim.write_bytes(b"mine")
    Path(layout.staging).mkdir(parents=True)
    for blob in ("../../../victim", str(tmp_path / "victim"), "..", "a/../../../../victim"):
        path = f"{layout.staging}/round-0/0.parquet"
        row = {"uid": b"1" * 16, "final_url": "https://a.test/x.jpg", "blob": blob, "offset": 0, "length": 4}
        schemas.write_table(path, pa.Table.from_pylist([row]))
        unit = Fetched(
            name="0", unit="", path=path, blob="", log="", images=1, bytes=4, seconds=0.0, reasons={"": 1}
        )
        with pytest.raises(ValueError, match="outside of the run"):
            work._fetched(layout, unit, tombstones.request(url=["https://a.test/x.jpg"]))
    assert victim.read_bytes() == b"mine"
