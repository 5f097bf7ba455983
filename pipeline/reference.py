"""Every command's options as one page: `python -m pipeline.reference > docs/commands.md`."""

import ast
import dataclasses
import importlib
import inspect
import sys
import textwrap
from collections.abc import Iterator
from typing import Final, NamedTuple

CONFIGS: Final = {
    "queries": "queries.options:QueriesConfig",
    "crawl": "pipeline.options:CrawlConfig",
    "status": "pipeline.status:StatusConfig",
    "verify": "pipeline.verify:VerifyConfig",
    "overlap": "dedup.options:OverlapConfig",
    "plan": "pipeline.plan.options:PlanConfig",
    "train": "train.config:TrainConfig",
    "export": "train.config:ExportConfig",
    "demo": "pipeline.demo.run:DemoConfig",
}
"""Where the options of each command are."""


class Option(NamedTuple):
    """Hold what the page says of one option."""

    flag: str
    default: str
    help: str


def config_of(command: str) -> type:
    """Return the class of a command's options."""
    module, _, name = CONFIGS[command].partition(":")
    found = getattr(importlib.import_module(module), name)
    assert isinstance(found, type)
    return found


def options(config_class: type) -> Iterator[Option]:
    """Yield the options of a class in order, those of nested classes in their place."""
    explained = _attribute_docstrings(config_class)
    for field in dataclasses.fields(config_class):
        inner = field.type if isinstance(field.type, type) else None
        if inner is not None and dataclasses.is_dataclass(inner):
            yield from options(inner)
        else:
            yield Option(f"--{field.name.replace('_', '-')}", _default(field), explained.get(field.name, ""))


def _attribute_docstrings(config_class: type) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(config_class))).body[0]
    assert isinstance(body, ast.ClassDef)
    found = {}
    for node, after in zip(body.body, body.body[1:], strict=False):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            match after:
                case ast.Expr(value=ast.Constant(value=str(text))):
                    found[node.target.id] = " ".join(text.split())
    return found


def _default(field: "dataclasses.Field[object]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        return "" if field.name != "workers" else "all cores"
    if field.default is dataclasses.MISSING:
        return "required"
    value = field.default
    if value is None or value in ("", ()):
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else f"{value}"


INTRODUCTION: Final = """\
# Commands and options

Every option can also stand in a TOML file (`--config FILE.toml`), with `_` for `-`; flags win over it. `--check`
matches the inputs, prints the plan and writes nothing. What is "yes" is switched off by `--no-`.
"""


def page() -> str:
    """Return the page, Markdown."""
    return "\n".join([INTRODUCTION, *(section(command) for command in CONFIGS)])


def section(command: str) -> str:
    """Return the part of one command."""
    config_class = config_of(command)
    about = inspect.cleandoc(config_class.__doc__ or "").partition("\n")[0]
    lines = [f"## openwit {command}", "", about, "", "| option | default | what it does |", "|---|---|---|"]
    for option in options(config_class):
        plain = option.default in ("", "required", "yes", "no", "all cores")
        default = option.default if plain else f"`{option.default}`"
        lines.append(f"| `{option.flag}` | {default} | {option.help.replace('|', chr(92) + '|')} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    sys.stdout.write(page())
