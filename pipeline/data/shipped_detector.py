"""The learned detector that ships with openwit: `--detector lite` stands for its file, in every command.

It belongs to `dedup`, which stands on this package. `dedup/detector/lite.md` says from what it was made.
"""

from importlib import resources
from typing import Final

from pipeline import storage

NAME: Final = "lite"
_PACKAGE: Final = "dedup.detector"


def is_named(given: str) -> bool:
    """Return whether it is meant: a file or folder of that name comes first."""
    return given == NAME and not storage.exists(given)


def file_of(given: str) -> str:
    """Return the file that a detector's path or name stands for."""
    return str(resources.files(_PACKAGE) / f"{NAME}.safetensors") if is_named(given) else given


def found(given: str, option: str = "--detector") -> str:
    """Return that file; ValueError, which names the option, if there is none."""
    if not storage.exists(path := file_of(given)):
        raise ValueError(
            f"{option} {path}: no such file; `openwit detector train` writes one, and {NAME} names the "
            "one that ships with openwit"
        )
    return path


def users_file(given: str) -> str:
    """Return a detector's path, or nothing for the name: a cluster's workers have that file themselves."""
    return "" if is_named(given) else given
