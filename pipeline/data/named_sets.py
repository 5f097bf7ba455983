"""Evaluation sets as they are named on the command line; `evalsets` reads them."""

from collections import Counter
from typing import NamedTuple


class EvalSet(NamedTuple):
    """A set as named on the command line; fields only."""

    name: str
    path: str


def parse(argument: str) -> EvalSet:
    """Return the set that NAME=PATH names; ValueError if it is anything else."""
    name, equals, path = argument.partition("=")
    if not (name and equals and path):
        raise ValueError(f"an evaluation set is given as NAME=PATH, not {argument!r}")
    if not all(c.isalnum() or c in "._-" for c in name) or name.startswith("."):
        raise ValueError(
            f"{name!r} cannot name a set: it becomes a file name, so use letters, digits, '.', '_' and '-'"
        )
    return EvalSet(name, path)


def parse_all(arguments: tuple[str, ...]) -> list[EvalSet]:
    """Return the sets in order; ValueError if a name is given twice."""
    found = [parse(argument) for argument in arguments]
    twice = [name for name, count in Counter(one.name for one in found).items() if count > 1]
    if twice:
        raise ValueError(f"{twice[0]} is given twice; every evaluation set needs a name of its own")
    return found
