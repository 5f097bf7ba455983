"""The documentation says what the program does."""

import re
import shlex
from pathlib import Path

import pytest

import beam_job
from pipeline import config, reference
from pipeline.options import CrawlConfig
from pipeline.reasons import REASONS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def test_every_command_is_in_the_readme_or_its_tutorials() -> None:
    pages = [*(ROOT / "docs" / "tutorials").glob("*.md"), ROOT / "docs" / "howto.md"]
    shown = README + "".join(page.read_text() for page in pages)
    for name in beam_job.COMMANDS:
        assert f"openwit {name}" in shown or f"make {name}" in shown, name


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
        config.parse(reference.config_of(name), ["--help-all"], prog=f"openwit {name}")
    text = re.sub(r"[│╭╮╰╯─\s]+", " ", capsys.readouterr().out)
    for option in reference.options(reference.config_of(name)):
        flag = option.flag
        after = text.split(f"{flag} " if f"{flag} " in text else f"{flag},", 1)[1]
        words = after.split("(default")[0].split("(required")[0]
        assert re.search(r"[a-z']{2,} [a-z]", words), flag


@pytest.mark.parametrize("name", [n for n in reference.CONFIGS if config.common_of(reference.config_of(n))])
def test_short_help_is_of_the_options_that_most_runs_need(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = {}
    for argv in ([*name.split(), "--help"], ["help", *name.split()], [*name.split(), "--help-all"]):
        with pytest.raises(SystemExit) as stop:
            beam_job.main(argv)
        assert not stop.value.code
        shown[argv[0] if argv[0] == "help" else argv[-1]] = re.sub(
            r"[│╭╮╰╯─\s]+", " ", capsys.readouterr().out
        )
    names = [each for each, _ in config.fields(reference.config_of(name))]
    common = config.common_of(reference.config_of(name))
    assert len(common) <= 13 and set(common) <= set(names), "a dozen, and all of them are options"
    assert shown["help"] == shown["--help"] and len(shown["help"]) < len(shown["--help-all"])
    for each in names:
        flag = rf" --{each.replace('_', '-')}(?=,? (--no|\[*(STR|INT|FLOAT|\{{)))"
        assert (re.search(flag, shown["help"]) is not None) is (each in common), each
    assert f"`openwit {name} --help-all` explains all {len(names)}" in shown["help"]


@pytest.mark.parametrize("name", reference.CONFIGS)
def test_help_has_examples_that_parse(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from pipeline.options import presets

    examples = reference.config_of(name).EXAMPLES
    assert len(examples) == 2 or name != "crawl"
    with pytest.raises(SystemExit):
        beam_job.main([*name.split(), "--help"])
    shown = re.sub(r"\s+", " ", capsys.readouterr().out)
    for line in examples:
        assert re.sub(r"\s+", " ", line.replace("\\\n", "")) in shown
        words = shlex.split(line.replace("\\\n", " "))
        assert words[: 1 + len(name.split())] == ["openwit", *name.split()]
        argv = words[1 + len(name.split()) :]
        argv = config.first_as(reference.FIRST[name], argv) if name in reference.FIRST else argv
        config.parse(reference.config_of(name), argv, prog=f"openwit {name}", implied=presets.implied)


def test_help_breaks_no_line_in_its_midst(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit):
        config.parse(CrawlConfig, ["--help-all"], prog="openwit crawl")
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


def test_every_column_of_every_file_is_documented() -> None:
    pytest.importorskip("torch")
    from pipeline import file_reference

    path = ROOT / "docs" / "files.md"
    assert path.read_text() == file_reference.page(), "run: python -m pipeline.file_reference > docs/files.md"


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
