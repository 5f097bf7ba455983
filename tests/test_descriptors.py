"""The sign hash: stable under the changes of copies, far apart for different pictures, defined to the bit."""

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from pipeline.data import descriptors, views
from pipeline.data.descriptors import (
    PACKED_BYTES,
    Descriptors,
    describe,
    hamming,
    hash_and_quality,
    low_frequencies,
    mirrored,
    pack,
    packed,
    quality,
    sign_hash,
    sign_hashes,
    signs,
    unpack,
)

Luma = npt.NDArray[np.uint8]
LUMAS = hnp.arrays(np.uint8, (64, 64))
DATA = Path(__file__).resolve().parents[2] / "shared/data"


def picture(seed: int, side: int = 256) -> Image.Image:
    """Return octaves of seeded noise whose power falls with frequency, as that of photographs does."""
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side, 3))
    for cells in (3, 6, 12, 24, 48):
        grid = Image.fromarray(rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8))
        total += np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC), float) / cells
    total -= total.min()
    return Image.fromarray((total * (200 / total.max()) + 20).astype(np.uint8))


def luma(image: Image.Image) -> Luma:
    return descriptors.luma(views.squeeze(np.asarray(image.convert("RGB")), 64))


def distance(a: Image.Image, b: Image.Image) -> int:
    return hamming(sign_hash(luma(a)), sign_hash(luma(b)))


def recompressed(image: Image.Image, jpeg_quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=jpeg_quality)
    return Image.open(buffer)


