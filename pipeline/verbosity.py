"""How much a command prints: --quiet, --verbose or neither."""

from collections.abc import Sequence
from typing import Final

FLAGS: Final = {"--quiet": "quiet", "--verbose": "verbose"}
_chosen = [""]
"""Of this process: workers print nothing."""


def verbosity() -> str:
    """Return "quiet", "verbose" or "", as this command was started."""
    return _chosen[0]


def take_verbosity(arguments: Sequence[str]) -> list[str]:
    """Note --quiet or --verbose for this process, and return the other arguments; the last flag wins.

    >>> take_verbosity(["crawl", "--quiet", "--out", "run"]), verbosity()
    (['crawl', '--out', 'run'], 'quiet')
    """
    _chosen[0] = ([""] + [FLAGS[argument] for argument in arguments if argument in FLAGS])[-1]
    return [argument for argument in arguments if argument not in FLAGS]
