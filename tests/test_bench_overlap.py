"""The table of bench.overlap_recall: who is counted against whom, and where the thresholds lie."""

import sys

import numpy as np
import pytest

from bench import overlap_recall
from tests.scenes import scene, write_folder


@pytest.mark.parametrize(("rate", "expected"), [(0.1, 0.8), (0.2, 0.7), (0.4, 0.5)])
def test_a_threshold_is_exceeded_by_the_rate_of_the_pairs_or_is_the_floor(
    rate: float, expected: float
) -> None:
    """Of ten pairs three reach the floor of 0.5."""
    assert overlap_recall.threshold(np.array([0.7, 0.9, 0.8]), 10, rate, 0.5) == expected


def test_a_source_among_the_unrelated_images_is_not_counted_against_itself(
    tmp_path, monkeypatch, capsys
) -> None:
    """Within a kind: were it counted, no copy would be more alike than the closest pair."""
    write_folder(tmp_path, {f"{n}.jpg": scene(n) for n in range(4)})
    given = ["overlap_recall", "--sources", str(tmp_path), "--negatives", str(tmp_path), "--count", "2"]
    monkeypatch.setattr(sys, "argv", [*given, "--verify", "1"])
    overlap_recall.main()
    out = capsys.readouterr().out
    assert "2 sources, 4 unrelated images, 6 pairs, 2 of a source and itself left out" in out
    columns = [part.strip() for part in out.splitlines()[2].split("|")]
    for method in ("PDQ, 1e-06", "openwit, 94 views, 1e-06", "verified, of 1"):
        row = next(line for line in out.splitlines() if line.startswith(method)).split("|")
        assert float(row[columns.index("jpeg")]) == 1
