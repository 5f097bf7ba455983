"""Sets as they are published: class maps of ImageNet's shifted sets, frames, lexicons, RareAct, places."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import beam_job
from tests import eval_models, train_shards
from tests.test_eval_cli import results
from train.evaluation import actions, class_maps, frames, geolocation, lexicon
from train.evaluation.features import Features

pytestmark = pytest.mark.usefixtures("one_thread")


def run(*arguments: object) -> int:
    return beam_job.main(["eval", *map(str, arguments), "--workers", "1", "--gallery", "0"])


# ---- class maps


def test_imagenets_classes_are_told_by_wordnet_ids_and_numbers() -> None:
    pytest.importorskip("clip_benchmark")
    ids = class_maps.wordnet_ids()
    assert len(ids) == 1000 and list(ids) == sorted(ids) and ids[0] == "n01440764"
    assert class_maps.numbers(["7", "0"]) == {"7": 7, "0": 0}
    assert class_maps.numbers([ids[3], ids[999]]) == {ids[3]: 3, ids[999]: 999}
    assert class_maps.numbers(["cat"]) == class_maps.numbers(["n99999999"]) == {}
    # ImageNetV2's numbers among ImageNet's folders; only classes that the set has are offered.
    found = class_maps.by_number(["5", "", "12", "5"], ids)
    assert found is not None and found.classes == ["12", "5"]
    assert {number: found.classes[own] for number, own in enumerate(found.target) if own >= 0} == {
        5: "5",
        12: "12",
    }
    assert class_maps.by_number(["5", "12"], ["cat", "dog"]) is None


def test_maps_are_read_as_sets_publish_them(tmp_path: Path) -> None:
    source = [str(number) for number in range(10)]
    path = tmp_path / "rev_class_idx_map.json"
    path.write_text(json.dumps({"0": [4], "1": [1, 2]}))
    found = class_maps.read(str(path), source)
    assert found.classes == ["0", "1"] and found.target.tolist() == [-1, 1, 1, -1, 0, *[-1] * 5]
    folder = tmp_path / "mappings"
    folder.mkdir()
    files = {
        "folder_to_objectnet_label.json": {"alarm_clock": "Alarm clock", "mug": "Mug", "whisk": "Whisk"},
        "objectnet_to_imagenet_1k.json": {"Alarm clock": "analog clock; digital clock", "Mug": "coffee mug"},
        "pytorch_to_imagenet_2012_id.json": {"3": 0, "8": 1, "5": 2},
    }
    for name, value in files.items():
        (folder / name).write_text(json.dumps(value))
    (folder / "imagenet_to_label_2012_v2").write_text("analog clock\ncoffee mug\ndigital clock\n")
    found = class_maps.read(str(folder), source)
    assert found.classes == ["alarm_clock", "mug"]
    assert {number: found.classes[own] for number, own in enumerate(found.target) if own >= 0} == {
        3: "alarm_clock", 5: "alarm_clock", 8: "mug"
    }  # fmt: skip
    for text, message in (("[]", "object"), ("{", "no JSON"), ('{"a": [1]}', "two classes"),
                          ('{"a": [1], "b": [77]}', "no class 77")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            class_maps.read(str(path), source)
    path.write_text('{"a": [1], "b": [2]}')
    with pytest.raises(ValueError, match="WordNet ids or numbers"):
        class_maps.read(str(path), ["cat", "dog"])


def test_objectnet_and_frames_are_scored_from_what_comes_with_them(tmp_path: Path) -> None:
    model = eval_models.export(tmp_path / "model")
    colours = eval_models.COLOURS
    for number, colour in enumerate(colours):
        for index in range(3):
            for folder in (f"source/{number}", f"new/{colour}", "vid/val"):
                path = tmp_path / folder / f"{number}{index}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(train_shards.jpeg(colour, seed=10 * number + index))
    (tmp_path / "new" / "whisk").mkdir()
    (tmp_path / "new" / "whisk" / "x.jpg").write_bytes(train_shards.jpeg("red"))
    maps = tmp_path / "mappings"
    maps.mkdir()
    for name, value in (
        ("folder_to_objectnet_label", {one: one.title() for one in (*colours, "whisk")}),
        ("objectnet_to_imagenet_1k", {one.title(): one for one in colours}),
        ("pytorch_to_imagenet_2012_id", {str(n): n for n in range(len(colours))}),
    ):  # fmt: skip
        (maps / f"{name}.json").write_text(json.dumps(value))
    (maps / "imagenet_to_label_2012_v2").write_text("\n".join(colours))
    anchors = {f"val/{number}0.jpg": [f"val/{number}1.jpg", f"val/{number}2.jpg"] for number in range(4)}
    (tmp_path / "pmsets.json").write_text(json.dumps(anchors))
    labels = {f"val/{number}{index}.jpg": [number] for number in range(4) for index in range(3)}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    (tmp_path / "vid.json").write_text(json.dumps({str(n): [n] for n in range(4)}))
    names = tmp_path / "names.txt"
    names.write_text("\n".join(f"{n}\t{colour}" for n, colour in enumerate(colours)))
    eval_models.colours(tmp_path / "train", 4, first=900)
    for number, colour in enumerate(colours):
        (tmp_path / "train" / colour).rename(tmp_path / "train" / str(number))
    assert run("--checkpoint", f"m={model}", "--task", "robustness", "--out", tmp_path / "out",
               "--data", f"source={tmp_path / 'source'}", "--data", f"new={tmp_path / 'new'}",
               "--data", f"vid={tmp_path / 'vid'}", "--train", f"source={tmp_path / 'train'}",
               "--shots", 1, "--draws", 2, "--class-map", f"new={maps}",
               "--class-map", f"vid={tmp_path / 'vid.json'}", "--classes", f"source={names}",
               "--classes", f"vid={names}", "--frames", f"vid={tmp_path / 'pmsets.json'}") == 0  # fmt: skip
    found = results(tmp_path / "out")
    new, vid = (found[name, "m", "robustness"] for name in ("new", "vid"))
    assert new["metrics"]["examples"] == 12, "ObjectNet's classes that ImageNet has not are left out"
    assert new["metrics"]["probe_acc1"] == vid["metrics"]["probe_acc1"] == 1
    probe = vid["detail"]["predictors"][-1]
    assert (probe["predictor"], probe["pm0"], probe["pm10"]) == ("probe", 1, 1)
    assert 0 <= vid["metrics"]["pm10"] <= vid["metrics"]["pm0"] <= 1
    assert "PM-10" in (tmp_path / "out" / "report.html").read_text("utf-8")


def features(ids: list[str], labels: list[str]) -> Features:
    empty = np.zeros((len(ids), 0), np.float32)
    return Features(example_ids=ids, labels=labels, groups=[""] * len(ids), captions=[()] * len(ids),
                    features=empty, embeddings=empty, several=np.zeros(len(ids), np.bool_))  # fmt: skip


def test_pm_counts_an_anchor_when_all_frames_near_it_are_right(tmp_path: Path) -> None:
    ids = ["a", "a1", "a2", "b", "b1", "c"]
    found = features(ids, ["cat"] * 3 + ["dog"] * 3)
    path = tmp_path / "pmsets.json"
    path.write_text(json.dumps({"a": ["a1", "a2"], "b": ["b1"], "c": []}))
    anchors = frames.read(str(path), found)
    names = ["cat", "dog"]
    assert frames.pm(anchors, found, np.array([0, 0, 0, 1, 1, 1]), names) == (3, 3)
    assert frames.pm(anchors, found, np.array([0, 0, 1, 1, 1, 0]), names) == (2, 1)
    assert frames.pm(anchors, found, np.array([2, 0, 0, 1, 1, 1]), names) == (2, 2), (
        "outside the set's classes"
    )
    (tmp_path / "labels.json").write_text(json.dumps({one: ["cat", "dog"] for one in ids}))
    both = frames.read(str(path), found)
    assert frames.pm(both, found, np.array([1, 0, 1, 0, 1, 0]), names) == (3, 3), (
        "any of several labels counts"
    )
    path.write_text(json.dumps({"z": []}))
    with pytest.raises(ValueError, match="'z', which is no example"):
        frames.read(str(path), found)


def test_another_encoders_probe_is_measured_on_shifted_sets(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    rows = []
    for dataset, split, shift in (("pets", "train", 0), ("pets", "test", 0), ("drawn", "test", 1.2)):
        for number in range(60):
            kind = number % 3
            vector = 2 * np.eye(3)[kind] + random.normal(0, 0.3 + shift, 3)
            rows.append(
                {"dataset": dataset, "split": split, "label": "abc"[kind], "features": vector.tolist()}
            )
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "encoder.parquet")
    assert run("--features", tmp_path / "encoder.parquet", "--task", "robustness", "--task", "linear-probe",
               "--shots", 1, "--draws", 2, "--out", tmp_path / "out") == 0  # fmt: skip
    found = results(tmp_path / "out")
    row, probe = found["drawn", "encoder", "robustness"], found["pets", "encoder", "linear-probe"]
    assert [one["predictor"] for one in row["detail"]["predictors"]] == ["probe", "1-shot"]
    assert row["metrics"]["source_acc1"] == probe["metrics"]["acc1"] > 0.95 > row["metrics"]["acc1"]
    assert row["metrics"]["drop"] == pytest.approx(probe["metrics"]["acc1"] - row["metrics"]["acc1"])
    assert "1-shot" in (tmp_path / "out" / "report.html").read_text("utf-8")


# ---- lexicons


def test_each_image_has_a_lexicon_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.json"
    path.write_text(json.dumps({"1": ["a", "b"], "2": ["b", "c", "c"], "3": ["a", "c"]}))
    given = lexicon.read(str(path), ["1", "2", "3"])
    assert given == [["a", "b"], ["b", "c"], ["a", "c"]]
    scores = np.array([[0.1, 0.2, 0.9], [0.9, 0.2, 0.1], [0.0, 0.9, 0.1]])
    right = lexicon.hits(scores, given, ["a", "b", "c"], ["b", "b", "b"])
    assert right.tolist() == [True, True, False], "the best of its own, not of all; a label outside is wrong"
    with pytest.raises(ValueError, match="'4' needs a list"):
        lexicon.read(str(path), ["4"])


def test_options_and_actions_end_to_end(tmp_path: Path) -> None:
    model = eval_models.export(tmp_path / "model")
    eval_models.colours(tmp_path / "words", 2)
    ids = [f"{colour}/{n}.jpg" for colour in eval_models.COLOURS for n in range(2)]
    (tmp_path / "one.json").write_text(json.dumps({one: [one.split("/")[0], "zebra"] for one in ids}))
    (tmp_path / "clips").mkdir()
    rows = ["id,video_id,start,end,class_id,verb,noun,annotation"]
    for number in range(12):
        colour = eval_models.COLOURS[number % 4]
        (tmp_path / "clips" / f"{number}.jpg").write_bytes(train_shards.jpeg(colour, seed=number))
        rows.append(
            f"{number},v{number // 2},0,10,{number % 2},paint,{('red', 'blue')[number % 2]},{number % 3 % 2}"
        )
    (tmp_path / "rareact.csv").write_text("\n".join(rows))
    assert run("--checkpoint", f"m={model}", "--task", "zeroshot", "--out", tmp_path / "out",
               "--data", f"words={tmp_path / 'words'}", "--data", f"clips={tmp_path / 'clips'}",
               "--options", f"words={tmp_path / 'one.json'}",
               "--actions", f"clips={tmp_path / 'rareact.csv'}") == 0  # fmt: skip
    found = results(tmp_path / "out")
    metrics = found["words/options", "m", "zeroshot"]["metrics"]
    assert metrics["examples"] == 8 and metrics["options"] == 2 and 0 <= metrics["acc1"] <= 1
    metrics = found["clips", "m", "zeroshot"]["metrics"]
    assert 0 < metrics["mwap"] <= 1 and 0 < metrics["msap"] <= 1 and metrics["examples"] == 12


# ---- RareAct


def clips(seed: int) -> list[actions.Clip]:
    random = np.random.default_rng(seed)
    words = [("cut", "phone"), ("cut", "apple"), ("wash", "phone"), ("hammer", "apple"), ("iron", "cap")]
    found = []
    for number in range(80):
        action = int(random.integers(5)) if number >= 5 else number
        found.append(actions.Clip(str(number), f"v{random.integers(25)}", action, *words[action],
                                  int(random.choice([0, 1, 1, 2, 3, 4]))))  # fmt: skip
    return found


@pytest.mark.parametrize("seed", range(3))
def test_mwap_is_scikit_learns_average_precision_weighted_by_video(seed: int) -> None:
    precision = pytest.importorskip("sklearn.metrics").average_precision_score
    rows = clips(seed)
    scores = np.random.default_rng(seed).random((80, 5)).round(2)
    expected = []
    for action in range(5):
        verb, noun = next((one.verb, one.noun) for one in rows if one.action == action)
        groups: dict[str, list[int]] = {"yes": [], "hard": [], "no": []}
        for row, one in enumerate(rows):
            alike = (one.verb == verb) + (one.noun == noun)
            if one.action == action:
                groups["yes" if one.annotation == 1 else "hard" if one.annotation else "no"].append(row)
            elif one.annotation == 1:
                groups["hard" if alike == 1 else "no"].append(row)
        if not groups["yes"]:
            continue
        order = [row for group in groups.values() for row in group]
        weights = [
            1 / sum(rows[a].video == rows[b].video for b in group) for group in groups.values() for a in group
        ]
        truth = [row in groups["yes"] for row in order]
        expected.append(precision(truth, scores[order, action], sample_weight=weights))
    assert actions.mwap(rows, scores) == pytest.approx(np.mean(expected), abs=1e-9)
    sampled = actions.msap(rows, scores, 0, draws=40)
    assert sampled == actions.msap(rows, scores, 0, draws=40) and abs(sampled - np.mean(expected)) < 0.1
    single = [one._replace(video=one.id) for one in rows]
    assert actions.msap(single, scores, 0, 2) == pytest.approx(actions.mwap(single, scores)), "a clip a video"


def test_rareacts_table_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rareact.csv"
    path.write_text("id,video_id,start,end,class_id,verb,noun,annotation\n6,Qa,60,70,0,throw,shirt,1\n")
    assert actions.read(str(path)) == [actions.Clip("6", "Qa", 0, "throw", "shirt", 1)]
    for text, message in (
        ("id\n", "no column video_id"),
        (path.read_text().replace(",0,", ",3,"), "count its actions"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            actions.read(str(path))


# ---- places


def test_distances_are_great_circles() -> None:
    paris, london, sydney = (48.8566, 2.3522), (51.5074, -0.1278), (-33.8688, 151.2093)
    found = geolocation.distances(np.array([paris, paris, (0, 0)]), np.array([london, sydney, (0, 180)]))
    assert found == pytest.approx([343.6, 16_959, np.pi * 6371], rel=2e-3)
    assert geolocation.place("48.8,2.3") == (48.8, 2.3)
    assert geolocation.place("91,0") is geolocation.place("Paris") is geolocation.place("1,2,3") is None


def test_one_report_holds_every_task(tmp_path: Path) -> None:
    """Each set goes through the tasks that it is for: places and captions are no classes."""
    model = eval_models.export(tmp_path / "model")
    for name, first in (("source", 0), ("shifted", 50), ("other", 90), ("train", 900)):
        eval_models.colours(tmp_path / name, 3, first=first)
    for colour in eval_models.COLOURS[:2]:
        (tmp_path / "other" / colour).rename(tmp_path / "other" / f"{colour}ish")
    pictures = [train_shards.jpeg(colour, seed=7) for colour in eval_models.COLOURS]
    captions = [f"{colour} paint" for colour in eval_models.COLOURS]
    pq.write_table(pa.table({"image": pictures, "caption": captions}), tmp_path / "captions.parquet")
    for name in ("places", "references"):
        table = pa.table({"image": pictures, "label": ["1,2", "3,4", "5,6", "7,8"]})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    tasks = ("zeroshot", "linear-probe", "few-shot", "robustness", "retrieval", "geolocation")
    sets = {"source": "source", "shifted": "shifted", "other": "other", "captions": "captions.parquet",
            "places": "places.parquet"}  # fmt: skip
    command = [part for task in tasks for part in ("--task", task)]
    command += [part for name, path in sets.items() for part in ("--data", f"{name}={tmp_path / path}")]
    for name, path in (("source", "train"), ("places", "references.parquet")):
        command += ["--train", f"{name}={tmp_path / path}"]
    assert run("--checkpoint", f"m={model}", *command, "--out", tmp_path / "out", "--shots", 1, "--draws", 2,
               "--gallery", 0, "--shifted", "shifted") == 0  # fmt: skip
    by_task: dict[str, list[str]] = {}
    for dataset, _, task in results(tmp_path / "out"):
        by_task.setdefault(task, []).append(dataset)
    assert by_task == {
        "zeroshot": ["source", "shifted", "other"], "linear-probe": ["source"], "few-shot": ["source"],
        "robustness": ["shifted"], "retrieval": ["captions"], "geolocation": ["places"],
    }  # fmt: skip


def test_a_picture_is_placed_where_the_most_similar_one_was_taken(tmp_path: Path) -> None:
    model = eval_models.export(tmp_path / "model")
    places = {
        "red": "48.8566,2.3522",
        "green": "-33.8688,151.2093",
        "blue": "40.7128,-74.006",
        "yellow": "0,0",
    }
    for name, first in (("references", 0), ("queries", 50)):
        rows = [(colour, first + number) for colour in places for number in range(3)]
        table = {"image": [train_shards.jpeg(colour, seed=seed) for colour, seed in rows],
                 "label": [places[colour] for colour, _ in rows]}  # fmt: skip
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
    assert run("--checkpoint", f"m={model}", "--task", "geolocation", "--task", "zeroshot",
               "--out", tmp_path / "out", "--data", f"im2gps={tmp_path / 'queries.parquet'}",
               "--train", f"im2gps={tmp_path / 'references.parquet'}") == 0  # fmt: skip
    found = results(tmp_path / "out")
    assert list(found) == [("im2gps", "m", "geolocation")], "places are no classes"
    metrics = found["im2gps", "m", "geolocation"]["metrics"]
    assert metrics["examples"] == metrics["references"] == 12
    shares = [metrics[f"within_{radius}_km"] for radius in geolocation.RADII]
    assert shares == sorted(shares) and shares[0] > 0.5
    assert "2,500 km" in (tmp_path / "out" / "report.html").read_text("utf-8")
