"""`openwit overlap --detector`: the learned detector beside the hashes, on planted copies."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from dedup import distortions
from dedup.cli import main
from dedup.detector import augment, detector_file
from dedup.detector.model import DetectorNetwork, OnPairs, ResNetArchitecture
from dedup.detector.normalise import Normaliser
from pipeline.data.views import FEW, squeeze
from tests.rows import checked_results
from tests.scenes import sample, scene, write_folder, write_run
from train.loss import contrastive_loss

# It learns within seconds what it is tested by: turned pictures, not text on them or deep crops.
TURNED = augment.Strength(area=0.95, stretch=1, degrees=18, hue=0, tone=0, chance=0.6, added=0)
SMALL = ResNetArchitecture(side=64, layers=(1, 1, 1, 1), width=8, dims=32)


def detector(path: Path, steps: int) -> None:
    """Write a detector trained for `steps` steps on drawings of the same kind."""
    torch.set_num_threads(1)
    background = np.stack([squeeze(scene(n), 64) for n in range(2000, 2100)])
    network = DetectorNetwork(SMALL).initialise(0, torch.from_numpy(background[:32]))
    made = [augment.source(scene(n, 96, 128), 64) for n in range(1000, 1240 if steps else 1002)]
    pictures, aspects = torch.from_numpy(np.stack([rgb for rgb, _ in made])), np.float32([a for _, a in made])
    on_pairs, optimizer = OnPairs(network), torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(steps):
        rng = np.random.default_rng(step)
        chosen = rng.permutation(len(pictures))[:32]
        first, second = (augment.view(pictures[chosen], aspects[chosen], 64, TURNED, rng) for _ in range(2))
        optimizer.zero_grad()
        contrastive_loss(*on_pairs(first, second)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 5)
        optimizer.step()
    network.eval()
    detector_file.write(str(path), network, Normaliser.fit(network.embed(background)), {"step": steps})


def overlap(
    root: Path, steps: int, altered: distortions.Distortion, examples: int = 8, planted: int = 6
) -> SimpleNamespace:
    """Make a set of which the first `planted` examples have altered copies in a run, and analyse it."""
    detector(root / "detector.safetensors", steps)
    write_folder(root / "set", {f"a/{n}.jpg": scene(n) for n in range(examples)})
    copies = [altered(scene(n), np.random.default_rng(n)) for n in range(planted)]
    pictures = [*copies, *(scene(n) for n in range(600, 634))]
    write_run(
        root / "run",
        [
            [
                sample(f"{n:09d}", np.ascontiguousarray(rgb), f"https://a.test/{n}.jpg", "")
                for n, rgb in enumerate(pictures)
            ]
        ],
    )
    planted_copies = "0" if steps else "1"  # which the test of a trained one does not look at
    return analysed(root, "--detector", str(root / "detector.safetensors"), "--planted", planted_copies)


def analysed(root: Path, *options: str) -> SimpleNamespace:
    """Run the analysis of what `overlap` made."""
    code = main(
        ["--run", str(root / "run"), "--eval", f"set={root}/set", "--out", str(root / "out"),
         "--workers", "1", *options]
    )  # fmt: skip
    assert code == 0
    report = json.loads((root / "out/report.json").read_text())
    rows = pq.read_table(root / "out/matches.parquet").to_pylist()
    page = (root / "out/index.html").read_text()
    return SimpleNamespace(entry=report["datasets"][0], counts=report["counts"], rows=rows, page=page)


def test_what_both_find_is_reported_side_by_side(tmp_path):
    """A network that was not trained knows plain copies, as hashes do."""
    found = overlap(tmp_path, 0, distortions.jpeg)
    assert {"LearnedIndex", "UnrelatedPairs", "LearnedThresholds"} <= checked_results(tmp_path / "out/work")
    detectors = found.entry["detectors"]
    assert found.entry["overlap"] == 6 and detectors["hashes"]["overlap"] == 6
    verified = [row for row in found.rows if row["verified"]]
    assert {(row["example_id"], row["url"]) for row in verified} == {
        (f"a/{n}.jpg", f"https://a.test/{n}.jpg") for n in range(6)
    }
    both = [row for row in verified if row["learned"] is not None]
    assert len(both) >= 4 and detectors["learned"]["overlap"] == len(both)
    for row in both:
        assert row["similarity"] == pytest.approx(max(row["hashes"], row["learned"]))
        assert 0.35 <= row["learned"] <= 1
    assert all(row["learned"] is not None or row["hashes"] is not None for row in found.rows)
    assert detectors["hashes"]["alone"] == 6 - len(both) and detectors["learned"]["alone"] == 0
    assert -1 < detectors["learned"]["own_threshold"] < 1
    assert detectors["hashes"]["recall"]["jpeg"] == 1.0
    assert detectors["learned"]["recall_reversed"].keys() == detectors["hashes"]["recall_reversed"].keys()
    assert "Hashes and the learned detector" in found.page
    said = f"{found.counts['candidates']} by hashes, {found.counts['learned_candidates']} by the learned"
    assert said in found.page and found.counts["candidates"] >= 6

    alone = analysed(tmp_path, "--detector", "lite", "--no-hashes", "--planted", "0")
    assert alone.entry["overlap"] == 6 and "hashes" not in alone.entry["detectors"]
    verified = {(row["example_id"], row["url"]) for row in alone.rows if row["verified"]}
    assert verified == {(f"a/{n}.jpg", f"https://a.test/{n}.jpg") for n in range(6)}
    assert all(row["hashes"] is None and row["learned"] == row["similarity"] for row in alone.rows)
    assert {row["view"] for row in alone.rows} <= {view.name for view in FEW}
    assert f"{alone.counts['learned_candidates']} candidate pairs by the learned detector" in alone.page
    assert alone.counts["candidates"] == 0 and "Hashes were not compared" in alone.page


def test_a_detector_trained_for_seconds_finds_the_turned_copies_that_hashes_miss(tmp_path):
    """No view of the hashes is turned by more than 8 degrees; these copies are by 17 to 20."""
    found = overlap(tmp_path, 60, distortions.rotation(17, 20), examples=20, planted=16)
    detectors = found.entry["detectors"]
    assert detectors["hashes"]["overlap"] <= 1
    assert detectors["learned"]["overlap"] >= 8, "half of 16, after five seconds of training"
    assert detectors["learned"]["alone"] >= 7 and found.entry["overlap"] == len(
        {row["example_id"] for row in found.rows if row["verified"]}
    )
    verified = [row for row in found.rows if row["verified"]]
    assert [row for row in verified if row["url"] != f"https://a.test/{row['example_id'][2:-4]}.jpg"] == []
