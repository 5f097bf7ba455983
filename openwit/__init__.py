"""openwit from Python: read the result of a crawl, and use its parts.

    >>> import openwit
    >>> dataset = openwit.open("run")
    >>> len(dataset)
    13

The options of Beam transforms are those of the command:

    >>> openwit.SourceOptions(url_col="link", caption_col="alt").source_format
    'auto'
    >>> openwit.TextRules(file_names=True).min_chars
    2
    >>> openwit.FetchOptions(contact="you@example.org", host_delay=2.0).host_delay
    2.0
    >>> openwit.ImageOptions(image_size=384, resize_mode="longer").quality
    90

The names in `__all__` are the public API: they change as docs/python.md says, with a warning first. The
packages `pipeline`, `queries`, `dedup`, `train` and the module `beam_job`, which the wheel installs too, are
private.

Importing openwit imports nothing else: torch, Beam and the rest come when a name needs them, and a name whose
package is missing says which extra to install.
"""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pyarrow as pa
    from PIL.Image import Image

    from dedup.findings import Findings
    from pipeline.captions.match import Matcher
    from pipeline.checked_manifest import Manifest
    from pipeline.finished_set import FinishedSet
    from pipeline.options import FetchOptions, ImageOptions, SourceOptions, TextRules
    from pipeline.transforms import (
        Candidate,
        FetchImages,
        KeepSmallest,
        MatchQueries,
        ReadCandidates,
        WriteWebDataset,
    )
    from train.encode import Model
    from train.reader import Reader

__all__ = [
    "Candidate", "Dataset", "FetchImages", "FetchOptions", "ImageOptions", "KeepSmallest", "MatchQueries",
    "Matcher", "Model", "ReadCandidates", "Reader", "Sample", "SourceOptions", "TextRules",
    "WriteWebDataset", "balance", "crawl", "load_model", "open", "overlap", "uid",
]  # fmt: skip

_ELSEWHERE: Final = {
    "Candidate": ("pipeline.transforms", "crawl"),
    "FetchImages": ("pipeline.transforms", "crawl"),
    "FetchOptions": ("pipeline.options", ""),
    "ImageOptions": ("pipeline.options", ""),
    "KeepSmallest": ("pipeline.transforms", "crawl"),
    "MatchQueries": ("pipeline.transforms", "crawl"),
    "Matcher": ("pipeline.captions.match", ""),
    "Model": ("train.encode", "train"),
    "ReadCandidates": ("pipeline.transforms", "crawl"),
    "Reader": ("train.reader", "train"),
    "SourceOptions": ("pipeline.options", ""),
    "TextRules": ("pipeline.options", ""),
    "WriteWebDataset": ("pipeline.transforms", "crawl"),
}
"""Name: the module that defines it, and the extras that this needs."""


