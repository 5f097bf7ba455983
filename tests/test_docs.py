"""The documentation says what the program does."""

import re
from pathlib import Path

import pytest

import beam_job
from pipeline import config, reference
from pipeline.options import CrawlConfig
from pipeline.options.crawl import COMMON
from pipeline.reasons import REASONS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_every_command_is_in_the_readme() -> None:
    for name in beam_job.COMMANDS:
        assert f"openwit {name}" in README or f"make {name}" in README, name


def test_every_command_and_option_is_documented() -> None:
    assert {name.split()[0] for name in reference.CONFIGS} == set(beam_job.COMMANDS)
    for name in reference.CONFIGS:
        for option in reference.options(reference.config_of(name)):
            assert re.search(r"[a-z']{2,} [a-z]", option.help), f"openwit {name} {option.flag}"
    path = ROOT / "docs" / "commands.md"
    assert path.read_text() == reference.page(), "run: python -m pipeline.reference > docs/commands.md"


@pytest.mark.parametrize("name", reference.CONFIGS)
def test_help_explains_every_option(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        config.parse(reference.config_of(name), ["--help"], prog=f"openwit {name}")
    text = re.sub(r"[│╭╮╰╯─\s]+", " ", capsys.readouterr().out)
    for option in reference.options(reference.config_of(name)):
        flag = option.flag
        after = text.split(f"{flag} " if f"{flag} " in text else f"{flag},", 1)[1]
        words = after.split("(default")[0].split("(required")[0]
        assert re.search(r"[a-z']{2,} [a-z]", words), flag


def test_short_help_is_of_the_options_that_most_runs_need(capsys: pytest.CaptureFixture[str]) -> None:
    shown = {}
    for flag in ("-h", "--help"):
        with pytest.raises(SystemExit) as stop:
            beam_job.main(["crawl", flag])
        assert not stop.value.code
        shown[flag] = re.sub(r"[│╭╮╰╯─\s]+", " ", capsys.readouterr().out)
    names = [name for name, _ in config.fields(CrawlConfig)]
    explained = {f"--{name.replace('_', '-')} " for name in COMMON}
    assert explained == {f"--{n.replace('_', '-')} " for n in names if n in COMMON}, "all of them are options"
    assert all(flag in shown["-h"] or flag.replace(" ", ",") in shown["-h"] for flag in explained)
    assert "--max-redirects" not in shown["-h"] and len(shown["-h"]) < len(shown["--help"]) / 2
    assert f"`openwit crawl --help` explains all {len(names)}" in shown["-h"]


def test_help_breaks_no_line_in_its_midst(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        config.parse(CrawlConfig, ["--help"], prog="openwit crawl")
    shown = capsys.readouterr().out
    assert "that differ" in shown and not re.search(r"^[│ ]+from[│ ]*$", shown, re.MULTILINE)


def test_every_case_of_safety_has_a_test() -> None:
    text = (ROOT / "docs" / "safety.md").read_text()
    cases: set[str] = set()
    for first, kind, last in re.findall(r"\b(?:([HICSFW])(\d+)(?:-[HICSFW](\d+))?)\b", text):
        cases |= {f"{first}{number}" for number in range(int(kind), int(last or kind) + 1)}
    for kind, count in {"H": 47, "I": 24, "C": 11, "S": 12, "F": 7, "W": 9}.items():
        assert {f"{kind}{number}" for number in range(1, count + 1)} <= cases
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", text)
    assert len(named) >= 50
    for file, name in named:
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"
    ids = (ROOT / "tests/test_catalogue_http.py").read_text()
    for number in range(1, 47):
        assert re.search(rf"(?<![a-z0-9])h{number}(?![0-9])", ids, re.IGNORECASE), f"H{number} has no case"
    ids = (ROOT / "tests/test_catalogue_images.py").read_text()
    assert all(f'"I{number}-' in ids for number in range(1, 25))


def test_every_test_that_shows_the_papers_sections_exists() -> None:
    rows = [line for line in (ROOT / "docs" / "paper.md").read_text().splitlines() if line[:2] == "| "][2:]
    for row in rows:
        _, _, _, command, shown, *_ = row.split("|")
        assert not command.strip() or shown.strip(), row
        for file, name in re.findall(r"`(test_\w+\.py)(?:::(test_\w+))?`", shown):
            assert f"def {name}" in (ROOT / "tests" / file).read_text(), f"{file}::{name}"


def test_every_reason_is_documented() -> None:
    lines = ["# Why a candidate is not in the shards", "",
             "Each row of `rejected/` has one of these words. A transient reason is tried again in the next "
             "round.", "",
             "| stages | reason | transient | meaning |", "|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {', '.join(reason.stages)} | `{word}` | {'yes' if reason.transient else ''} | {reason.meaning} |"
        for word, reason in REASONS.items()
    ]
    expected = "\n".join(lines) + "\n"
    path = ROOT / "docs" / "reasons.md"
    assert path.read_text() == expected, "write this text to docs/reasons.md"
