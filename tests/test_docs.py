"""The documentation says what the program does."""

import re
import shlex
from pathlib import Path

import pytest

import beam_job
from dedup.options import OverlapConfig
from pipeline import config
from pipeline.demo.run import DemoConfig
from pipeline.options import CrawlConfig
from pipeline.reasons import REASONS
from pipeline.verify import VerifyConfig
from queries.options import QueriesConfig
from train.config import ExportConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
CONFIGS = {
    "crawl": CrawlConfig, "verify": VerifyConfig, "demo": DemoConfig, "queries": QueriesConfig,
    "overlap": OverlapConfig, "train": TrainConfig, "export": ExportConfig,
}  # fmt: skip
COMMANDS = re.findall(r"^openwit .*$", README, re.MULTILINE)


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_readme_parses(line: str) -> None:
    _, name, *argv = shlex.split(line)
    assert name in beam_job.COMMANDS
    if name in CONFIGS:
        config.parse(CONFIGS[name], argv, prog=f"openwit {name}")


def test_every_command_is_in_the_readme() -> None:
    for name in beam_job.COMMANDS:
        assert f"openwit {name}" in README or f"make {name}" in README, name


def test_every_option_has_an_explanation() -> None:
    import contextlib
    import io

    for config_class in CONFIGS.values():
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), pytest.raises(SystemExit):
            config.parse(config_class, ["--help"], prog="openwit x")
        text = re.sub(r"[│╭╮╰╯─\s]+", " ", shown.getvalue())
        for name, _ in config.fields(config_class):
            flag = f"--{name.replace('_', '-')}"
            after = text.split(f"{flag} " if f"{flag} " in text else f"{flag},", 1)[1]
            words = after.split("(default")[0].split("(required")[0]
            assert re.search(r"[a-z']{2,} [a-z]", words), flag


def test_every_reason_is_documented() -> None:
    lines = ["# Why a candidate is not in the shards", "",
             "Each row of `rejected/` has one of these words. A transient reason is tried again in the next "
             "round.", "",
             "| stage | reason | transient | meaning |", "|---|---|---|---|"]  # fmt: skip
    lines += [
        f"| {reason.stage} | `{word}` | {'yes' if reason.transient else ''} | {reason.meaning} |"
        for word, reason in REASONS.items()
    ]
    expected = "\n".join(lines) + "\n"
    path = ROOT / "docs" / "reasons.md"
    assert path.read_text() == expected, "write this text to docs/reasons.md"
