"""The whole of `openwit overlap` on small sets with planted copies and hard negatives."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from dedup import distortions, overlap, planted
from dedup.cli import main
from dedup.options import OverlapConfig
from dedup.training_set import TrainingSet
from pipeline.flow.steps import write_results
from pipeline.images.process import process
from pipeline.options import ImageOptions
from pipeline.shards import read_shard
from pipeline.storage import FileInfo
from tests.rows import checked_results
from tests.scenes import jpeg, sample, scene, uid_of, write_folder, write_run
from tests.test_images import png_header

DIRTY = {f"class{n % 2}/{n:02d}.jpg": scene(n) for n in range(12)}
CLEAN = {f"class{n % 2}/{n}.jpg": scene(n) for n in range(100, 110)}
COPIES = {0: "crop 90%", 2: "flip", 3: "jpeg", 5: "rotation to 5", 6: "hsv", 8: "resize", 9: "border"}
FOUND = {f"class{n % 2}/{n:02d}.jpg" for n in COPIES}


def with_logo(seed: int) -> np.ndarray:
    """Return a picture of its own with a part of evaluation image 1 in it."""
    picture = scene(seed)
    picture[20:80, 30:110] = scene(1)[20:80, 30:110]
    return picture


def training_pictures() -> list[tuple[str, np.ndarray]]:
    """Return (url, picture) pairs: copies, hard negatives, others, and frames without detail."""
    pictures = [
        (f"https://copies.test/{n}.jpg", distortions.DISTORTIONS[name](scene(n), np.random.default_rng(n)))
        for n, name in COPIES.items()
    ]
    pictures += [(f"https://logo.test/{seed}.jpg", with_logo(seed)) for seed in (501, 502)]
    pictures += [(f"https://other.test/{seed}.jpg", scene(seed)) for seed in range(600, 630)]
    pictures += [("https://other.test/black.jpg", np.zeros((256, 256, 3), np.uint8))]
    return pictures


def predictions(path: Path, ids: list[str], correct: list[bool]) -> Path:
    labels = [one.split("/")[0] for one in ids]
    table = {"example_id": ids, "label": labels, "prediction": labels, "correct": correct}
    pq.write_table(pa.table(table), path)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    """Return the folders of a finished analysis."""
    root = tmp_path_factory.mktemp("overlap")
    write_folder(root / "dirty", {**DIRTY, "class0/black.jpg": np.zeros((200, 200, 3), np.uint8)})
    (root / "dirty/class0/broken.jpg").write_bytes(b"\xff\xd8 no image")
    write_folder(root / "clean", CLEAN)
    pictures = training_pictures()
    samples = [sample(f"{i:04d}", rgb, url, f"a caption of {url}") for i, (url, rgb) in enumerate(pictures)]
    shards = [samples[0::2], samples[1::2]]
    write_run(
        root / "run",
        [
            [one._replace(key=f"{s:05d}{i:04d}") for i, one in enumerate(shard)]
            for s, shard in enumerate(shards)
        ],
    )
    (root / "run" / "report").mkdir()
    (root / "run" / "report" / "index.html").write_text("the report of the crawl")
    ids = sorted([*DIRTY, "class0/black.jpg", "class0/broken.jpg"])
    dirty = predictions(root / "dirty.parquet", ids[::-1], [one in FOUND for one in ids[::-1]])
    clean = predictions(root / "clean.parquet", sorted(CLEAN), [n % 2 == 0 for n in range(len(CLEAN))])
    arguments = [
        "--run", str(root / "run"), "--eval", f"dirty={root}/dirty", "--eval", f"clean={root}/clean",
        "--predictions", f"dirty={dirty}", "--predictions", f"clean={clean}",
        "--published", "clean=2025-06-01", "--decontaminate", "dirty",
        "--out", str(root / "out"), "--planted", "2", "--workers", "1",
    ]  # fmt: skip
    assert main(arguments) == 0
    report = json.loads((root / "out/report.json").read_text())
    return SimpleNamespace(root=root, out=root / "out", arguments=arguments, report=report, ids=ids)


def test_copies_are_found_all_and_only(made):
    assert set((made.out / "overlap/dirty.txt").read_text().split()) == FOUND
    assert (made.out / "overlap/clean.txt").read_text() == ""
    assert (made.out / "clean/dirty.txt").read_text().split() == [
        one for one in made.ids if one not in FOUND and one != "class0/broken.jpg"
    ]
    assert (made.out / "clean/clean.txt").read_text().split() == sorted(CLEAN)


def test_matches_have_the_promised_columns(made):
    table = pq.read_table(made.out / "matches.parquet")
    assert table.column_names[:7] == ["dataset", "example_id", "uid", "url", "similarity", "verified", "rank"]
    rows = table.to_pylist()
    verified = {(row["example_id"], row["url"]) for row in rows if row["verified"]}
    assert verified == {(f"class{n % 2}/{n:02d}.jpg", f"https://copies.test/{n}.jpg") for n in COPIES}
    assert all(row["uid"] == uid_of(row["url"]) for row in rows)
    flipped = next(row for row in rows if row["url"] == "https://copies.test/2.jpg" and row["verified"])
    assert flipped["mirrored"] and flipped["inliers"] >= 12 and flipped["rank"] == 1
    assert all(row["refused"] for row in rows if not row["verified"])
    assert all(0.35 <= row["similarity"] <= 1 for row in rows)


def test_the_report_holds_the_statistics(made):
    dirty, clean = made.report["datasets"]
    n, k = len(made.ids) - 1, len(FOUND)  # but for the image that cannot be decoded
    assert (dirty["name"], dirty["examples"], dirty["overlap"]) == ("dirty", n, k)
    assert dirty["contamination"] == pytest.approx(k / n)
    assert (dirty["acc_all"], dirty["acc_overlap"], dirty["acc_clean"]) == (k / n, 1.0, 0.0)
    assert dirty["delta"] == pytest.approx(
        dirty["contamination"] * (dirty["acc_overlap"] - dirty["acc_clean"])
    )
    assert dirty["p_value"] == 0 and dirty["significant"] is True
    expected = stats.binomtest(k, k).proportion_ci(0.995, "exact")
    assert (dirty["ci_low"], dirty["ci_high"]) == pytest.approx((expected.low, expected.high))
    assert (dirty["unreadable"], dirty["low_information"]) == (1, 1)
    assert dirty["unreadable_examples"] == [{"example_id": "class0/broken.jpg", "reason": "not_image"}]
    assert clean["unreadable_examples"] == [] and dirty["recall_note"] is None
    assert dirty["threshold"] == 0.35
    assert dirty["sweep"][0]["overlap"] == k > dirty["sweep"][-1]["overlap"]
    assert dirty["recall"]["flip"] == 1.0 and dirty["planted"] == 2
    assert dirty["recall"].keys() == distortions.DISTORTIONS.keys()
    assert dirty["recall_reversed"].keys() == set(planted.REVERSED)
    assert dirty["recall_reversed"]["crop 90%"] == 1.0
    assert (clean["overlap"], clean["delta"], clean["p_value"], clean["significant"]) == (0, 0.0, None, None)
    assert clean["published_after_crawl"] is True and dirty["published_after_crawl"] is None
    assert made.report["counts"]["images"] == len(training_pictures())
    assert made.report["counts"]["low_information"] == 1
    assert made.report["declared_sets"] == 2


def test_what_decontaminates_names_the_copies(made):
    table = pq.read_table(made.out / "drop.parquet")
    assert table["uid"].to_pylist() == sorted(uid_of(f"https://copies.test/{n}.jpg") for n in COPIES)
    assert set(map(tuple, table["datasets"].to_pylist())) == {("dirty",)}


def files_below(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_the_files_of_every_step_are_as_its_results_say(made):
    kinds = {"SampledColours", "FittedWhitening", "ExampleIndex", "MatchedShard", "FoundCopies"}
    assert checked_results(made.out / "work") == kinds


def test_thresholds_change_the_result_without_another_search(made, tmp_path):
    shutil.copytree(made.root, tmp_path / "x", copy_function=shutil.copy2)
    before = files_below(made.out / "work")
    rows = pq.read_table(made.out / "matches.parquet").to_pylist()
    similarities = sorted(row["similarity"] for row in rows if row["verified"])
    threshold = round(similarities[3], 4)
    assert similarities[2] < similarities[3], "the threshold lies between two examples"
    (tmp_path / "t.json").write_text(json.dumps({"thresholds": {"dirty": threshold}}))
    try:
        assert main([*made.arguments, "--thresholds", str(tmp_path / "t.json")]) == 0
        report = json.loads((made.out / "report.json").read_text())
        assert report["datasets"][0]["overlap"] == 4 and report["datasets"][0]["threshold"] == threshold
        assert len((made.out / "overlap/dirty.txt").read_text().split()) == 4
        assert len(pq.read_table(made.out / "drop.parquet")) == 4
        assert files_below(made.out / "work") == before
    finally:
        shutil.rmtree(made.out)
        shutil.copytree(tmp_path / "x/out", made.out, copy_function=shutil.copy2)


ALL = {"sample", "whitening", "evaluation sets", "index"}


@pytest.mark.parametrize(
    ("options", "inputs", "steps"),
    [
        ({"floor": 0.5, "planted": 3, "seed": 1, "text": True, "decontaminate": ("e",)}, {}, set()),
        ({"min_quality": 30}, {}, {"evaluation sets", "index"}),
        ({"eval": ("f=pictures",)}, {}, {"evaluation sets", "index"}),
        ({}, {"eval_inputs": "another version"}, {"evaluation sets", "index"}),
        ({}, {"inputs": "another version"}, ALL),
    ],
)
def test_each_option_touches_its_own_steps(options, inputs, steps):
    made = []
    for more, versions in (({}, {}), (options, inputs)):
        config = OverlapConfig(**{"run": "shards", "eval": ("e=pictures",), "out": "out", **more})
        files = {
            name: [FileInfo(f"{name}-{n}", 9, versions.get(name, "")) for n in range(3)]
            for name in ("inputs", "eval_inputs")
        }
        training = TrainingSet([], False, "")
        made.append(
            overlap._Steps(overlap.OverlapJob(config=config, training=training, runner=None, **files))
        )
    before, after = ({step.label: step.folder for step in one._all} for one in made)
    assert {label for label in before if before[label] != after[label]} == steps


def test_sets_that_are_joined_are_not_described_again(tmp_path):
    job = overlap.OverlapJob(
        config=OverlapConfig(run="shards", eval=("e=pictures",), out=str(tmp_path)), runner=None,
        training=TrainingSet([], False, ""), inputs=[], eval_inputs=[],
    )  # fmt: skip
    first = overlap._Steps(job)
    assert {step.label for step in first._all} == ALL
    write_results(first.index.folder, [])
    assert {step.label for step in overlap._Steps(job)._all} == ALL - {"evaluation sets"}


def test_the_page_leads_to_the_training_set(made):
    link = '<a href="./../run/report/index.html">the training set</a>'
    assert link in (made.out / "index.html").read_text()


def test_the_same_command_gives_the_same_files(made):
    first = {
        name: (made.out / name).read_bytes() for name in ("matches.parquet", "report.json", "index.html")
    }
    assert main(made.arguments) == 0
    assert {name: (made.out / name).read_bytes() for name in first} == first


def test_processes_change_nothing(made):
    beside = made.out.with_name("again")  # the page links to the training set by where it lies
    other = [str(beside) if one == str(made.out) else one for one in made.arguments]
    assert main([*other[:-1], "2"]) == 0
    for name in ("matches.parquet", "report.json", "index.html", "overlap/dirty.txt", "drop.parquet"):
        assert (beside / name).read_bytes() == (made.out / name).read_bytes(), name


def test_a_stopped_job_continues_with_what_is_missing(made):
    before = (made.out / "matches.parquet").read_bytes()
    work = made.out / "work"
    assert not list(work.glob("examples-*")), "these files are joined"
    matching = next(work.glob("match-*"))
    markers = sorted(matching.glob("shard-*.json"))
    assert len(markers) == 2
    kept = markers[1].with_suffix(".parquet")
    stamp = kept.stat().st_mtime_ns
    (matching / "results.jsonl").unlink()  # the last file of the step
    markers[0].unlink()
    markers[0].with_suffix(".parquet").unlink()
    assert main(made.arguments) == 0
    assert (made.out / "matches.parquet").read_bytes() == before
    assert markers[0].exists() and kept.stat().st_mtime_ns == stamp


def test_any_webdataset_can_be_the_training_set(made, tmp_path):
    """img2dataset's layout without uids, and an evaluation set in Parquet."""
    import io
    import tarfile

    with tarfile.open(tmp_path / "00000.tar", "w") as archive:
        for number, (url, rgb) in enumerate(training_pictures()[:12]):
            row = (
                json.dumps({"url": url, "caption": "text", "key": f"{number:09d}"}).encode()
                if number
                else b"{}"
            )
            for suffix, data in (("jpg", jpeg(rgb)), ("txt", b"text"), ("json", row)):
                info = tarfile.TarInfo(f"{number:09d}.{suffix}")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))
    table = pa.table({"image": [jpeg(rgb) for rgb in DIRTY.values()], "label": [0] * len(DIRTY)})
    pq.write_table(table, tmp_path / "val.parquet")
    out = tmp_path / "out"
    arguments = [
        "--run",
        f"{tmp_path}/*.tar",
        "--eval",
        f"val={tmp_path}/val.parquet",
        "--out",
        str(out),
        "--planted",
        "0",
    ]
    assert main([*arguments, "--workers", "1"]) == 0
    assert set((out / "overlap/val.txt").read_text().split()) == {f"val/{n}" for n in COPIES}
    report = json.loads((out / "report.json").read_text())["datasets"][0]
    assert report["acc_all"] is None and report["delta"] is None and report["significant"] is None
    assert not (out / "drop.parquet").exists()
    found = {
        row["example_id"]: row["uid"]
        for row in pq.read_table(out / "matches.parquet").to_pylist()
        if row["verified"]
    }
    assert found["val/0"] == "00000/000000000"  # without a URL it is named by its place
    assert found["val/2"] == uid_of("https://copies.test/2.jpg")


