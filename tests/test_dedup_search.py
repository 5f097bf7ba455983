"""The search against brute force, and descriptors against their own definitions."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dedup import search
from dedup.search import References, Whitening
from pipeline.data import descriptors, views
from pipeline.data.descriptors import Descriptors
from tests.scenes import scene


def pictures(count: int, seed: int, side: int = 64) -> np.ndarray:
    """Return smooth random pictures, uint8 [count, side, side, 3]."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 9, 9, 3), np.uint8)
    return np.stack([cv2.resize(one, (side, side), interpolation=cv2.INTER_CUBIC) for one in coarse])


def brute_force(queries: np.ndarray, references: np.ndarray, radius: int) -> set[tuple[int, int, int]]:
    a, b = np.unpackbits(queries, axis=1).astype(int), np.unpackbits(references, axis=1).astype(int)
    distance = (a[:, None, :] != b[None, :, :]).sum(2)
    return {(int(q), int(r), int(distance[q, r])) for q, r in np.argwhere(distance <= radius)}


hashes = st.integers(0, 12).flatmap(lambda n: hnp.arrays(np.uint8, (n, 32)))


@given(hashes, hashes, st.sampled_from([0, 31, 100, 128, 256]))
def test_within_finds_every_pair_and_no_other(queries, references, radius):
    found = search.within(queries, references, radius)
    triples = list(zip(*(column.tolist() for column in found), strict=True))
    assert set(triples) == brute_force(queries, references, radius)
    assert len(triples) == len(set(triples))


def test_within_reads_memory_mapped_references(tmp_path):
    references = np.random.default_rng(0).integers(0, 256, (500, 32), dtype=np.uint8)
    np.save(tmp_path / "hashes.npy", references)
    mapped = np.load(tmp_path / "hashes.npy", mmap_mode="r")
    found = search.within(references[7:9].copy(), mapped, 0)
    assert found.reference.tolist() == [7, 8] and found.distance.tolist() == [0, 0]


def test_the_mirrored_descriptors_are_those_of_the_mirrored_image():
    thumbs = pictures(50, 1)
    straight, flipped = descriptors.describe(thumbs), descriptors.describe(thumbs[:, :, ::-1])
    mirrored = descriptors.mirrored_descriptors(straight)
    assert (np.abs(mirrored.colours.astype(int) - flipped.colours) <= 1).all()
    assert np.unpackbits(mirrored.hashes ^ flipped.hashes, axis=1).sum(1).max() <= 4  # rounding of luma
    assert (np.unpackbits(straight.hashes ^ flipped.hashes, axis=1).sum(1) > 60).all()


def test_describe_gives_the_hash_of_the_crawl():
    thumbs = pictures(5, 2)
    found = descriptors.describe(thumbs)
    for thumb, row, quality in zip(thumbs, found.hashes, found.qualities, strict=True):
        luma = cv2.cvtColor(thumb, cv2.COLOR_RGB2GRAY)
        assert descriptors.hamming(row.tobytes(), descriptors.sign_hash(luma)) <= 4  # OpenCV rounds otherwise
        assert abs(int(quality) - descriptors.quality(luma)) <= 1
    assert found.colours.shape == (5, 256) and found.colours.dtype == np.int16


def test_colour_terms_are_dct_coefficients():
    thumb = pictures(1, 3)[0]
    found = descriptors.describe(thumb[None]).colours[0]
    ycc = (
        thumb.astype(np.float64)
        @ np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]).T
    )
    blocks = [cv2.dct(np.ascontiguousarray(ycc[..., i])) for i in range(3)]
    assert found[0] == pytest.approx(blocks[0][0, 1], abs=1) and found[1] == pytest.approx(
        blocks[0][1, 0], abs=1
    )
    assert found[168] == pytest.approx(blocks[1][0, 0], abs=1)  # the mean of Cb leads the chroma terms
    assert found[212] == pytest.approx(blocks[2][0, 0], abs=1)


def references_of(thumbs: np.ndarray, whitening: Whitening, per_example: int) -> References:
    found = descriptors.describe(thumbs)
    return References(found.hashes, search.quantised(whitening.apply(found.colours)), per_example)


