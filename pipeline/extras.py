"""Name the package that is missing, and the extra of openwit that installs it."""

import importlib.metadata
import importlib.util
import re
from collections.abc import Iterator
from functools import cache
from typing import Final

_IMPORT_NAMES: Final = {
    "faiss-cpu": "faiss",
    "fasttext-predict": "fasttext",
    "opencv-python-headless": "cv2",
    "pillow": "PIL",
}
"""Packages that are imported by another name than their own with `_` for `-`."""
_REQUIREMENT: Final = re.compile(r"""([\w.-]+(?:\[[\w,-]+\])?).*extra == ['"]([\w-]+)['"]""")
_NO_MODULE: Final = re.compile(r"ModuleNotFoundError: No module named '(\w+)")
_WORD: Final = re.compile(r"[\w-]+(?:\[\w+\])?")


@cache
def packages() -> dict[str, tuple[str, ...]]:
    """Return the packages of each extra, as declared by the installed openwit; {} where none is."""
    try:
        declared = importlib.metadata.requires("openwit") or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    found: dict[str, tuple[str, ...]] = {}
    for line in declared:
        if match := _REQUIREMENT.fullmatch(line):
            found[match[2]] = (*found.get(match[2], ()), match[1])
    return {extra: tuple(_own_extras(names, found)) for extra, names in found.items()}


def _own_extras(names: tuple[str, ...], found: dict[str, tuple[str, ...]]) -> Iterator[str]:
    """Yield package names, with those of openwit's own extras in the place of openwit[...]."""
    for name in names:
        if name.startswith("openwit["):
            for extra in name.removeprefix("openwit[").rstrip("]").split(","):
                yield from _own_extras(found.get(extra, ()), found)
        else:
            yield name


def import_name(package: str) -> str:
    """Return the top-level module of a package."""
    return _IMPORT_NAMES.get(package, package.replace("-", "_"))


def is_installed(package: str) -> bool:
    """Return whether a package can be imported; one with an extra of its own never counts as installed."""
    try:
        return "[" not in package and importlib.util.find_spec(import_name(package)) is not None
    except (ImportError, ValueError):
        return False


def missing(extras: str) -> str:
    """Return the first package of some extras, divided by commas, that is not installed, or ""."""
    wanted = [name for extra in extras.split(",") for name in packages().get(extra, ())]
    return next((name for name in wanted if not is_installed(name)), "")


def sentence(prog: str, package: str, extras: str) -> str:
    """Return the line that says how to install a missing package."""
    return f"{prog} needs {package}: pip install 'openwit[{extras}]'\n"


def advice(prog: str, error: BaseException, extras: str = "") -> str:
    """Return the line for a failure whose cause is a missing package of an extra, or "".

    extras: those of the command, which are named if the package is among theirs; else the smallest extra that
    has it. The failure may be that of a worker process, which comes as text.
    """
    words = _NO_MODULE.findall(str(error))
    if isinstance(error, ImportError):
        # fsspec and Beam name a package in words alone: "Install s3fs to access S3".
        words += [(error.name or "").partition(".")[0], *_WORD.findall(str(error))]
    said = {_plain(word) for word in words}
    smallest = sorted(packages(), key=lambda extra: len(packages()[extra]))
    for extra in (*extras.split(","), *smallest):
        for package in packages().get(extra, ()):
            if said & {_plain(package), _plain(import_name(package))} and not is_installed(package):
                return sentence(prog, package, extras if extra in extras.split(",") else extra)
    return ""


def _plain(name: str) -> str:
    return name.lower().replace("-", "_")
