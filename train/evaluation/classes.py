"""Classes of a set: its labels in order, and what they are called in prompts."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data import evalsets
from pipeline.data.evalsets import SEPARATOR

_CODE = re.compile(r"[0-9]+|n[0-9]{8}")  # a number, or one of WordNet's as ImageNet's folders have it


class Classes(NamedTuple):
    """A set's classes; fields only."""

    labels: list[str]
    """As in the data."""
    names: list[str]
    """As in prompts."""


def display(label: str) -> str:
    """Return a label as words: folders say `sports_car`."""
    return " ".join(label.replace("_", " ").split())


def read_lines(path: str) -> list[str]:
    """Return the lines of a text file without the empty ones and the white space around them."""
    return [line.strip() for line in evalsets.read_lines(path)]


def read_categories(path: str) -> tuple[list[str], list[str]]:
    """Return names and categories of a file with a name on each line, or a name, a tab and its category.

    The category is empty where a line has none. ValueError for a name twice.
    """
    pairs = [line.partition("\t") for line in read_lines(path)]
    names = [name.strip() for name, _, _ in pairs]
    if len(set(names)) < len(names):
        raise ValueError(f"{path} holds {next(one for one in names if names.count(one) > 1)!r} twice")
    return names, [category.strip() for _, _, category in pairs]


def read(path: str, found: Iterable[str]) -> Classes:
    """Return the classes of a file: lines of `name`, or `label`, a tab and `name`; in the order of lines.

    ValueError for a file without classes, or with one twice.

    Where the set's labels (`found`) are the numbers of lines, counted from 0, lines may be names alone.
    """
    pairs = [line.strip().partition("\t")[::2] for line in evalsets.read_lines(path)]
    if not pairs:
        raise ValueError(f"{path} holds no classes; write one per line")
    tabs = sum(bool(name) for _, name in pairs)
    if tabs not in (0, len(pairs)):
        raise ValueError(
            f"{path}: {tabs} of {len(pairs)} lines hold a tab; write all as `label`, tab, `name`"
        )
    labels, names = [pair[0].strip() for pair in pairs], [pair[1].strip() or pair[0] for pair in pairs]
    numbers = [str(number) for number in range(len(pairs))]
    if not tabs and (given := set(found)) and given <= set(numbers) and not given <= set(labels):
        labels = numbers
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"{path} holds {twice!r} twice")
    return Classes(labels, names if tabs else [display(name) for name in names])


def of(
    name: str, labels: Iterable[str], path: str, *, several: bool = False, numbered: Sequence[str] = ()
) -> Classes:
    """Return the classes of a set with these labels: from a file, else from the labels themselves.

    ValueError for a file that names not all of them.

    numbered: what the labels 0, 1, ... are called, where the set says so; used where its labels are numbers.
    """
    found = {part for label in labels for part in split(label, several=several)}
    if path:
        classes = read(path, found)
        if missing := sorted(found - set(classes.labels)):
            raise ValueError(
                f"{path} does not name {missing[0]!r}, which is a label of {name}; "
                f"{len(missing)} labels are missing"
            )
        return classes
    if numbered and all(_is_number(label) for label in found):
        if beyond := [label for label in found if int(label) >= len(numbered)]:
            raise ValueError(
                f"{name} has the label {max(beyond, key=int)}, but its names are those of 0 to "
                f"{len(numbered) - 1}; name its classes with --classes FILE"
            )
        if len(numbered) > 1:
            return Classes([str(number) for number in range(len(numbered))], [*map(display, numbered)])
    if not found:
        raise ValueError(f"{name} has no labels: name the classes to predict with --classes FILE")
    if len(found) < 2:
        raise ValueError(f"{name} has one class alone, {next(iter(found))!r}; --classes FILE can name more")
    order = sorted(found, key=lambda label: (len(label), label) if label.isdigit() else (0, label))
    return Classes(order, [display(label) for label in order])


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit() and str(int(label)) == label


def are_codes(labels: Iterable[str]) -> bool:
    """Return whether all labels are numbers or ImageNet's codes, which say nothing in a prompt."""
    return all(_CODE.fullmatch(label) for label in labels)


def split(label: str, *, several: bool) -> list[str]:
    """Return the classes that a label holds; none where it is empty."""
    parts = label.split(SEPARATOR) if several else [label]
    return [part.strip() for part in parts if part.strip()]


def truth(labels: list[str], classes: list[str], *, several: bool = False) -> npt.NDArray[np.bool_]:
    """Return bool [n, C]: which classes each example has; rows of unlabelled examples are empty."""
    index = {label: number for number, label in enumerate(classes)}
    table = np.zeros((len(labels), len(classes)), np.bool_)
    for row, label in enumerate(labels):
        for part in split(label, several=several):
            table[row, index[part]] = True
    return table