def naive_dct(block: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the orthonormal DCT-II by its definition."""
    n = len(block)
    position = np.arange(n)
    rows = [np.cos(np.pi * (position + 0.5) * k / n) * np.sqrt((1 if k == 0 else 2) / n) for k in range(n)]
    basis = np.array(rows)
    return np.einsum("vy,yx,ux->vu", basis, block, basis, optimize=True)


@settings(max_examples=25, deadline=None)
@given(LUMAS)
def test_coefficients_are_the_dct(values: Luma) -> None:
    expected = naive_dct(values.astype(float))[:16, :16]
    assert np.abs(low_frequencies(values) - expected).max() <= 0.00051


@settings(max_examples=25, deadline=None)
@given(LUMAS)
def test_mirroring_negates_odd_horizontal_frequencies(values: Luma) -> None:
    flipped = np.ascontiguousarray(values[:, ::-1])
    assert np.array_equal(low_frequencies(flipped), mirrored(low_frequencies(values)))
    assert sign_hash(flipped) == signs(mirrored(low_frequencies(values))).tobytes()


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.uint8, (64, 64), elements=st.integers(0, 200)), st.integers(0, 55))
def test_brightness_does_not_matter(values: Luma, brighter: int) -> None:
    assert sign_hash(values + np.uint8(brighter)) == sign_hash(values)


@settings(max_examples=10, deadline=None)
@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 5), st.just(64), st.just(64))))
def test_batches_equal_single_hashes(batch: Luma) -> None:
    hashes = sign_hashes(batch)
    assert (hashes.shape, hashes.dtype) == ((len(batch), 32), np.uint8)
    assert [row.tobytes() for row in hashes] == [sign_hash(values) for values in batch]
    assert np.array_equal(sign_hashes(batch.astype(np.float32)), hashes)


def test_bits_are_where_they_are_said_to_be() -> None:
    """One horizontal wave of frequency 5 sets one bit: row 0, column 5, most significant bit first."""
    wave = 128 + 100 * np.cos(np.pi * (np.arange(64) + 0.5) * 5 / 64)
    across = np.tile(wave, (64, 1)).astype(np.float32)
    assert sign_hash(across) == bytes([0b00000100]) + bytes(31)
    assert sign_hash(np.ascontiguousarray(across.T)) == bytes(10) + bytes([0b10000000]) + bytes(21)


def test_golden() -> None:
    y, x = np.mgrid[:64, :64]
    assert sign_hash(((x * x + 3 * y * x + 7 * y) % 251).astype(np.uint8)).hex() == (
        "080f121c018a040a04d9213e08f70b36dfff107d26ddbbff5ff707b949b16735"
    )


@pytest.mark.skipif(descriptors._descriptors is None, reason="the C module is not built")
@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([2, 20, 256]), st.booleans(), st.booleans())
def test_c_and_numpy_give_the_same(seed: int, most: int, is_flat: bool, is_symmetric: bool) -> None:
    """Symmetric pictures have frequencies that are zero, but for the rounding of sums."""
    shape = (2, 64, 1 if is_flat else 64, 3)
    pictures = np.random.default_rng(seed).integers(0, most, shape).astype(np.uint8).repeat(64 // shape[2], 2)
    pictures = np.maximum(pictures, pictures[:, ::-1, ::-1]) if is_symmetric else pictures[:, :, ::-1]
    expected = pack(descriptors._in_numpy(pictures))
    assert pack(describe(pictures)) == expected == [packed(one) for one in pictures]
    assert [hash_and_quality(one) for one in pictures] == [(one[:32], one[-1]) for one in expected]
    plain = descriptors._descriptors.describe(
        np.ascontiguousarray(pictures), descriptors.basis(), descriptors._PLACES, True, False
    )
    assert plain == b"".join(expected)


@pytest.mark.parametrize("level", [0, 1, 128, 255])
def test_flat_pictures_have_no_bits_and_no_quality(level: int) -> None:
    flat = np.full((64, 64), level, np.uint8)
    assert (sign_hash(flat), quality(flat)) == (bytes(32), 0)


def test_half_of_the_bits_are_set() -> None:
    """127 of the 255 terms exceed their median; where two tie with it after rounding, one fewer."""
    counts = [int.from_bytes(sign_hash(luma(picture(seed)))).bit_count() for seed in range(20)]
    assert set(counts) <= {126, 127}
    assert counts.count(127) >= 15


@pytest.mark.parametrize("seed", range(10))
def test_copies_stay_close(seed: int) -> None:
    image = picture(seed)
    assert distance(image, recompressed(image, 60)) < 31
    assert distance(image, image.resize((190, 190), Image.Resampling.BICUBIC)) < 31
    assert distance(image, image.resize((400, 150), Image.Resampling.BILINEAR)) < 31
    assert distance(image, image.convert("L")) < 31


def test_different_pictures_are_far_apart() -> None:
    hashes = [sign_hash(luma(picture(seed))) for seed in range(40)]
    distances = [hamming(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 77  # the nearest of 25.8 million unrelated photographs is 76


def test_hamming() -> None:
    assert hamming(b"\x00\xff", b"\x01\x0f") == 5
    with pytest.raises(ValueError, match="1 and 2 bytes"):
        hamming(b"a", b"ab")


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="64"):
        low_frequencies(np.zeros((32, 32), np.uint8))


def test_quality_counts_steps_in_whole_percent() -> None:
    step = np.zeros((64, 64), np.uint8)
    step[:, 32:] = 255  # one step of 100 % in each of 64 rows
    assert quality(step) == 64 * 100 // 90
    faint = step // 128  # 1 of 255 is under a percent
    assert quality(faint) == 0
    assert quality(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)) == 100


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(64), st.just(64), st.just(3))))
@settings(max_examples=20, deadline=None)
def test_what_is_packed_is_unpacked(thumbnails: npt.NDArray[np.uint8]) -> None:
    described = describe(thumbnails)
    packed = pack(described)
    assert {len(one) for one in packed} == {PACKED_BYTES} == {577}
    found = unpack(packed)
    for name, column in found._asdict().items():
        expected = getattr(described, name)
        assert column.dtype == expected.dtype and np.array_equal(column, expected), name
    assert isinstance(found, Descriptors) and not len(unpack([]).hashes)


def test_a_descriptor_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="577 bytes"):
        unpack([bytes(576)])


def test_nothing_but_numpy_is_imported() -> None:
    heavy = ("cv2", "PIL", "scipy", "simplejpeg", "torch", "pyarrow", "apache_beam")
    script = f"import sys, pipeline.data.descriptors; print([m for m in {heavy} if m in sys.modules])"
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.skipif(not DATA.exists(), reason="no sample data beside the checkout")
def test_real_photographs() -> None:
    paths = sorted(DATA.glob("images/bsds500/test/*.jpg"))[:60]
    assert len(paths) == 60
    photos = [Image.open(path).convert("RGB") for path in paths]
    hashes = [sign_hash(luma(photo)) for photo in photos]
    assert min(hamming(a, b) for i, a in enumerate(hashes) for b in hashes[:i]) > 77
    for photo, known in zip(photos[:20], hashes, strict=False):
        assert hamming(known, sign_hash(luma(recompressed(photo, 50)))) < 31
        assert hamming(known, sign_hash(luma(photo.resize((256, 256))))) < 31
        assert hamming(known, sign_hash(luma(photo.crop((4, 4, photo.width - 4, photo.height - 4))))) < 77
