"""docs/architecture.md names every room of the tree and none besides, and its statements on them hold."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "architecture.md").read_text()
TOPS = ("openwit", "pipeline", "queries", "dedup", "train")


def rooms() -> set[str]:
    """Return every package of the tree but `pipeline` itself, as a folder."""
    found = {path.parent for top in TOPS for path in (ROOT / top).rglob("*.py")}
    return {f"{folder.relative_to(ROOT)}/" for folder in found} - {"pipeline/"}


def test_every_room_is_in_the_table_and_the_other_way_round() -> None:
    named = re.findall(r"^\| `([\w/]+/)` \|", TEXT, re.MULTILINE)
    assert len(named) == len(set(named))
    assert set(named) == rooms()


def test_every_file_and_name_that_it_mentions_exists() -> None:
    files = set(re.findall(r"`(?:flow/)?(\w+\.py)`", TEXT))
    assert {"local.py", "beam_graphs.py", "kept.py", "steps.py"} <= files
    for name in files:
        assert list((ROOT / "pipeline").rglob(name)) or (ROOT / name).exists(), name
    from pipeline.flow import steps, worker

    for verb in ("Tasks", "Shuffle", "Thresholds"):
        assert f"`{verb}`" in TEXT and issubclass(getattr(steps, verb), steps.Step)
    for name in ("Worker", "Shuffler", "Counter"):
        assert f"`{name}`" in TEXT and hasattr(worker, name)


def test_every_stage_has_its_steps_and_no_beam() -> None:
    for stage in ("candidates", "select", "fetch", "near", "finish", "extend"):
        assert (ROOT / "pipeline" / stage / "steps.py").exists()
    with_beam = {
        str(path.relative_to(ROOT))
        for top in TOPS
        for path in (ROOT / top).rglob("*.py")
        if re.search(r"^\s*(import|from) apache_beam", path.read_text(), re.MULTILINE)
    }
    # The first asks Beam for the names of its flags when a flag is given, the second is for users' Beam
    # pipelines.
    with_beam -= {"pipeline/config.py", "pipeline/transforms.py"}
    assert {Path(path).parent.as_posix() for path in with_beam} == {"pipeline/flow"}
