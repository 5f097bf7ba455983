"""Keep the prose plain: count words and phrases that make a reader read a sentence twice.

`python3 .ci/prose.py` prints the counts per 1,000 words for each part of this repository, and ends with 1 if
a part is above its limit; `-v` shows each place. `python3 .ci/prose.py docs FOLDER`, `docstrings FOLDER` and
`comments FOLDER` count those of any other project. It needs nothing but the standard library.
"""

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

_GENERATED = ("commands.md", "reasons.md", "files.md")
_MEASURED = ("benchmarks.md", "scaling.md", "safety.md", "responsible-use.md")
_OPTIONS = ("Config", "Options", "Rules", "Limits")
ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("pipeline", "queries", "dedup", "train", "openwit", "beam_job.py")
OTHERS = ("bench", "tests", "examples", ".ci")
_ASKED = "".join(
    f"(?<!{verb} )"
    for verb in ("say", "says", "show", "shows", "predict", "decide", "decides", "explains", "know")
)
_THINGS = (
    "bytes|captions|classes|draws|examples|files|images|line|megabytes|object|one|pairs|pictures|requests|rows|samples"
    "|seconds|sites|steps|tasks|threads|tokens|URL|URLs|values|words|workers"
)
_UNITS = (
    "second|minute|hour|day|query|class|site|shard|page|worker|core|row|line|image|sample|caption|host|file|step"
    "|round|unit|machine|process|epoch|set|example|task|job|URL|server"
)
_PHRASES = (
    "in passing", "anew", "so many", "for good", "foretold", "put off", "its like", "whoever", "says it of",
    "is to be had", "can be had", "of what", "from what", "at work", "cannot be meant", "is meant",
    "(?:is|are) not there", "one would expect", "by themselves, as",
)  # fmt: skip
_BEFORE = r"the|that|this|an?(?: \w+)?|other|another|each|first|last|\w+er|own"
_AFTER = r"that|which|whose|alone|is|has|after|at a time"
RULES = {
    "what": rf"{_ASKED}\bwhat\b(?! to |[^.?!\n]*\?)",
    "one": rf"\b(?:{_BEFORE}) ones?\b|\bone(?=[,.;:)]| (?:{_AFTER})\b)",
    "a for per": rf"\b(?:{_THINGS}) an? (?:{_UNITS})\b",
    "phrases": r"\b(?:" + "|".join(_PHRASES) + r")\b",
}
"""By name: a pattern. Questions may ask what, direct or after a verb."""


_DOCTEST = re.compile(r"^ *(?:>>>|\.\.\.).*$", re.MULTILINE)
_COMMENT = re.compile(r"(?:^ *|  )# (.*)$", re.MULTILINE)
_HTML = re.compile(r"<style.*?</style>|<script.*?</script>|\{[%{].*?[%}]\}|<[^>]*>", re.DOTALL)


class Part(NamedTuple):
    """A part of the repository's prose, and how much of each rule it may have per 1,000 words."""

    name: str
    text: str
    limits: dict[str, float]


def plain(text: str) -> str:
    """Return Markdown without fences, code, links' targets and tables' rules."""
    text = re.sub(r"^```.*?^```$", " ", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"`[^`\n]*`", "X", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def pages(paths: Iterable[Path]) -> str:
    """Return the prose of Markdown or reStructuredText files."""
    return "\n".join(plain(path.read_text(errors="replace")) for path in sorted(paths))


def sources(root: Path, tops: Iterable[str]) -> Iterator[str]:
    """Yield the text of every module."""
    for top in tops:
        found = [root / top] if top.endswith(".py") else sorted((root / top).rglob("*.py"))
        yield from (path.read_text() for path in found if path != Path(__file__).resolve())


def comments(texts: Iterable[str]) -> str:
    """Return the comments: those after code, and paragraphs of lines with nothing else."""
    return plain("\n".join(match[1] for text in texts for match in _COMMENT.finditer(text)))


def docstrings(trees: Iterable[ast.Module], *, options: bool) -> str:
    """Return the docstrings: those of option classes and their fields (the help), or all others."""
    found = []
    for tree in trees:
        for node in ast.walk(tree):
            if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            is_options = isinstance(node, ast.ClassDef) and node.name.endswith(
                ("Config", "Options", "Rules", "Limits")
            )
            for expression in (n for n in node.body if isinstance(n, ast.Expr)):
                value = expression.value
                if isinstance(value, ast.Constant) and isinstance(value.value, str) and is_options == options:
                    found.append(plain(_DOCTEST.sub("", value.value)))
    return "\n".join(found)


def messages(trees: Iterable[ast.Module]) -> str:
    """Return the string literals of four words or more that are no docstrings: messages, tables, reports."""
    found = []
    for tree in trees:
        skipped = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "X" for p in node.values]
                skipped |= {id(p) for p in node.values}
                text = "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
                text = node.value
            else:
                continue
            if len(re.findall(r"[a-z]{2,} ", text)) >= 3 and not re.search(
                r"\bSELECT\b|\bdef \b|\\b|\(\?", text
            ):
                found.append(plain(text))
    return "\n".join(found)


