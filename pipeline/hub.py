"""`openwit push` and `openwit pull`: a finished run to the Hugging Face Hub and back.

A push makes one commit per that many files, with the manifest in the last commit: anyone who reads the
repository while it is filled finds no manifest, or that of the previous set. Files that the repository
already has are not sent again, so the same command continues after a stop. A pull continues likewise, and
ends with the checks of `openwit verify`.
"""

import itertools
import posixpath
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from pipeline import checked_manifest, dropped_samples, extend, run_folder, storage, tombstones
from pipeline import config as parser
from pipeline.cli_runtime import guarded
from pipeline.formats import count, size
from pipeline.options.finished import PullConfig, PushConfig
from pipeline.run_folder import Layout
from pipeline.score import files as score_files
from pipeline.terminal import output, show_places, terminal
from pipeline.verify import problems_of

if TYPE_CHECKING:
    from huggingface_hub import HfApi

PREFIX: Final = "hf://datasets/"
_REPOSITORY: Final = re.compile(r"[\w][\w.-]{0,95}/[\w][\w.-]{0,95}", re.ASCII)
_PER_COMMIT: Final = 100
"""Files of a commit: three shards in four, a minute or a few of sending."""
_FOLDERS: Final = (*run_folder.PUBLISHED_FOLDERS, score_files.FOLDER)
_FILES: Final = (dropped_samples.FILE, *run_folder.PUBLISHED_FILES)
_LAST: Final = ("README.md", "croissant.json", "manifest.json")


def repository(address: str) -> str:
    """Return OWNER/NAME of hf://datasets/OWNER/NAME; ValueError for anything else."""
    name = address.removeprefix(PREFIX).rstrip("/")
    if not address.startswith(PREFIX) or not _REPOSITORY.fullmatch(name):
        raise ValueError(f"{address}: give the repository as {PREFIX}OWNER/NAME")
    return name


def push_main(argv: Sequence[str], prog: str = "openwit push") -> int:
    """Run `openwit push`; return the exit code."""
    options, _ = parser.parse(PushConfig, parser.first_as("--run", argv), prog=prog)
    return guarded(prog, terminal(), "", lambda: push(options))


def push(options: PushConfig) -> int:
    """Send the published files of a run; ValueError for a run that is not finished."""
    layout, name = Layout(options.run.rstrip("/")), repository(options.to)
    if not storage.is_local(layout.root):
        raise ValueError(f"--run {layout.root}: push sends a run that lies on this machine")
    stored = checked_manifest.of(layout.root)
    if message := tombstones.pending(layout.root) or extend.interrupted(layout.root):
        raise ValueError(message)
    names = list(published(layout))
    total = sum(storage.file_info(storage.join(layout.root, one)).size for one in names)
    if options.check:
        output().print(
            f"{layout.root} to {options.to}: {count(len(names), 'file')}, {size(total)}. Nothing was sent."
        )
        output().print(parser.to_toml(parser.effective(options)), soft_wrap=True, highlight=False)
        return 0
    api = _api()
    api.create_repo(name, repo_type="dataset", private=options.private or None, exist_ok=True)
    message = f"openwit: {count(stored.counts.samples, 'sample')}"
    data = [one for one in names if one not in _LAST]
    for start in range(0, len(data), _PER_COMMIT):
        _commit(api, name, layout.root, data[start : start + _PER_COMMIT], [], f"{message}, data")
    there = [one for one in api.list_repo_files(name, repo_type="dataset") if is_published(one)]
    gone = sorted(set(there) - set(names))
    _commit(api, name, layout.root, [one for one in _LAST if one in names], gone, message)
    if options.forget_history:
        api.super_squash_history(name, repo_type="dataset")
    table = Table("", "")
    for label, value in (("samples", f"{stored.counts.samples:,}"), ("files", f"{len(names):,}"),
                         ("bytes", size(total)), ("removed there", f"{len(gone):,}")):  # fmt: skip
        table.add_row(label, value)
    output().print(table)
    show_places(output(), [("dataset", options.to), ("read it", f'openwit.open("{options.to}")')])
    return 0


def _commit(api: "HfApi", name: str, root: str, add: list[str], remove: list[str], message: str) -> None:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    operations: list[Any] = [
        CommitOperationAdd(path_in_repo=one, path_or_fileobj=storage.local_path(storage.join(root, one)))
        for one in add
    ]
    operations += [CommitOperationDelete(path_in_repo=one) for one in remove]
    api.create_commit(name, operations, commit_message=message, repo_type="dataset")


def published(layout: Layout) -> Iterator[str]:
    """Yield the paths, relative to the run, of the files that are its finished set."""
    stored = checked_manifest.of(layout.root)
    shards = {storage.stem(shard.name) for shard in stored.shards}
    for folder in _FOLDERS:
        for name in storage.find_files(storage.join(layout.root, folder)):
            stem = posixpath.basename(name).partition(".")[0].removesuffix("_stats")
            if folder != "shards" or stem in shards or name == "sizes.json":
                yield posixpath.join(folder, name)
    for name in _FILES:
        if storage.exists(storage.join(layout.root, name)):
            yield name


def is_published(name: str) -> bool:
    """Return whether a file of a repository is one of those that a push writes."""
    return name in _FILES or name.partition("/")[0] in _FOLDERS


def pull_main(argv: Sequence[str], prog: str = "openwit pull") -> int:
    """Run `openwit pull`; return the exit code."""
    options, _ = parser.parse(PullConfig, parser.first_as("--source", argv), prog=prog)
    return guarded(prog, terminal(), "", lambda: pull(options))


def pull(options: PullConfig) -> int:
    """Fetch a run and check it; 1 if its files are not as its manifest says."""
    name, layout = repository(options.source), Layout(options.out.rstrip("/"))
    if not storage.is_local(layout.root):
        raise ValueError(f"--out {layout.root}: pull writes to this machine")
    api = _api()
    if options.check:
        there = [one for one in api.list_repo_files(name, repo_type="dataset") if is_published(one)]
        output().print(
            f"{options.source} to {layout.root}: {count(len(there), 'file')}. Nothing was fetched."
        )
        output().print(parser.to_toml(parser.effective(options)), soft_wrap=True, highlight=False)
        return 0
    if storage.exists(layout.work):
        raise ValueError(f"{layout.root} is a run that was made here; choose another --out")
    folders = [f"{folder}/*" for folder in _FOLDERS]
    api.snapshot_download(
        name, repo_type="dataset", revision=options.revision or None, local_dir=layout.root,
        allow_patterns=[*folders, *_FILES],
    )  # fmt: skip
    if not storage.exists(layout.manifest):
        raise ValueError(f"{options.source} holds no run of openwit: it has no manifest.json")
    problems = problems_of(layout)
    for problem in itertools.islice(problems, 10):
        output().print(f"wrong: {problem}", soft_wrap=True)
    if not problems:
        stored = checked_manifest.of(layout.root)
        output().print(
            f"{layout.root}: {count(len(stored.shards), 'shard')}, {count(stored.counts.samples, 'sample')}; "
            "every hash and count is as in the manifest",
            soft_wrap=True,
        )
    return 1 if problems else 0


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi(library_name="openwit")
