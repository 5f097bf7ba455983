"""The inputs of a query job, and the fingerprints by which it knows the work it has already done."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

from pipeline import storage
from queries import wordnet
from queries.options import QueriesConfig

SCHEMA_VERSION: Final = 2  # of the intermediate files; raised when their meaning changes
_PARTITION_BYTES: Final = 128 << 20  # of input for each partition of words, pages and views
_MAX_PARTITIONS: Final = 512


@dataclass(frozen=True)
class Inputs:
    """Hold the files that the options' paths and globs name."""

    wikipedia: list[str]
    pageviews: list[str]
    files: list[storage.FileInfo]
    """All files read, those of WordNet and the user's lists included."""

    def infos(self, paths: list[str]) -> list[list[Any]]:
        """Return path, size and version of some of the files, as a fingerprint takes them."""
        return [list(info) for info in self.files if info.path in paths]

    @property
    def partitions(self) -> int:
        """Return into how many partitions words, pages and views are cut."""
        size = sum(storage.file_info(path).size for path in (*self.wikipedia, *self.pageviews))
        return min(_MAX_PARTITIONS, 1 + size // _PARTITION_BYTES)


def find_inputs(config: QueriesConfig) -> Inputs:
    """Return the input files; ValueError names an option that matches nothing."""
    wikipedia_files = _matches("--wikipedia", config.wikipedia)
    pageview_files = _matches("--pageviews", config.pageviews)
    others = (
        [storage.join(config.wordnet, f"data.{p}") for p in wordnet.PARTS_OF_SPEECH] if config.wordnet else []
    )
    missing = [path for path in (*others, *config.extra, *config.exclude) if not storage.exists(path)]
    if missing:
        raise ValueError(f"{missing[0]} does not exist")
    paths = [*wikipedia_files, *pageview_files, *others, *config.extra, *config.exclude]
    return Inputs(wikipedia_files, pageview_files, [storage.file_info(path) for path in paths])


def _matches(option: str, patterns: Iterable[str]) -> list[str]:
    found: list[str] = []
    for pattern in patterns:
        matched = storage.glob(pattern)
        if not matched:
            raise ValueError(f"{option} {pattern} matches no file")
        found.extend(path for path in matched if path not in found)
    return found


def of_list(config: QueriesConfig, inputs: Inputs) -> str:
    """Return the identity of a list: the options that change it, and its inputs."""
    options = {
        name: getattr(config, name)
        for name in ("size", "lang", "min_count", "min_bigram_count", "min_views", "wordnet_lemmas")
    }
    return digest(SCHEMA_VERSION, options, [list(info) for info in inputs.files])


def digest(*values: object) -> str:
    """Return a fingerprint of JSON values, hex."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
