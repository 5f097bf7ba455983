"""The value of `--scorer`: NAME or module:Class, then `=` and its files: `aesthetic=runs/b32,head.npz`."""

from typing import Final

BUILT_IN: Final = {
    "sharpness": "pipeline.images.scoring:Sharpness",
    "clip-score": "train.scorers:ClipScore",
    "dfn": "train.scorers:DataFilter",
    "clip-score-masked": "train.scorers:MaskedClipScore",
    "aesthetic": "train.scorers:Aesthetic",
    "nsfw": "pipeline.images.nsfw:Nsfw",
    "faces": "pipeline.images.faces:Faces",
    "blur-faces": "pipeline.images.faces:BlurredFaces",
}
"""Scorers by name. Those that need torch are in a room above, and are imported when they are asked for."""


def name_of(spec: str) -> str:
    """Return the name of a scorer, without its files, as a folder may be called."""
    return spec.partition("=")[0].replace(":", ".")


def files_of(spec: str) -> list[str]:
    """Return the files that a scorer is made of."""
    given = spec.partition("=")[2]
    return given.split(",") if given else []
