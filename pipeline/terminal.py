"""Print where text from outside is only text: no markup of its own, no control of the terminal."""

import logging
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Final

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from pipeline.untrusted import visible_lines
from pipeline.verbosity import verbosity

_LINE: Final = 10_000
"""Columns off a terminal, so that no table of a log is folded."""


class Terminal(Console):
    """A console on which every printed text, in tables and logs too, has its controls as [U+001B].

    Square brackets are no markup: styles are given by `style` and `rich.text.Text`.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Render as rich does; only rich's own controls, which are no text, stay controls."""
        for text, style, control in super().render(renderable, options):
            yield Segment(text if control else visible_lines(text), style, control)


def terminal() -> Terminal:
    """Return a console on stderr with a descriptor of its own, untouched while descriptor 2 goes to a log.

    With --quiet it prints nothing: it has the progress and the notes, not the errors.
    """
    file = os.fdopen(os.dup(2), "w", buffering=1)
    quiet = verbosity() == "quiet"
    return (
        Terminal(file=file, quiet=quiet) if file.isatty() else Terminal(file=file, width=_LINE, quiet=quiet)
    )


def output(log_json: str = "") -> Terminal:
    """Return a console on stdout for the results of a command; on stderr where --log-json has stdout."""
    if log_json == "-":
        return terminal()
    return Terminal() if sys.stdout.isatty() else Terminal(width=_LINE)


def show_places(console: Console, places: Sequence[tuple[str, str]]) -> None:
    """Print the files that a command made, a name and a path per line, after its table."""
    width = max(len(name) for name, _ in places) + 2
    for name, path in places:
        console.print(f"{name:<{width}}{path}", highlight=False, soft_wrap=True)


def told(error: Exception) -> str:
    """Return an error in words, without errno: it says if something else than a file has that name."""
    name = getattr(error, "filename", None)
    if isinstance(error, FileNotFoundError) and name:
        return f"{name}: there is no such file or folder"
    if isinstance(error, IsADirectoryError) and name:
        return f"{name} is a folder, where a file is needed"
    return str(error)


def complaint(text: str) -> str:
    """Return an error's text for stderr: further lines of it are set in, so that none poses as another's."""
    return visible_lines(text).replace("\n", "\n  ")


class LogFormatter(logging.Formatter):
    """Format records of a log with all controls visible."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of a record."""
        return visible_lines(super().format(record))


def show_tracebacks_plainly() -> None:
    """Show a final traceback with all control characters visible."""

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        sys.stderr.write(visible_lines("".join(traceback.format_exception(kind, error, trace))))

    sys.excepthook = hook
