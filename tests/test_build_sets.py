"""Sets that the paper made itself: middle frames of videos, rendered sentences, photos by country."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from pipeline.data import evalsets
from train.evaluation import build_sets


def rejected(out: Path) -> dict[str, str]:
    with (out / "rejected.csv").open(newline="") as file:
        return {row["input"]: row["reason"] for row in csv.DictReader(file)}


def test_the_middle_frame_of_a_video_is_its_picture(tmp_path: Path) -> None:
    path = tmp_path / "videos" / "Archery" / "v_1.avi"
    path.parent.mkdir(parents=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 10, (64, 48))
    for number in range(9):
        writer.write(np.full((48, 64, 3), 25 * number, np.uint8))
    writer.release()
    path.with_name("broken.avi").write_bytes(b"RIFF no video")
    assert build_sets.main(["middle-frames", str(tmp_path / "videos"), str(tmp_path / "out")]) == 0
    picture = np.asarray(Image.open(tmp_path / "out" / "Archery" / "v_1.jpg"))
    assert picture.shape == (48, 64, 3) and abs(float(picture.mean()) - 100) < 3, "frame 4 of 0 to 8"
    assert rejected(tmp_path / "out") == {"Archery/broken.avi": "no frame can be decoded"}
    assert build_sets.main(["middle-frames", str(tmp_path / "out"), str(tmp_path / "none")]) == 2


def test_sentences_become_pictures_that_hold_them(tmp_path: Path) -> None:
    table = tmp_path / "sst2.tsv"
    long = "a " * 4000
    table.write_text(f'sentence\tlabel\nit \'s a "charming" film\t1\n{long}\t0\nso-so\t2\n')
    assert build_sets.main(["rendered-sst2", str(table), str(tmp_path / "out")]) == 0
    assert rejected(tmp_path / "out") == {
        "row 1": "too long for the picture", "row 2": "no sentence, or a label but 0 and 1"
    }  # fmt: skip
    pixels = np.asarray(Image.open(tmp_path / "out" / "positive" / "00000.png").convert("L"))
    assert pixels.shape == (448, 448) and pixels[:16].min() == pixels[:, :16].min() == 255
    assert 0.01 < (pixels < 128).mean() < 0.2
    shorter, longer = (build_sets.render(text) for text in ("good", "good " * 120))
    assert shorter is not None and longer is not None
    assert build_sets.render("x" * 400) is None, "a word that no line can hold"


def test_photos_of_a_country_are_divided_by_their_paths(tmp_path: Path) -> None:
    rows = [
        f"{country}{number}.jpg,{country}"
        for country, count in (("FR", 301), ("TV", 5))
        for number in range(count)
    ]
    for row in rows:
        (tmp_path / row.partition(",")[0]).write_bytes(row.encode())
    (tmp_path / "photos.csv").write_text("\n".join(["path,country", *rows, "x.jpg,France"]))
    assert build_sets.main(["country211", str(tmp_path / "photos.csv"), str(tmp_path / "out")]) == 0
    found = {
        split: {one.image for one in evalsets.read(str(tmp_path / "out" / split))}
        for split, _ in build_sets.SPLITS
    }
    assert {split: len(files) for split, files in found.items()} == dict(build_sets.SPLITS)
    assert len(set.union(*found.values())) == 300, "no photo is in two splits"
    assert rejected(tmp_path / "out") == {
        "x.jpg": "no country of two letters",
        "TV": "5 photos, fewer than 300",
    }
    (tmp_path / "photos.csv").write_text("path\n")
    with pytest.raises(ValueError, match="no column country"):
        build_sets.country211(tmp_path / "photos.csv", tmp_path / "out")
