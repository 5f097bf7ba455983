"""The dataset card and the Croissant: valid for those who read them, and true to the manifest."""

import hashlib
import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import checked_manifest, report
from pipeline.report import card, croissant, statements
from pipeline.run_folder import Layout
from tests import finished_run
from tests.crawling import manifest, samples

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::DeprecationWarning:rdflib", "ignore::DeprecationWarning:mlcroissant"),
]


def metadata(text: str) -> dict[str, Any]:
    """Return the front matter of a card."""
    assert text.startswith("---\n")
    found: dict[str, Any] = yaml.safe_load(text.split("---\n")[1])
    return found


def body(text: str) -> str:
    """Return a card without its front matter."""
    return text.partition("\n---\n")[2]


@pytest.fixture(scope="module")
def run(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run as it is published: without its work folder."""
    out = tmp_path_factory.mktemp("card") / "demo"
    return Path(shutil.copytree(whole, out, ignore=shutil.ignore_patterns("work")))


def test_the_hub_reads_the_card(run: Path) -> None:
    hub = pytest.importorskip("huggingface_hub")
    found = hub.DatasetCard.load(run / "README.md")
    assert found.data.license == "other" and found.data.language == ["en"]
    assert found.data.size_categories == [card.size_category(len(samples(run)))]
    assert found.data.pretty_name == "run"
    configs = {one["config_name"]: one["data_files"][0]["path"] for one in found.data.to_dict()["configs"]}
    for name, pattern in configs.items():
        assert list(run.glob(pattern)), f"{name} names no file"
    assert len(list(run.glob(configs["default"]))) == len(manifest(run)["shards"])


LOADED = """
import sys
from datasets import get_dataset_config_names, load_dataset
for name in get_dataset_config_names(sys.argv[1]):
    found = load_dataset(sys.argv[1], name, split="train")
    print("config", name, len(found), *found.column_names)
names = {}
exec(sys.argv[2], names)
print("lines", *(len(names[one]) for one in ("images", "rows", "queries")))
print("caption", names["images"][0]["txt"])
print("size", *names["images"][0]["jpg"].size)
"""


def test_datasets_loads_every_configuration_of_the_card(tmp_path: Path) -> None:
    """And the code that the card shows does as it claims."""
    pytest.importorskip("datasets")
    run = Path(finished_run.build(tmp_path / "demo", [f"a dog number {n}" for n in range(13)]).root)
    report.write(Layout(str(run)))
    text = (run / "README.md").read_text()
    configs = [one["config_name"] for one in metadata(text)["configs"]]
    (code,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", LOADED, "demo", code], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = [line.split() for line in done.stdout.splitlines()]
    assert [line[1] for line in said if line[0] == "config"] == configs == ["default"]
    assert [line[2] for line in said if line[0] == "config"] == ["13"]
    assert ["lines", "13", "13", "1"] in said
    assert ["caption", "a", "dog", "number", "0"] in said and ["size", "128", "96"] in said


def test_the_card_says_what_the_manifest_says(run: Path) -> None:
    text, found = (run / "README.md").read_text(), manifest(run)
    counts = found["counts"]
    words = sum(len(caption.split()) for row in samples(run) for caption in row["captions"])
    for number in (*(counts[n] for n in ("samples", "captions", "candidates", "rejected")), words):
        assert f"{number:,}" in text
    for stage, reasons in counts["rejected_by_stage"].items():
        for reason, number in reasons.items():
            assert f"| {stage} | `{reason}` | {number:,} |" in text
    assert str(run.parent) not in text and "web.warc.gz" in text, (
        "names of sources, not the crawler's folders"
    )
    assert "No contact is published" in text


@pytest.mark.parametrize(
    ("options", "there", "not_there"),
    [
        ({"mask_contacts": True}, "numbers in texts are masked", "are not masked"),
        ({"lang": "any"}, "Collection", "fastText"),
        ({"rule": "metaclip"}, "case and all, as MetaCLIP's code does;", "whole words;"),
        ({"dedup": "off"}, "Collection", "near-duplicates remain"),
        ({"sample": 0.25}, "a hash sample of 0.25", "sample of ``"),
        ({"file_names": False}, "No camera settings", "No file names"),
        ({"scorer": ("a:B",), "keep_if": "score_a > 1"}, "kept where `score_a > 1`", "No classifier"),
        ({"drop": "drop.parquet"}, "left out", "openwit overlap"),
        ({"contact": "who@example.org"}, "Write to who@example.org.", "No contact"),
        ({"keep_exif": True}, "is kept in the column `exif`", "is not kept"),
        ({"resize_mode": "keep"}, "in their own size", "at most 256 pixels"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_each_option_changes_its_sentence(
    tmp_path: Path, options: dict[str, Any], there: str, not_there: str
) -> None:
    layout = finished_run.build(tmp_path / "run", ["a dog"])
    found = json.loads(Path(layout.manifest).read_text())
    assert set(options) <= set(found["configuration"]), "an option that the manifest does not have"
    found["configuration"] |= options
    text = card.render(checked_manifest.decode(found, "p"), layout.root, ["en"], 2)
    assert there in text and not_there not in body(text)


def test_names_of_folders_and_files_stay_text(tmp_path: Path) -> None:
    layout = finished_run.build(tmp_path / "x: [y]\n---\n# <script>", ["a dog"])
    found = json.loads(Path(layout.manifest).read_text())
    found["configuration"] |= {"source": ["/home/me/`<b>`\n# x.parquet"], "lang": "`en`\n---"}
    text = card.render(checked_manifest.decode(found, "p"), layout.root, ["en", "no: [yes]", "zh"], None)
    assert metadata(text)["pretty_name"] == "x_ _y__---__ _script_"
    assert metadata(text)["language"] == ["en", "zh"]
    assert "<script" not in text and "\n# x.parquet" not in text and "/home/me" not in text
    assert "`'<b>' # x.parquet`" in text


def test_language_codes_are_strings_also_where_yaml_has_other_ideas(tmp_path: Path) -> None:
    layout = finished_run.build(tmp_path / "run", ["a dog"])
    found = json.loads(Path(layout.manifest).read_text())
    assert metadata(card.render(checked_manifest.decode(found, "p"), layout.root, ["no", "en"], 1))[
        "language"
    ] == ["no", "en"]


def test_the_datasheet_answers_what_a_run_knows(run: Path) -> None:
    text, made = (run / "README.md").read_text(), checked_manifest.of(str(run))
    open_ones = [question for _, question, answer in statements.datasheet(made) if not answer]
    assert len(open_ones) == 5 and text.count("*To be answered by whoever publishes the set.*") == 5
    for _, question, answer in statements.datasheet(made):
        assert f"**{question}** {answer or '*To be'}" in text


@pytest.mark.parametrize(
    ("samples", "word"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (400_000_000, "100M<n<1B"), (10**12, "10B<n<100B")],
)
def test_size_categories_are_the_hubs(samples: int, word: str) -> None:
    assert card.size_category(samples) == word


def test_mlcroissant_reads_the_croissant(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    # It keeps extracted files by the URL in the file, which is the same for every run.
    extract = importlib.import_module("mlcroissant._src.operation_graph.operations.extract")
    monkeypatch.setattr(extract, "EXTRACT_PATH", type(extract.EXTRACT_PATH)(tmp_path))
    dataset = mlcroissant.Dataset(jsonld=str(run / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    assert all("citeAs" in warning for warning in issues.warnings), "nothing but a citation is missing"
    by_key = {row["key"]: row for row in samples(run)}
    seen = 0
    for found in dataset.records("samples"):
        row = by_key[found["samples/key"].decode()]
        assert found["samples/url"].decode() == row["url"] and found["samples/uid"].decode() == row["uid"]
        assert [text.decode() for text in found["samples/captions"]] == row["captions"]
        assert list(found["samples/query_ids"]) == row["query_ids"]
        seen += 1
    assert seen == len(by_key)
    picture = next(iter(dataset.records("pictures")))
    row = by_key[picture["pictures/key"].decode()]
    assert picture["pictures/image"].size == (row["width"], row["height"])
    queries = [one["queries/query"].decode() for one in dataset.records("queries")]
    assert len(queries) == manifest(run)["queries"]["queries"]


def test_mlcroissant_refuses_a_shard_that_was_changed(run: Path, tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    changed = Path(shutil.copytree(run, tmp_path / "changed"))
    with (changed / "query_counts.parquet").open("ab") as file:
        file.write(b"x")
    dataset = mlcroissant.Dataset(jsonld=str(changed / "croissant.json"))
    with pytest.raises(Exception, match="generation of the dataset") as error:
        next(iter(dataset.records("queries")))
    assert "not identical with the reference" in str(error.value.__cause__)


def test_the_croissant_names_every_file_with_its_hash(run: Path) -> None:
    found = json.loads((run / "croissant.json").read_text())
    files = {one["contentUrl"]: one for one in found["distribution"] if one["@type"] == "cr:FileObject"}
    on_disk = {f"shards/{path.name}" for kind in ("tar", "parquet") for path in run.glob(f"shards/*.{kind}")}
    assert set(files) == on_disk | {"query_counts.parquet"}
    for path, one in files.items():
        assert one["sha256"] == hashlib.sha256((run / path).read_bytes()).hexdigest()


def test_the_croissant_is_responsible(run: Path) -> None:
    found = json.loads((run / "croissant.json").read_text())
    rai = {name.removeprefix("rai:"): value for name, value in found.items() if name.startswith("rai:")}
    assert set(rai) == {
        "dataCollection", "dataCollectionType", "dataCollectionMissingData", "dataCollectionRawData",
        "dataCollectionTimeFrame", "dataPreprocessingProtocol", "dataLimitations", "dataBiases",
        "personalSensitiveInformation", "dataUseCases", "dataReleaseMaintenancePlan",
    }  # fmt: skip
    assert rai["dataLimitations"] == statements.limitations(checked_manifest.of(str(run)))
    out = sum(number for _, _, number in statements.opt_outs(checked_manifest.of(str(run))))
    assert f"{out:,} of them because a site or page opted out" in rai["dataCollectionMissingData"]
    assert found["conformsTo"][0] == "http://mlcommons.org/croissant/1.1"
    assert found["usageInfo"]["odrl:permission"]["odrl:duty"]["odrl:action"] == {"@id": "odrl:obtainConsent"}
    crawled = checked_manifest.of(str(run)).crawled
    assert found["prov:wasGeneratedBy"]["prov:endedAtTime"] == crawled.last
    columns = {one["name"] for one in next(r for r in found["recordSet"] if r["@id"] == "samples")["field"]}
    assert columns <= set(samples(run)[0]), "a column that the shards do not have"


def test_runs_without_samples_have_both(tmp_path: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    layout = finished_run.build(tmp_path / "run", [])
    report.write(layout)
    assert metadata(Path(layout.card).read_text())["size_categories"] == ["n<1K"]
    assert "No candidate was left out for one." in Path(layout.card).read_text()
    assert not mlcroissant.Dataset(jsonld=layout.croissant).metadata.ctx.issues.errors
    assert "dateCreated" not in croissant.build(layout, checked_manifest.of(layout.root))
