"""Shards: bytes that never change, read by every tar reader, and a reader that trusts nothing."""

import hashlib
import io
import pickle
import shutil
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import orjson
import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import shards
from pipeline.shards import Sample, ShardError, encode_json, read_shard, write_shard

SAMPLES = [
    Sample("000000000", b"\xff\xd8 first \xff\xd9", "a caption", b'{"a":1}'),
    Sample("000000001", bytes(range(256)) * 2, "caf\u00e9 \u4e2d\u6587 \U0001f600", b'{"b":null}'),
    Sample("000000002", b"", "", b""),
]


def tar_of(members: Iterable[tuple[str, bytes]], **fields: object) -> bytes:
    """Return a ustar archive of named contents as `tarfile` writes it."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def members_of(samples: Iterable[Sample]) -> list[tuple[str, bytes]]:
    return [
        (f"{sample.key}.{suffix}", data)
        for sample in samples
        for suffix, data in (("jpg", sample.jpg), ("json", sample.json), ("txt", sample.txt.encode()))
    ]


def read(data: bytes) -> tuple[list[Sample], Counter[str]]:
    bad: Counter[str] = Counter()
    return list(read_shard(io.BytesIO(data), bad)), bad


def test_bytes_are_golden_and_described(tmp_path: Path) -> None:
    path = tmp_path / "00000.tar"
    written = write_shard(path, iter(SAMPLES))
    data = path.read_bytes()
    assert written == (hashlib.sha256(data).hexdigest(), len(data), 3)
    assert written.sha256 == "e99d38a2f178f93a788d0a88fd78acf574197d28ba7ce90191d72567f82263da"
    assert len(data) % 10_240 == 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_equals_tarfile_byte_for_byte(tmp_path: Path, count: int) -> None:
    write_shard(tmp_path / "x.tar", SAMPLES[:count])
    assert (tmp_path / "x.tar").read_bytes() == tar_of(members_of(SAMPLES[:count]))


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.binary(max_size=1100), st.text(max_size=40), st.binary(max_size=600)), max_size=5)
)
def test_any_samples_round_trip(
    tmp_path_factory: pytest.TempPathFactory, contents: list[tuple[bytes, str, bytes]]
) -> None:
    samples = [Sample(f"{i:06d}", jpg, txt, json) for i, (jpg, txt, json) in enumerate(contents)]
    path = tmp_path_factory.getbasetemp() / "round_trip.tar"
    written = write_shard(path, samples)
    data = path.read_bytes()
    assert data == tar_of(members_of(samples))
    assert (written.bytes, written.samples) == (len(data), len(samples))
    assert read(data) == (samples, Counter())


def test_gnu_tar_extracts_it(tmp_path: Path) -> None:
    tar = shutil.which("tar")
    if tar is None:
        pytest.skip("no tar program")
    write_shard(tmp_path / "x.tar", SAMPLES)
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run([tar, "-xf", tmp_path / "x.tar", "-C", out], capture_output=True, check=True)
    assert done.stderr == b""
    assert {p.name: p.read_bytes() for p in out.iterdir()} == dict(members_of(SAMPLES))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its file open
def test_webdataset_reads_it(tmp_path: Path) -> None:
    write_shard(tmp_path / "x.tar", SAMPLES)
    dataset = webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False)
    found = [Sample(s["__key__"], s["jpg"], s["txt"].decode(), s["json"]) for s in dataset]
    assert found == SAMPLES


@pytest.mark.parametrize(
    "keys", [["a"], [""], ["1/2"], ["../1"], ["\u0661"], ["2", "1"], ["1", "1"], ["9", "10"], ["1" * 33]]
)
def test_keys_must_be_ascending_digits(tmp_path: Path, keys: list[str]) -> None:
    with pytest.raises(ValueError, match="key"):
        write_shard(tmp_path / "x.tar", [Sample(key, b"", "", b"") for key in keys])


def test_json_is_canonical() -> None:
    row = {"z": 0.1 + 0.2, "a": [1, 2.00000004], "m": {"y": float("nan"), "x": "\u00e9"}}
    assert encode_json(row) == '{"a":[1,2.0],"m":{"x":"\u00e9","y":null},"z":0.3}'.encode()
    assert encode_json(dict(reversed(row.items()))) == encode_json(row)
    assert orjson.loads(encode_json({"x": 1e-9, "y": 123456789.0})) == {"x": 1e-9, "y": 123457000.0}


@pytest.mark.parametrize(
    "name",
    [
        "../../etc/passwd.jpg",
        "/abs.jpg",
        "a.jpg",
        "1.pkl",
        "1.pyd",
        "1.jpg.exe",
        "1\n.jpg",
        "1",
        "dir/1.jpg",
        "\u0661.jpg",
    ],
)
def test_foreign_names_are_left_out_and_counted(name: str) -> None:
    good = members_of(SAMPLES[:1])
    assert read(tar_of([*good, (name, b"x" * 700)])) == (SAMPLES[:1], Counter(bad_name=1))
    assert read(tar_of([(name, b"x" * 700), *good])) == (SAMPLES[:1], Counter(bad_name=1))


def test_a_name_in_the_prefix_field_is_foreign() -> None:
    name = "d" * 120 + "/1.jpg"
    assert read(tar_of([(name, b"x")])) == ([], Counter(bad_name=1))


def test_pickles_are_never_loaded() -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (pytest.fail, ("unpickled",))

    assert read(tar_of([("1.pkl", pickle.dumps(Bomb()))])) == ([], Counter(bad_name=1))


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_links_and_devices_are_refused(kind: bytes) -> None:
    archive = tar_of([("000000000.jpg", b"")], type=kind, linkname="/etc/passwd")
    assert read(archive) == ([], Counter(not_a_file=1))


def test_extension_headers_are_refused() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("1.jpg")
        info.pax_headers = {"path": "../evil.jpg"}
        archive.addfile(info)
    assert read(buffer.getvalue()) == ([], Counter(not_a_file=1, incomplete=1))


def test_duplicates_incomplete_samples_and_bad_text_are_counted() -> None:
    first, second = members_of(SAMPLES[:1]), members_of(SAMPLES[1:2])
    assert read(tar_of([first[0], *first, *second])) == (SAMPLES[:2], Counter(duplicate=1))
    assert read(tar_of([*first[:2], *second])) == (SAMPLES[1:2], Counter(incomplete=1))
    assert read(tar_of([*first[:2], ("000000000.txt", b"\xff")])) == ([], Counter(bad_text=1))


def test_members_over_the_limit_are_skipped_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "MAX_MEMBER", 1024)
    archive = tar_of([("1.jpg", b"x" * 5000), *members_of(SAMPLES[:1])])
    assert read(archive) == (SAMPLES[:1], Counter(too_large=1))


def test_every_cut_is_an_error() -> None:
    whole = tar_of(members_of(SAMPLES))
    content = 9 * 512 + 512 * sum(-(-len(data) // 512) for _, data in members_of(SAMPLES))
    assert read(whole[: content + 1024])[0] == SAMPLES
    for size in {*range(0, content + 1024, 512), *range(1, content + 1024, 97)}:
        with pytest.raises(ShardError, match="cut"):
            read(whole[:size])


def test_flipped_header_bits_are_an_error() -> None:
    whole = bytearray(tar_of(members_of(SAMPLES[:1])))
    for position in (0, 5, 124, 130, 148, 156, 257, 500):
        broken = bytearray(whole)
        broken[position] ^= 4
        with pytest.raises(ShardError):
            read(bytes(broken))
    broken = bytearray(whole)
    broken[124:136] = b"\x80" + bytes(10) + b"\x01"  # GNU's binary sizes are not ustar
    with pytest.raises(ShardError, match="not a tar header"):
        read(bytes(broken))


def test_a_zero_block_inside_is_an_error() -> None:
    with pytest.raises(ShardError, match="zero block"):
        read(bytes(512) + tar_of(members_of(SAMPLES)))


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 5000), st.binary(min_size=1, max_size=600))
def test_garbage_is_an_error_or_samples(position: int, junk: bytes) -> None:
    data = bytearray(tar_of(members_of(SAMPLES)))
    data[position : position + len(junk)] = junk
    try:
        found, _ = read(bytes(data))
    except ShardError:
        return
    assert len(found) <= len(SAMPLES)


def test_short_reads_of_a_stream_are_completed() -> None:
    class Trickle(io.RawIOBase):
        def __init__(self, data: bytes) -> None:
            self.left = data

        def read(self, size: int = -1) -> bytes:
            part, self.left = self.left[: min(size, 100)], self.left[min(size, 100) :]
            return part

    assert list(read_shard(Trickle(tar_of(members_of(SAMPLES))))) == SAMPLES  # type: ignore[arg-type]