def count(text: str) -> tuple[int, dict[str, int]]:
    """Return the number of words, and of each rule's hits."""
    words = len(re.findall(r"[A-Za-z][A-Za-z'-]*", text))
    flags = re.IGNORECASE
    return words, {name: len(re.findall(rule, text, flags)) for name, rule in RULES.items()}


def parts() -> list[Part]:
    """Return the parts of this repository."""
    code, others = list(sources(ROOT, PACKAGES)), list(sources(ROOT, OTHERS))
    every, beside = list(map(ast.parse, code)), list(map(ast.parse, others))
    written = [p for p in (ROOT / "docs").rglob("*.md") if p.name not in _GENERATED]
    docs = [p for p in written if p.name not in _MEASURED]
    measured = [p for p in written if p.name in _MEASURED]
    html = "\n".join(
        _HTML.sub(" ", path.read_text()) for top in PACKAGES for path in sorted((ROOT / top).rglob("*.html"))
    )
    user = {"what": 1.5, "one": 2.0, "a for per": 0.5, "phrases": 0.3}
    inner = {"what": 0.5, "one": 1.0, "a for per": 0.3, "phrases": 0.3}
    return [
        Part("README", pages([ROOT / "README.md"]), user),
        Part("docs", pages(docs), user),
        Part("benchmarks, safety", pages(measured), {"what": 9, "one": 3, "a for per": 1.5, "phrases": 4}),
        Part("help", docstrings(every, options=True), user),
        Part("messages and reports", messages(every) + html, user),
        Part("docstrings", docstrings(every, options=False), inner),
        Part("of tests and bench", docstrings(beside, options=False), inner),
        Part("comments", comments(code + others), inner),
    ]


def row(name: str, text: str) -> str:
    """Return a line of the table."""
    words, hits = count(text)
    return f"{name:<22}{words:>8,}" + "".join(f"{1000 * hits[rule] / max(words, 1):>11.1f}" for rule in RULES)


def show(line: str) -> None:
    """Print a line."""
    sys.stdout.write(line + "\n")


def of_others(kind: str, folder: Path) -> str:
    """Return the prose of another project's folder of docs or of modules."""
    if kind == "docs":
        return pages([*folder.rglob("*.md"), *folder.rglob("*.rst")])
    texts = [path.read_text() for path in sorted(folder.rglob("*.py")) if "test" not in path.name]
    trees = list(map(ast.parse, texts))
    return (
        docstrings(trees, options=False) + docstrings(trees, options=True)
        if kind == "docstrings"
        else comments(texts)
    )


def main(argv: list[str]) -> int:
    """Print the counts; return 1 if a part is above its limits."""
    show(f"{'per 1,000 words':<22}{'words':>8}" + "".join(f"{rule:>11}" for rule in RULES))
    if argv and argv[0] in ("docs", "docstrings", "comments"):
        for folder in map(Path, argv[1:]):
            show(row(f"{folder.parent.name}/{folder.name}"[-21:], of_others(argv[0], folder)))
        return 0
    failed = False
    for part in parts():
        words, hits = count(part.text)
        above = [rule for rule, limit in part.limits.items() if 1000 * hits[rule] / max(words, 1) > limit]
        show(row(part.name, part.text) + (f"   above: {', '.join(above)}" if above else ""))
        failed |= bool(above)
        for rule in RULES if "-v" in argv else ():
            for match in re.finditer(RULES[rule], part.text, re.IGNORECASE):
                start = max(0, match.start() - 60)
                show(f"    {rule}: {' '.join(part.text[start : match.end() + 50].split())}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
