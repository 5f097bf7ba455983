"""Content-Encoding: which words name an encoding, and how much of any body is decoded."""

import gzip
import zlib
from collections.abc import Callable

import brotli
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from pipeline.http import codings

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
    "br": brotli.compress,
    "zstd": zstandard.compress,
}


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(data) + packer.flush()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], []),
        (["none"], []),
        (["UTF-8", "aws-chunked, 8bit"], []),
        (["identity, identity"], []),
        (["GZIP"], ["gzip"]),
        (["gzip, br", "identity", " zstd ;q=1"], ["gzip", "br", "zstd"]),
        (["aws-chunked,gzip"], ["gzip"]),
        (["compress"], ["compress"]),
    ],
)
def test_only_registered_words_are_encodings(values: list[str], expected: list[str]) -> None:
    assert codings.named(values) == expected


@given(st.binary(max_size=5000), st.lists(st.sampled_from(sorted(PACK)), max_size=3))
def test_what_was_packed_is_unpacked(body: bytes, names: list[str]) -> None:
    packed = body
    for name in names:
        packed = PACK[name](packed)
    assert codings.undo(packed, names, max(len(packed), 1 << 16)) == (body, "")


def test_deflate_may_be_raw() -> None:
    assert codings.undo(raw_deflate(b"abc" * 99), ["deflate"], 999) == (b"abc" * 99, "")


@given(st.binary(max_size=300), st.sampled_from(sorted(PACK)), st.integers(0, 400))
def test_damage_is_noticed_and_never_raises(junk: bytes, name: str, cut: int) -> None:
    plain, problem = codings.undo(junk, [name], 1000)
    assert len(plain) <= 1000 and not (plain and problem)
    whole = PACK[name](b"a picture, or a page" * 10)
    plain, problem = codings.undo(whole[: min(cut, len(whole) - 1)], [name], 1000)
    assert plain == b"" and problem.startswith(f"{name}: ")


@pytest.mark.parametrize("name", sorted(PACK))
def test_nothing_is_unpacked_beyond_the_limit(name: str) -> None:
    for limit in (0, 1, 99_999):
        problem = f"{name}: it unpacks to more than {limit} bytes"
        assert codings.undo(PACK[name](bytes(10_000_000)), [name], limit) == (b"", problem)
    assert codings.undo(PACK[name](bytes(99_999)), [name], 99_999) == (bytes(99_999), "")
    nested = PACK[name](PACK[name](bytes(10_000_000)))
    assert codings.undo(nested, [name, name], 50_000)[0] == b""
    assert codings.undo(b"", [name] * 4, 5000) == (b"", "4 encodings")
    assert codings.undo(b"", ["compress"], 5000) == (b"", "compress is not understood")
