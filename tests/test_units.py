"""Work units: every image once, no site beyond its time, sites that take equally long together."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.fetch.lanes import SiteShare, beyond, cut, deadline, duration_class, lane_sizes, room, share
from pipeline.options.fetch import UnitLimits

SIZES = st.lists(st.integers(1, 300), min_size=1, max_size=30)
LIMITS = st.builds(
    UnitLimits,
    unit_images=st.integers(1, 50),
    unit_rate=st.floats(0.1, 10),
    unit_seconds=st.floats(1, 100),
    unit_lanes=st.integers(1, 4),
)


def sites_of(sizes: list[int], seed: int = 0) -> pa.Array:
    sites = np.array([f"s{i}.test" for i, size in enumerate(sizes) for _ in range(size)])
    return pa.array(np.random.default_rng(seed).permutation(sites).tolist())


@given(SIZES, st.sampled_from([0.0, 0.3, 1.0]), LIMITS)
def test_every_image_is_in_one_unit_and_no_site_beyond_its_time(
    sizes: list[int], delay: float, limits: UnitLimits
) -> None:
    sites = sites_of(sizes)
    units = cut(sites, lambda _: delay, limits)
    every = np.concatenate([lane.images for unit in units for lane in unit])
    assert sorted(every.tolist()) == list(range(len(sites)))
    taken: Counter[str] = Counter()
    for unit in units:
        assert len({lane.site for lane in unit}) == len(unit)
        images = sum(len(lane.images) for lane in unit)
        assert len(unit) == 1 or images <= room(unit[0].seconds, limits)
        assert len({duration_class(lane.seconds) for lane in unit if delay}) <= len(unit)
        for lane in unit:
            assert {sites[i].as_py() for i in lane.images} == {lane.site}
            taken[lane.site] += len(lane.images) if lane.lanes else 0
            if delay and lane.lanes:
                assert lane.seconds <= limits.unit_seconds + delay * lane.lanes
    for number, size in enumerate(sizes):
        allowed, count, put_off = lane_sizes(size, delay, limits)
        assert taken[f"s{number}.test"] == allowed
        assert put_off == size - allowed
        assert put_off == 0 or allowed * delay <= max(limits.unit_seconds, delay)
        assert (
            sum(lane.site == f"s{number}.test" and lane.lanes > 0 for unit in units for lane in unit) == count
        )


def test_units_do_not_depend_on_the_order_of_the_sites() -> None:
    sizes, limits = [500, 20, 20, 5, 1, 1, 1], UnitLimits(unit_images=30, unit_seconds=60)
    cuts = [cut(sites_of(sizes, seed), lambda _: 1.0, limits) for seed in (1, 2)]
    shapes = [
        [[(lane.site, len(lane.images), lane.lanes) for lane in unit] for unit in units] for units in cuts
    ]
    assert shapes[0] == shapes[1]


def test_the_longest_come_first_and_slow_sites_share_units() -> None:
    limits = UnitLimits(unit_images=10, unit_rate=2.0, unit_seconds=64)
    units = cut(sites_of([64, 64, 64, 2, 2, 2]), lambda _: 1.0, limits)
    assert [[len(lane.images) for lane in unit] for unit in units] == [[64, 64], [64, 2, 2, 2]]


def test_what_a_site_cannot_give_in_time_is_put_off() -> None:
    limits = UnitLimits(unit_images=10, unit_seconds=20)
    units = cut(sites_of([45]), lambda _: 1.0, limits)
    found = sorted((len(lane.images), lane.lanes) for unit in units for lane in unit)
    assert found == [(20, 1), (25, 0)]


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=5), st.integers(1, 40), LIMITS, st.integers(0, 3))
def test_what_is_too_late_among_some_images_is_too_late_among_all(
    sizes: list[int], parts: int, limits: UnitLimits, earlier: int
) -> None:
    def taken(units: list[list[SiteShare]], images: np.ndarray) -> list[int]:
        return sorted(images[i] for unit in units for lane in unit if lane.lanes for i in lane.images)

    def cut_all(images: np.ndarray) -> list[list[SiteShare]]:
        return cut(sites.take(pa.array(images)), lambda _: 1.0, limits)

    sites, left = sites_of(sizes), np.arange(sum(sizes))
    hashes = np.sort(np.random.default_rng(sum(sizes)).integers(0, 2**64, len(left), np.uint64))
    ranges = (np.linspace(0, 1, parts + 1)[1:-1] * 2.0**64).astype(np.uint64)
    for number in range(earlier + 1):
        late = np.zeros(len(left), bool)
        for part in np.split(np.arange(len(left)), np.searchsorted(hashes[left], ranges)):
            own = left[part]
            late[part] = beyond(sites.take(pa.array(own)), hashes[own], lambda _: 1.0, limits, number)
        got = taken(cut_all(left), left)
        assert taken(cut_all(left[~late]), left[~late]) == got
        left = np.setdiff1d(left, got)


@pytest.mark.parametrize("parts", [10, 1000])
def test_few_of_a_hot_site_travel_to_its_partition(parts: int) -> None:
    """A fifth of 500,000 images is one site's, and 3,600 are asked for: the more ranges the fewer travel."""
    rng = np.random.default_rng(1)
    hashes = np.sort(rng.integers(0, 2**64, 500_000, np.uint64))
    sites = pa.array(np.where(rng.random(len(hashes)) < 0.2, "hot.test", "other.test").tolist())
    travelling = 0
    for part in np.array_split(np.arange(len(hashes)), parts):
        own = sites.take(pa.array(part))
        late = beyond(own, hashes[part], lambda site: 1.0 if site == "hot.test" else 0.0, UnitLimits(), 0)
        travelling += int((np.array(own.to_pylist())[~late] == "hot.test").sum())
    assert 3_600 <= travelling <= {10: 3_601, 1000: 22_000}[parts]


def test_without_a_rate_nothing_is_put_off() -> None:
    units = cut(sites_of([45]), lambda _: 0.0, UnitLimits(unit_images=10, unit_seconds=1))
    assert sorted(len(lane.images) for unit in units for lane in unit) == [9] * 5


@pytest.mark.parametrize(("lanes", "part"), [(0, 0.0), (1, 1.0), (4, 0.25)])
def test_shares(lanes: int, part: float) -> None:
    assert share(lanes) == part


def test_deadlines_leave_room() -> None:
    assert deadline(3600, 80_000) > 2 * 3600
    assert deadline(0, 2000) == 500


@pytest.mark.parametrize(
    "wrong", [{"unit_images": 0}, {"unit_seconds": 0}, {"unit_lanes": 0}, {"unit_rate": 0}]
)
def test_limits_are_checked(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least 1"):
        UnitLimits(**wrong)  # type: ignore[arg-type]
