"""Prompts: the texts around a class name when it is embedded (arXiv:2103.00020, section 3.1.4).

The paper's findings behind the lists: "a photo of a {}." beats the bare name; naming the kind of a set's
things helps ("a type of pet"), quotes around text to be read, "a satellite photo of" for aerial images; and
an ensemble over many contexts beats any single context. `train.evaluation.known_sets` has the published
prompts; the sentences here are openwit's own selection.
"""

from pathlib import PurePosixPath
from typing import Final, NamedTuple

from pipeline.data import evalsets
from train.evaluation import known_sets

BARE: Final = "{}"

_PHOTOS: Final = (
    "a photo of a {}.", "a photo of the {}.", "a good photo of a {}.", "a bad photo of a {}.",
    "a close-up photo of a {}.", "a blurry photo of a {}.", "a bright photo of a {}.",
    "a dark photo of a {}.",
    "a cropped photo of a {}.", "a low resolution photo of a {}.", "a photo of a small {}.",
    "a photo of a large {}.", "a photo of one {}.", "a photo of many {}.", "a photo of my {}.",
    "a picture of a {}.", "a black and white photo of a {}.", "a drawing of a {}.",
)  # fmt: skip


class Prompts(NamedTuple):
    """The prompts of one kind of set; fields only."""

    single: str
    ensemble: tuple[str, ...]


def _of_kind(kind: str) -> Prompts:
    """Return prompts that say which kind of thing all classes are."""
    starts = ("a photo of a {}", "a photo of the {}", "a close-up photo of a {}", "a photo of one {}")
    return Prompts(f"a photo of a {{}}, {kind}.", tuple(f"{start}, {kind}." for start in starts))


GENERIC: Final = Prompts("a photo of a {}.", _PHOTOS)

_SATELLITE: Final = Prompts("a satellite photo of {}.", tuple(
    f"{start} of {article}{{}}." for start in ("a satellite photo", "an aerial view", "a view from above")
    for article in ("", "a ")
))  # fmt: skip
_NUMBERS: Final = Prompts('a photo of the number: "{}".', (
    'a photo of the number: "{}".', 'the number "{}".', 'a photo of the digit "{}".', '"{}".',
    'a handwritten "{}".',
))  # fmt: skip
_DOING: Final = Prompts("a photo of a person doing {}.", tuple(
    f"a {medium} of {who} {verb}{{}}." for medium in ("photo", "video", "demonstration")
    for who in ("a person", "someone") for verb in ("", "doing ", "during ")
))  # fmt: skip
_OWN: Final[dict[str, Prompts]] = {
    "Oxford-IIIT Pets": _of_kind("a type of pet"),
    "Food101": _of_kind("a type of food"),
    "Flowers102": _of_kind("a type of flower"),
    "FGVC Aircraft": _of_kind("a type of aircraft"),
    "Birdsnap": _of_kind("a type of bird"),
    "Stanford Cars": Prompts("a photo of a {}.", tuple(
        f"a photo of {start} {{}}{end}." for start in ("a", "the", "my") for end in ("", ", a type of car")
    )),
    "EuroSAT": _SATELLITE, "RESISC45": _SATELLITE, "MNIST": _NUMBERS, "SVHN": _NUMBERS,
    "GTSRB": Prompts('a photo of a "{}" traffic sign.', tuple(
        f'{start} of {article} "{{}}" traffic sign.' for start in ("a photo", "a large photo", "a close-up")
        for article in ("a", "the")
    )),
    "DTD": Prompts("a photo of a {} texture.", tuple(
        f"a photo of {article} {{}} {noun}." for article in ("a", "the")
        for noun in ("texture", "pattern", "surface", "thing")
    )),
    "UCF101": _DOING, "Kinetics700": _DOING,
    "FER2013": Prompts("a photo of a {} looking face.", (
        "a photo of a {} looking face.", "a photo of a face that looks {}.",
        "a photo of a person who is {}.", "a portrait of someone feeling {}.",
    )),
    "Country211": Prompts("a photo taken in {}.", (
        "a photo taken in {}.", "a photo from {}.", "a photo that I took while visiting {}.",
        "a street in {}.", "a photo showing the country of {}.",
    )),
    "PatchCamelyon": Prompts("a microscope image of {}.", (
        "a microscope image of {}.", "this is a histopathology slide of {}.", "a stained tissue with {}.",
    )),
    "Hateful Memes": Prompts("a {} meme.", ("a {} meme.", "an image of a {} meme.", "this meme is {}.")),
    "Rendered SST2": Prompts("a {} review of a movie.", ("a {} review of a movie.",)),
    "CLEVR Counts": Prompts("a picture of {} objects.", ("a picture of {} objects.",)),
    "KITTI Distance": Prompts(BARE, (BARE,)),
}  # fmt: skip
"""By the title of a known set: openwit's own, where no package has the published ones."""


def for_set(name: str, language: str = "en") -> Prompts:
    """Return the prompts of a set: the published ones of a known set, or openwit's own; else generic ones.

    The single prompt is the generic one where the published prompts hold it, else the first of them.
    """
    if found := known_sets.published(name, language):
        single = GENERIC.single if GENERIC.single in found.prompts else found.prompts[0]
        return Prompts(single, found.prompts)
    known = known_sets.find(name)
    return _OWN.get(known.title, GENERIC) if known else GENERIC


def are_digits(name: str) -> bool:
    """Return whether the pictures of a set of this name show digits."""
    known = known_sets.find(name)
    return known is not None and known.title in ("MNIST", "SVHN")


def read(path: str) -> Prompts:
    """Return the prompts of a file, one per line with {} for the class; ValueError if it is none."""
    lines = [line.strip() for line in evalsets.read_lines(path)]
    templates = tuple(line for line in lines if not line.startswith("#"))
    bad = next((line for line in templates if "{}" not in line), None)
    if bad is not None:
        raise ValueError(f"{PurePosixPath(path).name}: {bad!r} has no {{}} where the class name goes")
    if not templates:
        raise ValueError(f"{path} holds no prompts; write one per line, {{}} for the class")
    return Prompts(templates[0], templates)


def fill(template: str, name: str) -> str:
    """Return a prompt with the class in it; braces in names are text."""
    return template.replace("{}", name)
