"""A submodule is imported where it is used: an import by another package may be missing elsewhere."""

import ast
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
FILES: Final = sorted(
    path
    for top in ("beam_job.py", "openwit", "pipeline", "queries", "dedup", "train", "bench", "tests")
    for path in ([ROOT / top] if top.endswith(".py") else (ROOT / top).rglob("*.py"))
)


def used_without_import(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield dotted names of packages' attributes that no import of the file loads, and their lines."""
    names, loaded = {}, set()
    nodes = list(ast.walk(tree))
    for node in nodes:
        for alias in node.names if isinstance(node, ast.Import) else ():
            loaded.add(alias.name)
            names[alias.asname or alias.name.partition(".")[0]] = (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            loaded.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    loaded |= {".".join(name.split(".")[:n]) for name in loaded for n in range(1, name.count(".") + 1)}

    def dotted(node: ast.AST) -> str:
        if isinstance(node, ast.Name):
            return names.get(node.id, "")
        if isinstance(node, ast.Attribute) and (left := dotted(node.value)):
            return f"{left}.{node.attr}"
        return ""

    for node in nodes:
        if isinstance(node, ast.Attribute) and (name := dotted(node)) and name not in loaded:
            yield name, node.lineno


@cache
def is_submodule(name: str) -> bool:
    """Return whether a dotted name is a module's, not that of a function or a class."""
    parent, _, last = name.rpartition(".")
    if "." in parent and not is_submodule(parent):
        return False
    try:
        found = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return found is not None and not last.startswith("__")


def missing_when_fresh(names: set[str]) -> list[str]:
    """Return the submodules that importing their top-level package alone does not make reachable."""
    code = (
        "import importlib, json, operator, sys\n"
        "missing = []\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    top, _, rest = name.partition('.')\n"
        "    try: operator.attrgetter(rest)(importlib.import_module(top))\n"
        "    except AttributeError: missing.append(name)\n"
        "print(json.dumps(missing))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(sorted(names))], capture_output=True, text=True, check=True
    )
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_every_submodule_is_imported_where_it_is_used() -> None:
    places: dict[str, list[str]] = {}
    for path in FILES:
        for name, line in used_without_import(ast.parse(path.read_text())):
            places.setdefault(name, []).append(f"{path.relative_to(ROOT)}:{line}")
    submodules = {name for name in places if is_submodule(name)}
    assert "os.path" in submodules or "numpy.random" in submodules, (
        "the search finds what comes with a package"
    )
    by_package: dict[str, set[str]] = {}
    for name in submodules:
        by_package.setdefault(name.partition(".")[0], set()).add(name)
    found = {name: places[name][:3] for names in by_package.values() for name in missing_when_fresh(names)}
    assert not found


@pytest.mark.parametrize(
    ("code", "names"),
    [
        ("import pyarrow as pa\npa.compute.sum(1)", {"pyarrow.compute", "pyarrow.compute.sum"}),
        ("import pyarrow as pa\nimport pyarrow.compute as pc\npa.compute.sum(1)", {"pyarrow.compute.sum"}),
        ("import xml\nxml.dom", {"xml.dom"}),
        ("import pyarrow.parquet\npyarrow.compute", {"pyarrow.compute"}),
        ("from pyarrow import compute\ncompute.sum(1)", set()),
    ],
)
def test_what_a_file_uses_and_does_not_import(code: str, names: set[str]) -> None:
    assert {name for name, _ in used_without_import(ast.parse(code))} == names


def test_pyarrow_alone_has_no_compute() -> None:
    """The reason for all this; should pyarrow import it by itself one day, nothing here is needed for it."""
    assert missing_when_fresh({"pyarrow.compute", "pyarrow.types"}) == ["pyarrow.compute"]
