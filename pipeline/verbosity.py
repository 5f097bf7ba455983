"""How much a command prints: --quiet, --verbose or neither."""

import os
from collections.abc import Sequence
from typing import Final

_VERBOSITY: Final = "OPENWIT_VERBOSITY"
"""In the environment, so that worker processes have it too."""
FLAGS: Final = {"--quiet": "quiet", "--verbose": "verbose"}


def verbosity() -> str:
    """Return "quiet", "verbose" or "", as this command was started."""
    return os.environ.get(_VERBOSITY, "")


def take_verbosity(arguments: Sequence[str]) -> list[str]:
    """Note --quiet or --verbose for this process, and return the other arguments; the last flag wins."""
    said = [FLAGS[argument] for argument in arguments if argument in FLAGS]
    os.environ.pop(_VERBOSITY, None)
    if said:
        os.environ[_VERBOSITY] = said[-1]
    return [argument for argument in arguments if argument not in FLAGS]