def test_a_run_is_compared_by_what_was_described_when_it_was_fetched(made, tmp_path):
    """Only candidates are decoded: the bytes of all other images do not matter."""
    shards = []
    for path in sorted((made.root / "run/shards").glob("*.tar")):
        with path.open("rb") as file:
            samples = list(read_shard(file))
        rows = [json.loads(one.json) for one in samples]
        packed = [bytes.fromhex(process(one.jpg, ImageOptions(min_side=1)).descriptor) for one in samples]
        table = {name: [row[name] for row in rows] for name in ("uid", "url", "captions")}
        table |= {"key": [one.key for one in samples], "descriptor": pa.array(packed, pa.binary(577))}
        shards.append((table, [one._replace(jpg=b"no image") if "other.test" in row["url"] else one
                               for one, row in zip(samples, rows, strict=True)]))  # fmt: skip
    write_run(tmp_path / "run", [samples for _, samples in shards])
    for number, (table, _) in enumerate(shards):
        pq.write_table(pa.table(table), tmp_path / "run/shards" / f"{number:05d}.parquet")
    out = tmp_path / "out"
    moved = {str(made.root / "run"): str(tmp_path / "run"), str(made.out): str(out)}
    assert main([*(moved.get(one, one) for one in made.arguments), "--no-training-crops"]) == 0
    for kind in ("overlap", "clean"):
        assert (out / kind / "dirty.txt").read_text() == (made.out / kind / "dirty.txt").read_text()
    report = json.loads((out / "report.json").read_text())
    assert report["counts"]["images"] == len(training_pictures())
    assert report["counts"]["low_information"] == 1
    assert "unreadable" not in report["counts"], "an image that is no candidate was decoded"
    one, other = (
        {
            (row["example_id"], row["uid"]): row["similarity"]
            for row in pq.read_table(path).to_pylist()
            if row["verified"]
        }
        for path in (out / "matches.parquet", made.out / "matches.parquet")
    )
    assert one.keys() == other.keys()
    assert max(abs(one[pair] - other[pair]) for pair in one) < 0.1


