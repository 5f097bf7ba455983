"""The documentation: every command, file of options and snippet parses, every link leads somewhere."""

import ast
import doctest
import importlib.util
import json
import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from pipeline import config, reference
from pipeline.options import presets

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted((ROOT / "docs").rglob("*.md"))
SHELLS = ("bash", "sh", "shell", "console")
PROGRAMS = {
    ".", "export", "pip", "python3", "img2dataset", "gcloud", "docker", "kubectl", "sbatch", "jq", "git",
}  # fmt: skip
"""Other programs that the pages call."""
PLACES = (
    r"\.\.\.|'[^']*'|--[\w-]+|\b[A-Z]{2,}\b|[\d@()]+|: |`"
    r"|\b(?:image_size|openwit crawl|address_blocked|no_match|language|aiohttp|img2dataset)\b"
)
"""Parts of a message that differ from time to time."""


def fences(path: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w*)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def lines(path: Path) -> list[str]:
    blocks = [block for language, block in fences(path) if language in SHELLS]
    found = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line.strip() for line in found if line.strip() and not line.startswith("#")]


def inline(path: Path) -> list[str]:
    """Return the commands in the text that are whole: without a placeholder."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.findall(r"`((?:openwit|python -m bench\.\w+|make) [^`]*)`", text)
    return [line for line in found if not re.search(r"\.\.\.|\b[A-Z]{2,}\b|\||^openwit$|<", line)]


def command_of(words: list[str]) -> tuple[str, list[str]]:
    """Return command, of one word or two, and arguments."""
    length = 1 if words[0] in reference.CONFIGS else 2
    return " ".join(words[:length]), words[length:]


def check(line: str, *, whole: bool) -> None:
    """Parse a command as the program does; an unfinished command may lack required options."""
    words = shlex.split(line, comments=True)
    whole = whole and not re.search(r" [A-Z]{2,}(?= |$)", line)  # a placeholder
    if words[0] == "nohup":
        words = words[1 : next((i for i, word in enumerate(words) if word in (">", "2>&1", "&")), None)]
    if words[0] == "make":
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(), line
    elif words[:2] == ["python", "-m"] and words[2].split(".")[0] in ("bench", "pipeline", "train"):
        assert importlib.util.find_spec(words[2]), line
    elif words[0] == "openwit" or words[:2] == ["python", "beam_job.py"]:
        rest = words[1:] if words[0] == "openwit" else words[2:]
        if rest[0] in ("help", "completion", "--version"):
            return
        name, argv = command_of(rest)
        assert name in reference.CONFIGS, line
        if {"--help", "--help-all", "-h"} & set(argv) or not (whole or argv):
            return
        config_class = reference.config_of(name)
        if "--config" in argv or not whole:  # required options may stand in the file
            known = {"--config", "--runner", *(option.flag for option in reference.options(config_class))}
            flags = [word for word in argv if word.startswith("--") and "_" not in word]
            assert {re.sub("^--no-", "--", f.partition("=")[0]) for f in flags} <= known, line
            return
        argv = config.first_as(reference.FIRST[name], argv) if name in reference.FIRST else argv
        if "--extend" in argv:
            argv = ["--queries", "q", "--out", argv[argv.index("--extend") + 1], *argv]
        beam = name in ("queries", "crawl", "overlap")
        config.parse(config_class, argv, prog=f"openwit {name}", beam=beam, implied=presets.implied)
    else:
        assert words[0] in PROGRAMS or words[:2] in (["python", "-m"], ["torchrun", "--nproc-per-node"]), line


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: path.stem)
def test_every_command_of_the_page_parses(path: Path) -> None:
    for line in lines(path):
        check(line, whole=True)
    for line in inline(path):
        check(line, whole=False)


@pytest.mark.parametrize("path", [*PAGES, ROOT / "README.md"], ids=lambda path: path.stem)
def test_every_snippet_of_the_page_parses(path: Path) -> None:
    for language, block in fences(path):
        if language == "toml":
            tomllib.loads(block)
        elif language == "json":
            json.loads(block)
        elif language == "python" and ">>> " in block:
            examples = doctest.DocTestParser().get_examples(block)
            assert examples
            for example in examples:
                ast.parse(example.source)
        elif language == "python":
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.ImportFrom) and node.module and not node.level:
                    if importlib.util.find_spec(node.module.partition(".")[0]) is None:
                        continue
                    module = pytest.importorskip(node.module)
                    assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_the_example_of_the_balance_is_right() -> None:
    failed, tried = doctest.testfile(str(ROOT / "docs" / "concepts.md"), module_relative=False)
    assert (failed, tried) == (0, 6)


def test_every_link_leads_somewhere() -> None:
    """Pages of docs/ are checked by mkdocs, too (`make docs`); this is for all others as well."""
    for path in [*PAGES, *ROOT.glob("*.md")]:
        text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\((?!https?:|mailto:)([^)\s]+)\)", text):
            file, _, anchor = target.partition("#")
            found = path.parent / file if file else path
            assert found.exists(), f"{path.name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.*)$", found.read_text(), re.MULTILINE)
                slugs = [re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings]
                assert anchor in slugs, f"{path.name}: {target}"


def test_every_page_is_in_the_navigation() -> None:
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r": ([\w/-]+\.md)$", text, re.MULTILINE))
    assert named == {path.relative_to(ROOT / "docs").as_posix() for path in PAGES}
    assert yaml.safe_load(text)["strict"]


def test_every_message_that_the_failure_guide_quotes_is_one() -> None:
    source = "".join(
        path.read_text()
        for top in ("pipeline", "queries", "dedup", "train")
        for path in (ROOT / top).rglob("*.py")
    )
    source = re.sub(r'"\s*\n\s*f?"', "", source)
    text = (ROOT / "docs" / "failures.md").read_text()
    quoted = re.findall(r"^\| `([^`]*(?:`[^`|]+`)?[^`|]*)` \|", text, re.MULTILINE)
    assert len(quoted) >= 12
    for message in quoted:
        parts = re.split(PLACES, message)
        longest = max((part.strip(" ,;:?") for part in parts), key=len)
        assert longest in source, f"{message!r}: {longest!r}"


def test_what_others_use_names_what_exists() -> None:
    """Workflow, hooks, templates, citation and llms.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == project["version"] and citation["license"] == project["license"]
    assert f"## [{project['version']}] - {citation['date-released']}" in (ROOT / "CHANGELOG.md").read_text()
    for target in re.findall(r"\]\(([^)]+)\)", (ROOT / "llms.txt").read_text()):
        assert (ROOT / target).exists(), target
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    runs = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    for line in runs:
        if line.startswith("make "):
            check(line, whole=True)
        else:
            assert (ROOT / line.split()[-1]).exists(), line
    assert ".ci/run" in runs
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"][0]["hooks"]
    lint = (ROOT / "Makefile").read_text().replace("$(BIN)", ".venv/bin")
    assert all(hook["entry"] in lint for hook in hooks if hook["id"] != "prose")
    for form in (ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml"):
        assert yaml.safe_load(form.read_text()), form
