"""One model under evaluation: its features and classifiers, computed once and kept in the result's folder."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Literal, Protocol

import numpy as np

from pipeline import storage
from pipeline.data import evalsets
from pipeline.data.evalsets import Example
from pipeline.images.decode import named
from pipeline.images.pixels import PixelDecoder
from train.evaluation import classes, corruptions, features, frames, prompts, sets, zeroshot
from train.evaluation.classes import Classes
from train.evaluation.features import Features, Floats
from train.evaluation.models import Encoder
from train.evaluation.options import Corruption, EvalConfig
from train.evaluation.prompts import Prompts
from train.image_transforms import Pixels

log = logging.getLogger("train.evaluation")

Split = Literal["test", "train", "validation"]
_SEVERAL = (
    "{name}: {id} has several classes: give --metric {name}=map11, which takes them, or one label per example"
)


class EncodingWatch(Protocol):
    """Show the progress of one step; it yields a function to call with the amount done."""

    def __call__(self, label: str, total: int | None) -> AbstractContextManager[Callable[[int], None]]: ...


class EncodedModel:
    """Hold an encoder, the run's options, and the features so far."""

    def __init__(
        self, encoder: Encoder, config: EvalConfig, watch: EncodingWatch, decoders: Sequence[PixelDecoder]
    ) -> None:
        self.encoder, self.config, self.watch, self._decoders = encoder, config, watch, decoders
        self._paths = {one.name: one.path for one in config.sets}
        self._features: dict[tuple[str, Split], Features] = {}
        self._seen: dict[str, tuple[str, int]] = {}
        self._classes: dict[str, Classes] = {}
        self._folder = storage.join(config.out, "work", encoder.fingerprint[:12])

    @property
    def name(self) -> str:
        """Return the model's name."""
        return self.encoder.name

    def path(self, name: str, split: Split = "test") -> str:
        """Return where a set's split is; ValueError if a probe would be scored on its training examples."""
        if split == "test":
            return self._paths[name]
        path = self.config.split(split, name)
        if path and path.rstrip("/") == self._paths[name].rstrip("/"):
            raise ValueError(
                f"--{split} {name} is the very set that the probe is scored on: give another split"
            )
        return path

    def features(self, name: str, split: Split = "test") -> Features:
        """Return a set's features, read from the result's folder where they are."""
        if (name, split) not in self._features:
            found = self._encoded(name, split, None)
            if split == "test" and (path := self.config.for_set("frames", name)):
                found = frames.relabelled(found, frames.read(path, found).labels)
            self._features[name, split] = found
        return self._features[name, split]

    def corrupted(self, name: str, kind: Corruption, level: int) -> Features:
        """Return the features of a corrupted copy of a set."""
        return self._encoded(name, "test", (kind, level))

    def _encoded(self, name: str, split: Split, corruption: tuple[Corruption, int] | None) -> Features:
        path, config = self.path(name, split), self.config
        limit = config.limit if split == "test" else 0
        label = " ".join([name, *([split] if split != "test" else []), *map(str, corruption or ())])
        changed = None
        if corruption is not None:
            changed = (*corruption, corruptions.STRENGTHS[corruption[0]], config.seed)
        key = features.key_of(
            self.encoder.fingerprint, config.precision, self._inputs(path)[0], limit, changed
        )
        kept_at = storage.join(self._folder, f"{label.replace(' ', '-')}.parquet")
        kept = features.read(kept_at, key)
        if kept is None:
            with self.watch(f"{self.name}: {label}", self._count(path, limit)) as tell:
                kept = features.encode(
                    self.encoder, label, self._examples(name, path, limit), config.batch_size, self._decoders,
                    _change(corruption, config.seed), tell,
                )  # fmt: skip
            features.write(kept_at, kept, key)
        if self._one_class(name) and kept.several.any():
            raise ValueError(_SEVERAL.format(name=name, id=kept.example_ids[int(kept.several.argmax())]))
        if corruption is None and (bad := kept.unreadable):
            said = "%s: %d of %d images cannot be decoded and are left out: %s"
            log.warning(said, label, len(bad), len(kept) + len(bad), named(bad))
        if corruption is None and 0 < (without := len(kept) - len(labelled(kept))) < len(kept):
            log.warning("%s: %d of %d images have no label (or -1): not scored", label, without, len(kept))
        return kept

    def _one_class(self, name: str) -> bool:
        """Return whether the tasks ask for one class an example."""
        return bool(set(self.config.task) - {"retrieval"}) and not self.several(name)

    def _examples(self, name: str, path: str, limit: int) -> Iterator[Example]:
        """Yield a set's examples; ValueError at the first with several classes where one class is needed."""
        for example in sets.examples(path, limit):
            if example.several_classes and self._one_class(name):
                raise ValueError(_SEVERAL.format(name=name, id=example.example_id))
            yield example

    def _inputs(self, path: str) -> tuple[str, int]:
        """Return a set's fingerprint and the number of its files, looked at once."""
        if path not in self._seen:
            listed = evalsets.listing(path)
            if left_out := evalsets.left_out_of(listed):
                log.warning("%s: %s", path, left_out)
            self._seen[path] = (sets.fingerprint(listed.files), len(listed.files))
        return self._seen[path]

    def _count(self, path: str, limit: int) -> int | None:
        """Return how many examples will be encoded, None where only reading the archives tells."""
        if evalsets.form_of(path) != "folder":
            return limit or None
        count = self._inputs(path)[1]
        return min(count, limit) if limit else count

    def several(self, name: str) -> bool:
        """Return whether a set's examples may have several classes."""
        return self.config.several(name)

    def classes(self, name: str) -> Classes:
        """Return a set's classes: of its file, of the names that lie with it, or all labels of the set and of
        its training images.
        """  # fmt: skip
        if name not in self._classes:
            self._classes[name] = self._find_classes(name)
        return self._classes[name]

    def _find_classes(self, name: str) -> Classes:
        found = self.features(name)
        labels = [*found.labels, *(one.label for one in found.unreadable if one.label)]
        path = self.config.for_set("classes", name)
        if self.config.fits(name):
            labels += self.features(name, "train").labels
        numbered = () if path else self.numbered(name)
        known = classes.of(
            name, labels, path, several=self.several(name), numbered=numbered, language=self.config.language
        )
        if said := classes.warning_of_codes(name, known, self.prompts(name).single):
            log.warning("%s", said)
        return known

    def numbered(self, name: str) -> tuple[str, ...]:
        """Return the names of the labels 0, 1, ... by the set or its training images."""
        paths = [self.path(name), *([self.path(name, "train")] if self.config.fits(name) else [])]
        return next(filter(None, map(evalsets.class_names, paths)), ())

    def prompts(self, name: str) -> Prompts:
        """Return a set's prompts: of its file, else those that its name suggests."""
        path = self.config.for_set("templates", name)
        return prompts.read(path) if path else prompts.for_set(name, self.config.language)

    def classifier(self, name: str, known: Classes, templates: tuple[str, ...], kind: str = "") -> Floats:
        """Return the zero-shot classifier [C, d], kept under classifiers/MODEL/NAME.safetensors."""
        path = storage.join(self.config.out, "classifiers", file_name(self.name), f"{name}{kind}.safetensors")
        return zeroshot.classifier(self.encoder, known.labels, known.spellings, templates, path)

    def zero_shot(self, name: str, kind: Literal["", ".class-name", ".single-template"] = "") -> Floats:
        """Return a set's zero-shot logits [n, C] with the ensemble, the bare class names, or one template."""
        given = self.prompts(name)
        lists = {"": given.ensemble, ".class-name": (prompts.BARE,), ".single-template": (given.single,)}
        weights = self.classifier(name, self.classes(name), lists[kind], kind)
        return zeroshot.logits(self.features(name).embeddings, weights, self.encoder.scale)


def file_name(name: str) -> str:
    """Return a model's name as a folder's."""
    return "".join(c if c.isalnum() or c in "._@-" else "-" for c in name).lstrip(".") or "model"


def _change(corruption: tuple[Corruption, int] | None, seed: int) -> sets.Change | None:
    if corruption is None:
        return None
    kind, level = corruption

    def change(pixels: Pixels, example_id: str) -> Pixels:
        return corruptions.corrupt(pixels, kind, level, seed, example_id)

    return change


def labelled(found: Features) -> np.ndarray:
    """Return the rows of examples that have a label: int64 [k]."""
    return np.flatnonzero([bool(label) for label in found.labels])