def run_with(made: SimpleNamespace, *more: str) -> int:
    """Return the exit code of the command with more options."""
    try:
        return main([*made.arguments, *more])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--thresholds", "absent.json"), "absent.json"),
        (("--decontaminate", "other"), "there is no such --eval; given are dirty, clean"),
        (("--predictions", "dirty"), "takes NAME=VALUE"),
        (("--eval", "dirty=x"), "dirty is given twice"),
        (("--eval", "third=/absent"), "neither a folder"),
        (("--published", "dirty=soon"), "not a date"),
        (("--no-hashes",), "nothing to compare by: add --detector lite"),
        (("--declared-sets", "1"), "2 sets are given"),
        (("--treshold", "x"), "did you mean --threshold"),
        (("--floor", "2"), "similarities"),
    ],
)
def test_usage_errors_exit_with_2_and_say_what_is_wrong(made, capsys, more, message):
    assert run_with(made, *more) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_predictions_of_other_examples_are_refused(made, tmp_path, capfd):
    path = predictions(tmp_path / "p.parquet", sorted(CLEAN)[1:], [True] * (len(CLEAN) - 1))
    assert run_with(made, "--predictions", f"clean={path}") == 2
    assert "1 without a prediction" in capfd.readouterr().err


def test_check_writes_nothing(made, tmp_path, capfd):
    arguments = [one if one != str(made.out) else str(tmp_path / "new") for one in made.arguments]
    assert main([*arguments, "--check"]) == 0
    assert not (tmp_path / "new").exists()
    assert 'run = "' in capfd.readouterr().out


