"""Text from outside on a terminal, in tables and in logs: nothing in it is obeyed."""

import ast
import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.progress import Progress, TextColumn
from rich.table import Table
from rich.text import Text

import beam_job
from pipeline import cli_runtime, config, terminal, untrusted
from tests import finished_run

ROOT = Path(beam_job.__file__).parent
PACKAGES = ("openwit", "pipeline", "queries", "dedup", "train")
HOSTILE = [
    "\x1b[31mred", "\x1b]0;owned\x07", "\x9b2J", "\x1b]8;;http://evil.test\x1b\\link", "\rverified",
    "\b\b\bok",
    "[/x]", "[red]hi[/red]", "[bold", "[link=http://evil.test]x[/link]", ":bomb:", "\u202egnp.exe",
    "\u2066a\u2069",
    "\ufeff\u200b", "\u061c", "\x00\x7f", "\U000e0041", "\ud800",
]  # fmt: skip


DROPPED = dict.fromkeys(b"\a\b\v\f\r")  # by rich itself


def is_plain(said: str) -> bool:
    """Return whether a text has no controls but its lines and tabs."""
    return untrusted.visible_lines(said) == said


@given(st.text() | st.lists(st.sampled_from(HOSTILE)).map("".join))
def test_any_text_is_shown_whole_and_as_text(text: str) -> None:
    for forced in (False, True):
        file = io.StringIO()
        console = terminal.Terminal(file=file, width=10_000, force_terminal=forced, color_system=None)
        console.print(text, highlight=False, soft_wrap=True)
        assert is_plain(file.getvalue())
        shown = untrusted.visible_lines(text.translate(DROPPED))
        said = file.getvalue().replace("\t", "").replace("\n", "")
        assert [c for c in said if c != " "] == [c for c in shown if c not in " \n\t"]


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_tables_progress_styles_and_logs(text: str) -> None:
    file = io.StringIO()
    console = terminal.Terminal(file=file, width=200, force_terminal=False)
    table = Table(title=text)
    table.add_column(text)
    table.add_row(text)
    console.print(table)
    console.print(Text.assemble(("wrong ", "red"), text))
    console.print(text, style="italic")
    with Progress(TextColumn("{task.description}", markup=False), console=console) as progress:
        progress.add_task(text, total=1)
    handler = logging.StreamHandler(file)
    handler.setFormatter(terminal.LogFormatter("%(message)s"))
    try:
        raise RuntimeError(text)
    except RuntimeError:
        handler.emit(logging.LogRecord("x", 30, "", 0, "%s", (text,), sys.exc_info()))
    said = file.getvalue()
    assert is_plain(said) and "owned\x07" not in said
    if text.startswith("["):
        assert said.count(text) >= 5, "brackets are text"


def test_own_styles_still_reach_a_terminal() -> None:
    file = io.StringIO()
    console = terminal.Terminal(file=file, force_terminal=True, color_system="standard")
    console.print(Text.assemble(("wrong", "red"), " \x1b[0m"))
    assert file.getvalue() == "\x1b[31mwrong\x1b[0m [U+001B][0m\n"


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
@pytest.mark.parametrize("kind", [ValueError, OSError, RuntimeError])
def test_errors_of_commands(
    kind: type[Exception], text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail() -> int:
        raise kind(f"HTTP Error 404: x{text}\nopenwit verify: all is well")

    try:
        assert cli_runtime.guarded("openwit x", terminal.terminal(), str(tmp_path), fail) == 1
    except SystemExit as stopped:
        assert stopped.code == 2
    said = capfd.readouterr().err
    assert is_plain(said) and "\nopenwit verify" not in said
    log = tmp_path / "workers.log"
    assert not log.exists() or is_plain(log.read_text())


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07", "[red]hi", "[bold", "\u202e", "a\nb"], ids=ascii)
def test_names_of_files_in_a_foreign_run(
    name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    layout = finished_run.build(tmp_path / "run", ["a dog"])
    (Path(layout.shards) / f"{name}.tar").write_bytes(b"")
    assert beam_job.main(["verify", "--run", layout.root]) == 1
    said = capfd.readouterr().out
    assert (
        is_plain(said)
        and f"{untrusted.visible_lines(name.translate(DROPPED))}.tar is not in the manifest" in said
    )


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_status_of_a_foreign_run(text: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    step = {
        "label": text,
        "folder": "f",
        "total": 3,
        "tally": {"done": 1, "reasons": {text: 2}},
        "ended": 1.0,
    }
    sign = {"name": text, "host": text, "started": 1.0, "beat": 2.0}
    (tmp_path / "work" / "f").mkdir(parents=True)
    (tmp_path / "work" / "progress.json").write_text(
        json.dumps({"steps": [step, {**step, "ended": 0, "tally": None}]})
    )
    (tmp_path / "work" / "f" / "x.running").write_text(json.dumps(sign))
    (tmp_path / "work" / "lock").write_text(json.dumps({"command": text, "host": text, "pid": 1}))
    assert beam_job.main(["status", "--run", str(tmp_path)]) == 0
    told = capfd.readouterr()
    assert told.out and is_plain(told.out) and not told.err
    assert beam_job.main(["status", "--run", str(tmp_path), "--json"]) == 0
    assert is_plain(capfd.readouterr().out)


def test_what_ends_a_process_is_told_plainly() -> None:
    script = (
        "from pipeline import terminal\nterminal.show_tracebacks_plainly()\nraise KeyError('\\x1b[31m'), 1"
    )
    script = script.replace(", 1", " from ValueError('\\x1b]0;x\\x07')")
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "Traceback" in done.stderr and is_plain(done.stderr)


def test_usage_errors(capfd: pytest.CaptureFixture[str]) -> None:
    for text in HOSTILE:
        with pytest.raises(SystemExit):
            config.usage_error("openwit x", text)
    assert is_plain(capfd.readouterr().err)


def calls() -> list[tuple[Path, ast.Call]]:
    """Return every call in the packages."""
    found = []
    for path in [
        ROOT / "beam_job.py",
        *(p for name in PACKAGES for p in sorted((ROOT / name).rglob("*.py"))),
    ]:
        tree = ast.parse(path.read_text("utf-8"))
        found += [(path, node) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return found


def test_there_is_no_other_way_to_a_terminal() -> None:
    """Every console is a Terminal; nothing turns markup on again or prints past it."""
    for path, call in calls():
        place = f"{path.relative_to(ROOT)}:{call.lineno}"
        name = ast.unparse(call.func)
        assert name not in ("Console", "rich.print", "print", "Text.from_markup", "Text.from_ansi"), place
        assert all(k.arg != "markup" or ast.unparse(k.value) != "True" for k in call.keywords), place
        if name == "sys.stderr.write":
            text = ast.unparse(call.args[0])
            own = path.name == "beam_job.py" or "give train or embed" in text  # typed, or ours
            assert own or "complaint(" in text or "visible_lines(" in text, place
        if name.endswith(("console.print", "Console().print")) and call.args:
            assert "[/" not in ast.unparse(call.args[0]), f"{place}: markup is not read"
