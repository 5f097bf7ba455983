"""The rules of `.ci/prose.py` count what they are for; `.ci/run` holds each part to its limits."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_rules_find_the_words_they_are_for() -> None:
    spec = importlib.util.spec_from_file_location("prose", ROOT / ".ci" / "prose.py")
    assert spec and spec.loader
    prose = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prose)
    assert prose.count("What is it? Say what differs.")[1]["what"] == 0
    assert prose.count("It keeps what was fetched. Ten images a second.")[1] == {
        "what": 1, "one": 0, "a for per": 1, "phrases": 0,
    }  # fmt: skip
