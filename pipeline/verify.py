"""`openwit verify`: does a run hold what its manifest says?"""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from pipeline import config as parser
from pipeline import manifest, records, storage
from pipeline.run import Layout, read_json
from pipeline.tombstones import pending


@dataclass(frozen=True, kw_only=True)
class VerifyConfig:
    """Check a finished run: sha256 of every shard, counts, tar against Parquet, and the accounting."""

    run: str
    """Folder of the run."""


def main(argv: Sequence[str], prog: str = "openwit verify") -> int:
    """Verify a run; return 0 if nothing is wrong, 1 otherwise."""
    options, _ = parser.parse(VerifyConfig, argv, prog=prog)
    console = Console(stderr=True)
    layout = Layout(options.run.rstrip("/"))
    if not storage.exists(layout.manifest):
        parser.usage_error(prog, f"{layout.manifest} does not exist: is the run finished?")
    unfinished = pending(layout.root)
    problems = [unfinished] if unfinished else [*manifest.verify_shards(layout), *accounting(layout)]
    for problem in problems:
        console.print(f"[red]wrong[/] {problem}", highlight=False, soft_wrap=True)
    if not problems:
        found = read_json(layout.manifest)
        console.print(
            f"{layout.root}: {len(found['shards'])} shards, {found['counts']['samples']:,} samples; "
            "every hash and count is as in the manifest"
        )
    return 1 if problems else 0


def accounting(layout: Layout) -> list[str]:
    """Return what does not add up between the rows in the files and the manifest's counts."""
    found = read_json(layout.manifest)
    counts, problems = found["counts"], []
    captions = sum(
        len(row)
        for shard in found["shards"]
        for row in records.read_table(
            storage.join(layout.shards, shard["name"].replace(".tar", ".parquet")), ["captions"]
        )["captions"].to_pylist()
    )
    if captions != counts["captions"]:
        problems.append(f"the shards hold {captions} captions, the manifest says {counts['captions']}")
    if counts["candidates"] != counts["captions"] + counts["rejected"]:
        problems.append("candidates are not captions and rejected rows together")
    if not found["rejected_sampled"]:
        files = storage.list_files(layout.rejected, ".parquet")
        rows = sum(sum(records.read_table(path, ["candidates"])["candidates"].to_pylist()) for path in files)
        if rows != counts["rejected"]:
            problems.append(f"rejected/ holds {rows} candidates, the manifest says {counts['rejected']}")
    return problems