def reference_search(queries: Descriptors, references: Descriptors, whitening: Whitening, per_example: int):
    """Return {(query, example): similarity} in double precision, without quantisation or radius."""
    best: dict[tuple[int, int], float] = {}
    vectors = whitening.apply(references.colours).astype(np.float64)
    for one in (queries, descriptors.mirrored_descriptors(queries)):
        cosine = whitening.apply(one.colours).astype(np.float64) @ vectors.T
        distance = (
            np.unpackbits(one.hashes, axis=1)[:, None] != np.unpackbits(references.hashes, axis=1)[None]
        ).sum(2)
        similarity = np.where(distance <= search.RADIUS, (cosine + 1 - distance / 128) / 2, -1)
        for (query, row), value in np.ndenumerate(similarity):
            key = (query, row // per_example)
            best[key] = max(best.get(key, -1.0), float(value))
    return best


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 4))
def test_search_is_the_exhaustive_search(seed, per_example):
    thumbs = pictures(8 * per_example, seed)
    noise = np.random.default_rng(seed).integers(-20, 21, (6, 64, 64, 3))
    altered = np.clip(thumbs[:6].astype(int) + noise, 0, 255).astype(np.uint8)
    altered[::2] = altered[::2, :, ::-1]
    whitening = Whitening.fit(descriptors.describe(pictures(100, seed + 1)).colours)
    queries = descriptors.describe(altered)
    hits = search.search(queries, references_of(thumbs, whitening, per_example), whitening, floor=0.1)
    expected = reference_search(queries, descriptors.describe(thumbs), whitening, per_example)
    found = {
        (q, e): s
        for q, e, s in zip(hits.query.tolist(), hits.example.tolist(), hits.similarity.tolist(), strict=True)
    }
    for pair, value in expected.items():
        if value >= 0.11:
            assert found[pair] == pytest.approx(value, abs=0.01)
        elif value < 0.09:
            assert pair not in found
    assert all((q, q // per_example) in found for q in range(6))
    own = [
        (q, m)
        for q, e, m in zip(hits.query, hits.example, hits.mirrored, strict=True)
        if e == q // per_example
    ]
    if per_example == 1:
        assert [bool(m) for _, m in own] == [True, False, True, False, True, False]


def test_search_without_queries_or_references():
    whitening = Whitening.fit(descriptors.describe(pictures(10, 0)).colours)
    nothing = descriptors.describe(np.zeros((0, 64, 64, 3), np.uint8))
    some = references_of(pictures(4, 1), whitening, 2)
    assert len(search.search(nothing, some, whitening).query) == 0
    empty = References(some.hashes[:0], some.colours[:0], 2)
    assert len(search.search(descriptors.describe(pictures(3, 2)), empty, whitening).query) == 0


def test_whitening_commutes_with_mirroring():
    found = descriptors.describe(pictures(40, 5))
    whitening = Whitening.fit(found.colours)
    signs = np.where(descriptors.ODD_TERMS, -1, 1)
    assert np.allclose(
        whitening.apply((found.colours * signs).astype(np.int16)), whitening.apply(found.colours) * signs
    )
    assert np.allclose(np.linalg.norm(whitening.apply(found.colours), axis=1), 1, atol=1e-5)
    with pytest.raises(ValueError, match="too few"):
        Whitening.fit(found.colours[:1])


def test_quantising_hardly_changes_a_cosine():
    vectors = np.random.default_rng(0).normal(size=(200, 256)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    exact = vectors @ vectors.T
    rounded = vectors @ (search.quantised(vectors).astype(np.float32) / 240).T
    assert np.abs(exact - rounded).max() < 0.01


def test_cosines_is_the_exhaustive_search_over_any_tiling():
    rng = np.random.default_rng(3)
    a, b = (rng.normal(size=(n, 16)).astype(np.float32) for n in (30, 101))
    a, b = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b))
    exact = {(int(q), int(r)) for q, r in np.argwhere(a @ b.T >= 0.4)}
    assert exact
    for tile in (1, 7, 2048):
        found = search.cosines(a, b, 0.4, tile=tile)
        assert set(zip(found.query.tolist(), found.reference.tolist(), strict=True)) == exact
    assert len(search.cosines(a, b[:0], 0.4).query) == 0


def test_views_are_thumbnails_of_parts():
    picture = np.zeros((100, 200, 3), np.uint8)
    picture[:, 100:] = 200
    thumbs = views.thumbnails(picture)
    assert thumbs.shape == (len(views.VIEWS), 64, 64, 3)
    by_name = dict(zip([v.name for v in views.VIEWS], thumbs, strict=True))
    assert by_name["whole"][:, :32].max() == 0 and by_name["whole"][:, 32:].min() == 200
    assert by_name["crop 60% x 100% at 0%, 50%"][0, :50].max() == 0
    assert (
        by_name["turned +6 degrees"][0, 63].tolist() == [0, 0, 0]
        or by_name["turned -6 degrees"][0, 63].max() == 0
    )
    assert by_name["turned +6 degrees, inside"].reshape(-1, 3).max() == 200
    outside = by_name["crop of 80% x 80% at 0%, 50%"]
    assert outside[:, :25].max() == 0 and outside[:, 27:].min() == 200, "the right edge goes on"
    assert len({v.name for v in views.VIEWS}) == len(views.VIEWS)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (3, 2), (64, 64), (65, 63), (700, 300)])
def test_every_shape_can_be_viewed(shape):
    assert views.thumbnails(np.full((*shape, 3), 7, np.uint8)).shape == (len(views.VIEWS), 64, 64, 3)


def test_borders_are_cut_off_and_white_grounds_are_not():
    picture = pictures(1, 9, 200)[0]
    framed = np.pad(picture, ((12, 12), (20, 20), (0, 0)), constant_values=255)
    inside = views.without_border(framed)
    assert inside is not None and inside.shape == picture.shape and (inside == picture).all()
    letterbox = np.pad(picture, ((30, 30), (0, 0), (0, 0)))
    assert views.without_border(letterbox).shape == picture.shape
    assert views.without_border(picture) is None
    small_thing = np.pad(picture, ((400, 400), (400, 400), (0, 0)), constant_values=255)
    assert views.without_border(small_thing) is None
    assert views.without_border(np.full((50, 50, 3), 9, np.uint8)) is None
    one_side = np.pad(picture, ((12, 0), (0, 0), (0, 0)), constant_values=255)
    assert views.without_border(one_side) is None


def test_looking_at_the_outermost_lines_first_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    framed = []
    for seed in range(60):
        sides = rng.integers(3, 30, (2, 2)) * (rng.random((2, 1)) < 0.5)
        frame = np.pad(scene(seed, 90, 120), (*sides, (0, 0)), constant_values=128)
        noise = rng.normal(0, rng.uniform(0, 14), frame.shape)  # around what counts as flat
        framed.append(np.clip(frame + noise, 0, 255).astype(np.uint8))
    quick = [views.without_border(picture) for picture in framed]
    monkeypatch.setattr(views, "_may_be_flat", lambda line: True)
    whole = [views.without_border(picture) for picture in framed]
    assert 10 < sum(one is not None for one in whole) < 50
    for one, other in zip(quick, whole, strict=True):
        assert (one is None) == (other is None) and (one is None or np.array_equal(one, other))
