"""Say in one line which value an option refuses, where tyro would draw a box."""

import contextlib
import io
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal

_BOX: Final = re.compile(r"\x1b\[[0-9;]*m|[╭╮╰╯│─]+|-{3,}|^[|+]|[|+]$", re.MULTILINE)
_OWN: Final = re.compile(r"Value error Error parsing (?!--).*?: (.*)")
_NUMBERS: Final = {int: "a whole number", float: "a number"}


@contextlib.contextmanager
def in_one_line(arguments: Sequence[str], kinds: Mapping[str, Any], prog: str) -> Iterator[None]:
    """Raise ValueError in place of tyro's box and exit; the help passes.

    kinds: the type of each option, by its name as typed, such as --image-size.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            yield
    except SystemExit as stop:
        if stop.code != 2:
            raise
        sentence = _sentence(said.getvalue(), arguments, kinds)
        raise ValueError(f"{sentence}; `{prog} --help-all` explains every option") from None


def _sentence(box: str, arguments: Sequence[str], kinds: Mapping[str, Any]) -> str:
    """Return "--image-size takes a whole number, not 'large'", or tyro's own words."""
    words = " ".join(_BOX.sub(" ", box).split()).partition(" For full helptext")[0]
    if own := _OWN.match(words):
        flags = {kind.removeprefix("--").replace("-", "_"): kind for kind in kinds}
        # The options' own check names their fields: the first word, and any with an underscore.
        return re.sub(r"^[a-z_]+|\b[a-z]+(?:_[a-z]+)+", lambda name: flags.get(name[0], name[0]), own[1])
    flag = next((flag for flag in re.findall(r"--[a-z][a-z0-9-]*", words) if flag in kinds), "")
    wanted = _wanted(kinds.get(flag))
    if not wanted:
        return words
    value = next((a.partition("=")[2] for a in arguments if a.startswith(f"{flag}=")), None)
    for place, argument in enumerate(arguments[:-1]):
        if argument == flag and not arguments[place + 1].startswith("--"):
            value = arguments[place + 1]
    return f"{flag} takes {wanted}, not {value!r}" if value is not None else f"{flag} needs {wanted}"


def _wanted(kind: Any) -> str:
    """Return the values that a type takes, in words; "" if tyro knows better."""
    if typing.get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, typing.get_args(kind)))}"
    inner = [part for part in typing.get_args(kind) if part not in (None, type(None), ...)]
    return _NUMBERS.get(kind, "") or next(filter(None, map(_wanted, inner)), "")
