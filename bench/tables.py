"""Print the benchmarks' figures as tables."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table


def show(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], *, texts: int = 1, stderr: bool = False
) -> None:
    """Print a table; the first `texts` columns hold texts, the others numbers. A log has it unfolded, too."""
    view = Table(title=title)
    for place, name in enumerate(columns):
        view.add_column(name, justify="left" if place < texts else "right")
    for row in rows:
        view.add_row(*row)
    file = sys.stderr if stderr else sys.stdout
    console = Console(file=file) if file.isatty() else Console(file=file, width=1000)
    console.print(view)