def test_a_foreign_folder_is_not_overwritten(made, tmp_path, capfd):
    (tmp_path / "thesis.txt").write_text("precious")
    arguments = [one if one != str(made.out) else str(tmp_path) for one in made.arguments]
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2 and "not empty" in capfd.readouterr().err


def test_texts_are_compared_and_reported_apart(made, tmp_path):
    rows = [
        ("https://a.test/1.jpg", "a photo of a red fox"),
        ("https://a.test/2.jpg", "two dogs on a wide beach today"),
    ]
    samples = [sample(f"0000000{n}", scene(900 + n), url, text) for n, (url, text) in enumerate(rows)]
    write_run(tmp_path / "run", [samples])
    captions = ["two dogs on a wide beach", "nothing like it"]
    table = {"image": [jpeg(scene(1)), jpeg(scene(2))], "label": ["red_fox", "dog"], "caption": captions}
    pq.write_table(pa.table(table), tmp_path / "v.parquet")
    arguments = [
        "--run",
        str(tmp_path / "run"),
        "--eval",
        f"v={tmp_path}/v.parquet",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main([*arguments, "--planted", "0", "--workers", "1", "--text"]) == 0
    found = pq.read_table(tmp_path / "out/text_matches.parquet").to_pylist()
    assert [(r["kind"], r["example_id"], r["text"], r["url"]) for r in found] == [
        ("prompt", "v/0", "a photo of a red fox", "https://a.test/1.jpg"),
        ("caption", "v/0", "two dogs on a wide beach", "https://a.test/2.jpg"),
    ]
    assert found[1]["jaccard"] == pytest.approx(11 / 13, abs=1e-4)
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["datasets"][0]["overlap"] == 0
    assert (
        report["text"]["sketch"]["scheme"] == "affine32" and report["text"]["sketch"]["permutations"] == 128
    )
    counted = {one["kind"]: one["texts"] for one in report["text"]["datasets"]}
    assert counted == {"caption": 1, "prompt": 1}
    assert "text_matches.parquet" in (tmp_path / "out/index.html").read_text()


def test_every_format_is_searched_and_what_cannot_be_decoded_is_left_out(made, tmp_path, capfd):
    """A training set and an evaluation set of every format, damaged ones and bombs among them."""
    import io
    import tarfile

    from PIL import Image

    folder = tmp_path / "set/class"
    folder.mkdir(parents=True)
    forms = {
        "png": {},
        "webp": {},
        "gif": {},
        "avif": {},
        "bmp": {},
        "tif": {},
        "ppm": {},
        "jfif": {},
        "tiff": {},
    }
    for number, suffix in enumerate(forms):
        Image.fromarray(scene(number)).save(
            folder / f"{number}.{suffix}", "JPEG" if suffix == "jfif" else None
        )
    Image.fromarray(scene(20)).convert("CMYK").save(folder / "20.jpg", quality=95)
    Image.fromarray(np.asarray(Image.fromarray(scene(21)).convert("L")).astype(np.uint16) * 257).save(
        folder / "21.png"
    )
    bomb = png_header(65_000, 65_000)
    Image.new("L", (1, 20_000)).save(folder / "long.png")
    (folder / "bomb.png").write_bytes(bomb)
    (folder / "cut.jpg").write_bytes(jpeg(scene(22))[:900])
    (folder / "empty.jpg").write_bytes(b"")
    with tarfile.open(tmp_path / "0.tar", "w") as archive:
        files = {f"{n}.{suffix}": (folder / f"{n}.{suffix}").read_bytes() for n, suffix in enumerate(forms)}
        files |= {
            "20.jpg": jpeg(scene(20)),
            "21.jpg": jpeg(scene(21)),
            "90.jpg": jpeg(scene(90)),
            "99.png": bomb,
        }
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    arguments = ["--run", f"{tmp_path}/0.tar", "--planted", "0", "--workers", "1"]
    assert main([*arguments, "--eval", f"set={tmp_path}/set", "--out", str(tmp_path / "out")]) == 0
    said = capfd.readouterr().out
    report = json.loads((tmp_path / "out/report.json").read_text())
    [entry] = report["datasets"]
    assert (entry["examples"], entry["overlap"], entry["unreadable"]) == (11, 11, 4)
    assert {(one["example_id"].split("/")[1], one["reason"]) for one in entry["unreadable_examples"]} == {
        ("long.png", "too_small"), ("bomb.png", "too_many_pixels"), ("cut.jpg", "truncated"),
        ("empty.jpg", "empty_body"),
    }  # fmt: skip
    assert (tmp_path / "out/clean/set.txt").read_text() == ""
    assert len((tmp_path / "out/overlap/set.txt").read_text().split()) == 11
    assert "set: 4 of 15 images cannot be decoded" in said and "class/bomb.png (too_many_pixels)" in said
    assert "1 training image cannot be decoded" in said and "99 (too_many_pixels)" in said
    assert report["unreadable"][0]["reason"] == "too_many_pixels"
    page = (tmp_path / "out/index.html").read_text()
    assert "class/bomb.png: too_many_pixels" in page
    broken = tmp_path / "broken/class"
    broken.mkdir(parents=True)
    (broken / "bomb.png").write_bytes(bomb)
    assert main([*arguments, "--eval", f"all={tmp_path}/broken", "--out", str(tmp_path / "none")]) == 1
    assert (
        "all: none of its 1 images can be decoded: class/bomb.png (too_many_pixels)" in capfd.readouterr().err
    )


def test_a_recall_that_cannot_be_measured_is_a_note(made, tmp_path, capfd, monkeypatch):
    """Planted copies of a panorama, and of another whose measurement fails: the job ends well either way."""
    wide = np.concatenate([scene(n) for n in range(5)], axis=1)
    write_folder(tmp_path / "set", {"class/wide.png": wide[:90, :900]})
    arguments = [
        "--run",
        str(made.root / "run"),
        "--eval",
        f"wide={tmp_path}/set",
        "--planted",
        "5",
        "--workers",
        "1",
    ]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out/report.json").read_text())["datasets"][0]["planted"] == 1

    def fails(rgb: object, rng: object) -> None:
        raise ZeroDivisionError("no such copy <b>")

    monkeypatch.setitem(distortions.DISTORTIONS, "flip", fails)
    capfd.readouterr()
    assert main([*arguments, "--out", str(tmp_path / "other")]) == 0
    entry = json.loads((tmp_path / "other/report.json").read_text())["datasets"][0]
    assert (entry["recall"], entry["planted"], entry["recall_note"]) == (
        {}, 0, "ZeroDivisionError: no such copy <b>",
    )  # fmt: skip
    assert entry["recall_reversed"].keys() == set(planted.REVERSED), "no flip is among them"
    assert "the recall could not be measured: ZeroDivisionError: no such copy" in capfd.readouterr().out
    assert "no such copy &lt;b&gt;" in (tmp_path / "other/index.html").read_text()
