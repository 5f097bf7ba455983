"""Altered copies: a picture of any shape has each of them, and it is a picture."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dedup.distortions import DISTORTIONS


@pytest.mark.parametrize("name", DISTORTIONS)
@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 300), st.integers(1, 300))
    | st.tuples(st.integers(1, 12), st.integers(1, 3000))
    | st.tuples(st.integers(1, 3000), st.integers(1, 12))
    | st.sampled_from([(90, 640), (640, 90), (8, 800), (256, 25_600), (1, 1), (1, 20_000)]),
    st.integers(0, 2**32),
)
def test_every_distortion_holds_for_any_shape(name: str, shape: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    kept = rgb.copy()
    copy = DISTORTIONS[name](rgb, rng)
    assert copy.dtype == np.uint8 and copy.ndim == 3 and copy.shape[2] == 3
    assert 0 < copy.shape[0] * copy.shape[1] <= max(rgb.size, 4096 * 4096)
    assert (rgb == kept).all(), "the original is left as it is"


def test_a_panorama_turned_keeps_its_corners_where_nothing_else_is_left() -> None:
    panorama = np.full((90, 640, 3), 200, np.uint8)
    shapes = {DISTORTIONS["rotation 5 to 10"](panorama, np.random.default_rng(n)).shape for n in range(50)}
    assert (90, 640, 3) in shapes
    assert min(height for height, _, _ in shapes) > 0
