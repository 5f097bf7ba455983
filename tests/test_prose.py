"""The prose of help, messages, README and documentation stays plain: `.ci/prose.py` has the rules."""

import importlib.util
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_no_part_is_above_its_limits() -> None:
    spec = importlib.util.spec_from_file_location("prose", ROOT / ".ci" / "prose.py")
    assert spec and spec.loader
    prose = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(prose)
    assert prose.count("What is it? Say what differs.")[1]["what"] == 0
    assert prose.count("It keeps what was fetched. Ten images a second.")[1] == {
        "what": 1, "one": 0, "a for per": 1, "phrases": 0,
    }  # fmt: skip
    for part in prose.parts():
        words, hits = prose.count(part.text)
        above = {rule: n for rule, n in hits.items() if 1000 * n / words > part.limits[rule]}
        assert not above, f"{part.name}: {above}; python3 .ci/prose.py -v shows each place"
