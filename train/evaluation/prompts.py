"""Prompts: what a class name stands in before it is embedded (arXiv:2103.00020, section 3.1.4).

The paper's findings behind the lists: "a photo of a {}." beats the bare name; saying what kind of thing a set
is about helps ("a type of pet"), quotes around text to be read, "a satellite photo of" for aerial images; and
an ensemble over many contexts beats any one of them. The sentences are openwit's own selection.
"""

import re
from pathlib import PurePosixPath
from typing import Final, NamedTuple

from pipeline.data import evalsets

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

_DIGITS: Final = "mnist|svhn|digit"
# Part of a set's name in lower-case letters and digits: its prompts. The first that is found counts.
_KINDS: Final[tuple[tuple[str, Prompts], ...]] = (
    ("pet", _of_kind("a type of pet")),
    ("food", _of_kind("a type of food")),
    ("flower", _of_kind("a type of flower")),
    ("aircraft", _of_kind("a type of aircraft")),
    ("bird", _of_kind("a type of bird")),
    ("cloth|fashion|deepfashion", _of_kind("a type of clothing")),
    ("stanfordcars|^cars", Prompts("a photo of a {}.", tuple(
        f"a photo of {start} {{}}{end}." for start in ("a", "the", "my") for end in ("", ", a type of car")
    ))),
    ("eurosat|resisc|satellite|aerial", Prompts("a satellite photo of {}.", tuple(
        f"{start} of {article}{{}}." for start in ("a satellite photo", "an aerial view", "a view from above")
        for article in ("", "a ")
    ))),
    (_DIGITS, Prompts('a photo of the number: "{}".', (
        'a photo of the number: "{}".', 'the number "{}".', 'a photo of the digit "{}".', '"{}".',
        'a handwritten "{}".',
    ))),
    ("ocr|renderedsst|sst2|text|iiit", Prompts('an image with the text "{}".', (
        'an image with the text "{}".', 'a photo of the word "{}".', 'the text "{}".', '"{}".',
    ))),
    ("gtsrb|trafficsign", Prompts('a photo of a "{}" traffic sign.', tuple(
        f'{start} of {article} "{{}}" traffic sign.' for start in ("a photo", "a large photo", "a close-up")
        for article in ("a", "the")
    ))),
    ("dtd|texture", Prompts("a photo of a {} texture.", tuple(
        f"a photo of {article} {{}} {noun}." for article in ("a", "the")
        for noun in ("texture", "pattern", "surface", "thing")
    ))),
    ("ucf|kinetics|hmdb|action", Prompts("a photo of a person doing {}.", tuple(
        f"a {medium} of {who} {verb}{{}}." for medium in ("photo", "video", "demonstration")
        for who in ("a person", "someone") for verb in ("", "doing ", "during ")
    ))),
    ("fer2013|emotion|expression", Prompts("a photo of a {} looking face.", (
        "a photo of a {} looking face.", "a photo of a face that looks {}.",
        "a photo of a person who is {}.", "a portrait of someone feeling {}.",
    ))),
    ("country|geoloc", Prompts("a photo taken in {}.", (
        "a photo taken in {}.", "a photo from {}.", "a photo that I took while visiting {}.",
        "a street in {}.", "a photo showing the country of {}.",
    ))),
    ("pcam|camelyon|histo|patholog", Prompts("a microscope image of {}.", (
        "a microscope image of {}.", "this is a histopathology slide of {}.", "a stained tissue with {}.",
    ))),
    ("hateful|meme", Prompts("a {} meme.", ("a {} meme.", "an image of a {} meme.", "this meme is {}."))),
)  # fmt: skip


def for_set(name: str) -> Prompts:
    """Return the prompts of a set by its name, the generic ones where it says nothing."""
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return next((prompts for pattern, prompts in _KINDS if re.search(pattern, plain)), GENERIC)


def are_digits(name: str) -> bool:
    """Return whether a set's name says that digits are what its pictures show."""
    return bool(re.search(_DIGITS, name.lower()))


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
