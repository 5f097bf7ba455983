"""`openwit summary`: write a run's public summary of training content again, with a person's answers."""

import tomllib
from collections.abc import Sequence

from rich.text import Text

from pipeline import config as parser
from pipeline import storage
from pipeline.cli_runtime import guarded
from pipeline.formats import count
from pipeline.options.finished import SummaryConfig
from pipeline.report import eu_summary
from pipeline.run_folder import Layout
from pipeline.terminal import output, terminal


def main(argv: Sequence[str], prog: str = "openwit summary") -> int:
    """Write the summary of a finished run; return 0."""
    options, _ = parser.parse(SummaryConfig, argv, prog=prog)
    layout = Layout(options.run.rstrip("/"))
    if not storage.exists(layout.manifest):
        parser.usage_error(prog, f"{layout.manifest} does not exist: is the run finished?")
    return guarded(prog, terminal(), "", lambda: _write(layout, options))


def _write(layout: Layout, options: SummaryConfig) -> int:
    answers = read_answers(options.answers) if options.answers else {}
    written = eu_summary.write(layout, answers, sme=options.sme)
    console, left = output(), eu_summary.unanswered(written)
    console.print(Text(eu_summary.path(layout, "html")), soft_wrap=True)
    if left:
        said = f"{count(len(left), 'field waits', 'fields wait')} for a person's answer: {', '.join(left)}"
        console.print(Text(said), soft_wrap=True)
    return 0


def read_answers(path: str) -> dict[str, str]:
    """Return the answers in a TOML file, texts by field; ValueError if it is none."""
    try:
        found = tomllib.loads(storage.read_bytes(path).decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}") from None
    for name, value in found.items():
        if not isinstance(value, str):
            raise ValueError(f'{path}: {name} must be a text, such as {name} = "none"')
    return found
