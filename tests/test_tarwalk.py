"""Archives of anybody: the standard library's members in honest archives, limits on the others."""

import bz2
import contextlib
import gzip
import io
import lzma
import tarfile
import tracemalloc
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import tarwalk
from pipeline.data import webdataset
from train import tar as train_tar

NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=150).filter(
    lambda name: not name.endswith("/") and not name.isspace()
)
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]


class Bytes:
    """Bytes as a stream, whose reads are bounded by the bytes that are there."""

    def __init__(self, data: bytes) -> None:
        self.file, self.left = io.BytesIO(data), len(data)

    def read(self, size: int) -> bytes:
        data = self.file.read(size)
        self.left -= len(data)
        return data

    def skip(self, size: int) -> None:
        if size > self.left:
            raise ValueError("cut")
        self.read(size)


def pack(files: dict[str, bytes], format: int = tarfile.GNU_FORMAT) -> bytes:
    """Return an archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def header(name: bytes, size: int, kind: bytes = b"0") -> bytes:
    """Return a header that says anything."""
    info = tarfile.TarInfo(name.decode())
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@given(st.dictionaries(NAMES, st.binary(max_size=1200), max_size=5), st.sampled_from(FORMATS[1:]))
def test_members_are_those_of_the_standard_library(files: dict[str, bytes], format: int) -> None:
    data = pack(files, format)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        expected = [(m.name, m.size, m.isfile(), m.isdir()) for m in archive]
    stream, found = Bytes(data), []
    for member in tarwalk.members(stream):
        content = stream.read(member.size)
        found.append((member.name.rstrip("/") or member.name, *member[1:]))
        assert content == files[member.name]
    assert found == expected


@pytest.mark.parametrize("format", FORMATS)
def test_links_devices_and_folders_are_passed_over(format: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as archive:
        for name, kind in (("d", tarfile.DIRTYPE), ("l", tarfile.SYMTYPE), ("f", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        info = tarfile.TarInfo("a/1.txt")
        info.size = 3
        archive.addfile(info, io.BytesIO(b"dog"))
    bad: Counter[str] = Counter()
    samples = list(webdataset.read(io.BytesIO(buffer.getvalue()), bad))
    assert samples == [webdataset.WebDatasetSample("a/1", {"txt": b"dog"})] and bad == {"not_a_file": 2}


@given(st.binary(max_size=3000), st.integers(0, 3000))
def test_any_bytes_are_samples_or_a_value_error(noise: bytes, at: int) -> None:
    whole = pack({"1.jpg": b"x" * 700, "1.txt": b"dog", "1.json": b"{}"})
    for data in (noise, whole[:at] + noise + whole[at + len(noise) :], whole[:at]):
        with contextlib.suppress(ValueError):
            list(webdataset.read(io.BytesIO(data)))
        index = train_tar.index(memoryview(data))
        assert all(offset > 0 and offset + size <= len(data) for offset, size in index.rows[:, :2])


LIES: dict[str, bytes] = {
    "a member of 4 GB": header(b"1.jpg", 4 << 30), "a member of 60 MB": header(b"1.jpg", 60 << 20),
    "a name of 4 GB": header(b"././@LongLink", 4 << 30, b"L"), "records of 4 GB": header(b"p", 4 << 30, b"x"),
    "global records of 4 GB": header(b"p", 4 << 30, b"g"), "negative": header(b"1.jpg", -5),
    "2^80": header(b"1.jpg", 1 << 80), "records that say 2^60": header(b"p", 28, b"x")
    + b"28 size=1152921504606846976\n\n\n".ljust(512, b"\0") + header(b"1.jpg", 3) + bytes(1536),
}  # fmt: skip


@pytest.mark.parametrize("data", LIES.values(), ids=LIES)
def test_a_size_is_not_believed_before_the_bytes_are_there(data: bytes) -> None:
    data += b"x" * 1000
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="not a whole tar archive"):
            list(webdataset.read(io.BytesIO(data)))
        assert train_tar.index(memoryview(data)).damage
        assert tracemalloc.get_traced_memory()[1] < 80 << 20
    finally:
        tracemalloc.stop()


def test_pax_records_are_read_in_a_time_that_grows_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    def records(count: int) -> bytes:
        text = b"".join(b"8 a=bc\n\n"[:7].replace(b"8", b"7") for _ in range(count))
        return text + b"14 path=1.jpg\n"

    touched = 0
    real = tarwalk._pax

    class Text(bytes):
        def find(self, *arguments: Any) -> int:
            nonlocal touched
            touched += 1
            return super().find(*arguments)

        def __getitem__(self, key: Any) -> Any:
            nonlocal touched
            found = super().__getitem__(key)
            touched += len(found) if isinstance(found, bytes) else 1
            return found

    steps = []
    for count in (1000, 4000):
        touched = 0
        assert real(Text(records(count)))[b"path"] == b"1.jpg"
        steps.append(touched)
    assert steps[1] < 5 * steps[0]


@pytest.mark.parametrize("compress", [gzip.compress, bz2.compress, lzma.compress])
def test_compressed_archives(compress: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack({"1.jpg": b"x", "1.txt": b"dog"})
    assert [s.key for s in webdataset.read(io.BytesIO(compress(whole)))] == ["1"]
    with pytest.raises(ValueError, match="not a whole tar archive"):
        list(webdataset.read(io.BytesIO(compress(whole)[: len(compress(whole)) // 2])))
    monkeypatch.setattr(webdataset, "FREE", 1 << 20)
    bomb = pack({"1.bin": bytes(80 << 20), "1.jpg": b"x"})
    with pytest.raises(ValueError, match="unpacks to more than"):
        list(webdataset.read(io.BytesIO(compress(bomb))))


def test_archives_without_an_end_and_too_large_members(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pack({"1.jpg": b"x", "2.jpg": b"y" * 600, "2.txt": b"dog"})
    unended = whole[: 512 * 7]
    assert [s.key for s in webdataset.read(io.BytesIO(unended))] == ["1", "2"]
    assert "end-of-archive" in train_tar.index(memoryview(unended)).damage
    monkeypatch.setattr(webdataset, "MAX_MEMBER", 500)
    bad: Counter[str] = Counter()
    assert [set(s.parts) for s in webdataset.read(io.BytesIO(whole), bad)] == [{"jpg"}, {"txt"}]
    assert bad == {"too_large": 1}