def __getattr__(name: str) -> Any:
    """Import the object behind a name when the name is first used."""
    if name == "__version__":
        from importlib import metadata

        found: Any = metadata.version("openwit")
    elif name in _ELSEWHERE:
        module, extras = _ELSEWHERE[name]
        _require(name, extras)
        found = getattr(importlib.import_module(module), name)
    else:
        raise AttributeError(f"module 'openwit' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, "__version__"})


def _require(name: str, extras: str) -> None:
    """Raise ImportError with the line that installs the package a name needs."""
    if extras:
        from pipeline import extras as installed

        if package := installed.missing(extras):
            raise ImportError(installed.sentence(f"openwit.{name}", package, extras).strip(), name=package)


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Hold one image with its captions.

    >>> sample = next(openwit.open("run").samples())
    >>> sample.caption, sample.row["lang"], sample.picture().size
    ('a dog number 0', 'en', (128, 96))
    """

    key: str
    """Name inside the shards: shard number, then place."""
    image: bytes
    """The file as stored, JPEG in shards of openwit; empty where a WebDataset has none."""
    caption: str
    """The first caption, "" where there is none."""
    captions: tuple[str, ...]
    row: Mapping[str, Any]
    """The sample's row, such as uid, url, width, query_ids; for other WebDatasets KEY.json's contents."""

    def picture(self) -> "Image":
        """Return the image as a Pillow image in RGB; ValueError for anything that cannot be decoded.

        Files are untrusted: any file that is no plain JPEG is decoded in a child process, within limits of
        time and memory.

        >>> next(openwit.open("run").samples()).picture().resize((32, 24)).mode
        'RGB'
        """
        _require("Sample.picture", "crawl")
        from PIL import Image

        from pipeline.images.pixels import decode

        return Image.fromarray(decode(self.image))


class Dataset:
    """A finished run, or any WebDataset, as `openwit.open` finds it.

    >>> dataset = openwit.open("run")
    >>> dataset.manifest.counts.samples, dataset.manifest.counts.rejected
    (13, 26)
    >>> dataset.table(["key", "caption"]).slice(12).to_pylist()
    [{'key': '000010002', 'caption': 'a dog number 12'}]
    >>> [sample.key for sample in dataset.query("Dog number 7")]
    ['000000007']
    >>> dataset.rejected().column("reason").unique().to_pylist()
    ['language', 'robots_disallow']
    >>> dataset.queries().to_pylist()[0]["query"]
    'dog'
    """

    def __init__(self, name: str, shards: Sequence[str], run: "tuple[Manifest, FinishedSet] | None") -> None:
        """Take the state of `open`."""
        self._name, self._shards, self._run = name, tuple(shards), run

    def __repr__(self) -> str:
        return f"openwit.open({self._name!r})"

    def __len__(self) -> int:
        """Return the number of samples; of a WebDataset its archives are read for it."""
        if self._run is not None:
            return self._run[0].counts.samples
        return sum(1 for _ in self.samples())

    @property
    def shards(self) -> tuple[str, ...]:
        """The paths of the .tar files.

        >>> openwit.open("run").shards
        ('run/shards/00000.tar', 'run/shards/00001.tar')
        """
        return self._shards

    @property
    def manifest(self) -> "Manifest":
        """The contents of manifest.json, field by field; ValueError for a WebDataset that has no manifest.

        >>> openwit.open("run").manifest.counts.rejected_by_stage["candidates"]
        {'language': 13}
        """
        return self._of_run("manifest")[0]

    def samples(self) -> Iterator[Sample]:
        """Yield the samples in order, without those that were taken down or dropped.

        >>> [sample.key for sample in openwit.open("run").samples()][:2]
        ['000000000', '000000001']
        """
        from pipeline import dataset

        for key, image, captions, row in dataset.samples(self._shards, self._run and self._run[1]):
            caption = captions[0] if captions else ""
            yield Sample(key=key, image=image, caption=caption, captions=captions, row=row)

    def table(self, columns: Sequence[str] | None = None) -> "pa.Table":
        """Return the rows of all samples as an Arrow table, by default with every column.

        The table is in memory: name the columns you need. `.to_pandas()` makes a data frame of it. ValueError
        for a column that is missing.

        >>> openwit.open("run").table(["caption", "width"]).slice(0, 1).to_pylist()
        [{'caption': 'a dog number 0', 'width': 128}]
        """
        from pipeline import dataset

        return dataset.table(self._shards, self._run and self._run[1], columns)

    def query(self, text: str) -> Iterator[Sample]:
        """Yield the samples whose caption contains this phrase, as a query matches.

        text: any words; they need not be in the run's query list. Case does not count.

        >>> [sample.caption for sample in openwit.open("run").query("NUMBER 3")]
        ['a dog number 3']
        """
        from pipeline.captions.match import Matcher

        matcher = Matcher([text])
        if matcher.dead:
            raise ValueError(f"{text!r} holds no word that a caption could have")
        return (one for one in self.samples() if any(map(matcher.match, one.captions)))

    def queries(self) -> "pa.Table":
        """Return query_counts.parquet: matched and kept samples per query. ValueError for a WebDataset.

        >>> openwit.open("run").queries().select(["query", "matched", "kept"]).to_pylist()[0]
        {'query': 'dog', 'matched': 13, 'kept': 13}
        """
        self._of_run("query list")
        from pipeline import run_folder, schemas

        return schemas.read_table(run_folder.Layout(self._name).query_counts)

    def rejected(self, reason: str = "") -> "pa.Table":
        """Return the rejected rows (uid, url, stage, reason, detail, ...), or those of one reason.

        ValueError for a WebDataset, which has none, and for a word that is no reason (docs/reasons.md).

        >>> openwit.open("run").rejected("language").select(["stage", "reason"]).to_pylist()[0]
        {'stage': 'candidates', 'reason': 'language'}
        """
        from pipeline import dataset

        return dataset.rejected(self._name, self._of_run("rejected rows")[0], reason)

    def _of_run(self, wanted: str) -> "tuple[Manifest, FinishedSet]":
        if self._run is None:
            raise ValueError(f"{self._name} is a WebDataset, not a run of openwit: it has no {wanted}")
        return self._run


def open(path: str) -> Dataset:
    """Open a finished run, or the .tar files of a folder or pattern; ValueError where neither is.

    path: local, or s3://, gs://, hf:// where fsspec's package for it is installed.

    >>> openwit.open("run/shards/*.tar")
    openwit.open('run/shards/*.tar')
    """
    from pipeline import dataset

    return Dataset(*dataset.find(path))


def uid(url: str) -> str:
    """Return a sample's name everywhere: 32 hex digits of its canonical URL; ValueError for no URL.

    >>> openwit.uid("http://EXAMPLE.com:80/a.jpg#top") == openwit.uid("http://example.com/a.jpg")
    True
    """
    from pipeline import urls

    return urls.uid(urls.canonical(url))


def balance(
    uids: Sequence[str], matches: Sequence[Sequence[int]], queries: Sequence[str], *,
    per_query: int = 20_000, seed: int = 0,
) -> list[list[int]]:  # fmt: skip
    """Return for each sample the queries that keep it; a sample that no query keeps is not in the set.

    A query keeps its `per_query` samples of smallest h(seed, uid, query): the exact cap of `openwit crawl`,
    and the same samples for the same seed. uids: as of `openwit.uid`; matches: for each sample the numbers of
    its queries, as `Matcher.match` gives them.

    >>> uids = [openwit.uid(f"http://example.com/{n}.jpg") for n in range(3)]
    >>> openwit.balance(uids, [[0], [0, 1], [0]], ["dog", "cat"], per_query=1)
    [[], [1], [0]]
    """
    from pipeline import balance as exact
    from pipeline import querylist

    hashes = exact.query_hashes(querylist.normalised(list(queries), "openwit"), seed)
    return exact.keepers(uids, matches, hashes, per_query)


def crawl(out: str, *, queries: str, source: str | Sequence[str], **options: Any) -> Dataset:
    """Run `openwit crawl`, or continue it, and open the finished run.

    queries, source, options: those of the command, with _ for -: `openwit crawl --help-all` explains them.
    Progress goes to stderr. ValueError for options that cannot be done. In a script call it below
    `if __name__ == "__main__":`, since it starts processes.

    >>> made = openwit.crawl("own", queries="queries.txt", source="urls.csv", allow_network=["127.0.0.0/8"])
    >>> made.table(["caption"]).to_pylist()
    [{'caption': 'a red house at the lake'}]
    """
    _require("crawl", "crawl")
    from pipeline import cli

    cli.crawl_from_python({"out": out, "queries": queries, "source": source, **options})
    return open(out)


def overlap(run: str, sets: Mapping[str, str], *, out: str, **options: Any) -> "Findings":
    """Compare a training set with evaluation sets as `openwit overlap` does; return report.json's contents.

    run: a run, or a glob of any WebDataset; sets: path by name. Of each set `datasets` has examples, overlap,
    contamination and more. Files go to `out`; the options are those of the command, with _ for -.

    >>> found = openwit.overlap("run", {"copies": "copies"}, out="overlap", workers=1, planted=0)
    >>> [(dataset.name, dataset.examples, dataset.overlap) for dataset in found.datasets]
    [('copies', 3, 2)]
    """
    _require("overlap", "overlap")
    from dedup import cli

    return cli.overlap_from_python(
        {"run": run, "eval": [f"{name}={path}" for name, path in sets.items()], "out": out, **options}
    )


def load_model(path: str, *, device: str = "auto", vocab: str = "") -> "Model":
    """Load CLIP: a training run, a checkpoint in it, or weights of OpenAI, open_clip or Hugging Face.

    device: auto, cpu or cuda. vocab: the vocabulary of imported weights, where it is not beside them. Nothing
    is unpickled. ValueError for anything that is no such model.

    >>> model = openwit.load_model("model", device="cpu")
    >>> model.encode_text(["a red house", "a dog"]).shape
    (2, 64)
    """
    _require("load_model", "train")
    from train.encode import load

    return load(path, device, vocab)
