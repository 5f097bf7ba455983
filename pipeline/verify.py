"""`openwit verify`: does a run hold what its manifest says?"""

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc
from rich.text import Text

from pipeline import (
    attestation,
    checked_manifest,
    dropped_samples,
    extend,
    extras,
    finished_set,
    keys,
    manifest,
    schemas,
    storage,
    tombstones,
)
from pipeline import config as parser
from pipeline.cli_runtime import guarded
from pipeline.formats import count
from pipeline.options.finished import VerifyConfig
from pipeline.report import eu_summary
from pipeline.run_folder import Layout
from pipeline.score import files as score_files
from pipeline.terminal import output, terminal
from pipeline.untrusted import visible


def main(argv: Sequence[str], prog: str = "openwit verify") -> int:
    """Verify a run; return 0 if nothing is wrong, 1 otherwise."""
    options, _ = parser.parse(VerifyConfig, argv, prog=prog)
    console = terminal()
    layout = Layout(options.run.rstrip("/"))
    if not storage.exists(layout.manifest):
        parser.usage_error(prog, f"{layout.manifest} does not exist: is the run finished?")
    if options.against_web and (package := extras.missing("crawl")):
        parser.usage_error(prog, extras.sentence("--against-web", package, "crawl").strip())
    return guarded(prog, console, "", lambda: verify(layout, options))


def verify(layout: Layout, options: VerifyConfig) -> int:
    """Print the faults of a finished run, or its contents; return 1 or 0."""
    console = output()
    unfinished = tombstones.pending(layout.root) or extend.publishing(layout.root)
    problems = [unfinished] if unfinished else problems_of(layout)
    if options.sign_manifest and not problems:
        attestation.sign(layout, keys.load(options.sign_manifest))
    signer, unsigned = signature(layout, options.signed_by)
    problems += unsigned
    for problem in problems:
        console.print(Text.assemble(("wrong", "red"), f" {problem}"), soft_wrap=True)
    if not problems:
        stored = checked_manifest.of(layout.root)
        console.print(
            f"{layout.root}: {count(len(stored.shards), 'shard')}, "
            f"{count(stored.counts.samples, 'sample')}; every hash and count is as in the manifest"
            + (f", which is signed by {signer}" if signer else ""),
            soft_wrap=True,
        )
        if options.against_web:
            show_comparison(layout, options)
    return 1 if problems else 0


def signature(layout: Layout, signed_by: str) -> tuple[str, list[str]]:
    """Return the signer of the manifest ("" if it is not signed), and the problems with the signature."""
    wanted = attestation.trusted(signed_by) if signed_by else set()
    if not wanted and (package := extras.missing("sign")):
        if storage.exists(attestation.path(layout)):
            how = extras.sentence("", package, "sign").strip()
            output().print(f"The signature was not checked: that {how}", soft_wrap=True)
        return "", []
    return attestation.check(layout, wanted)


def show_comparison(layout: Layout, options: VerifyConfig) -> None:
    """Ask for some URLs again and print the outcomes."""
    from pipeline import against_web
    from pipeline.http.user_agent import NO_CONTACT, requires_contact
    from pipeline.report import statements

    stored, console = checked_manifest.of(layout.root), output()
    rows = against_web.choose(finished_set.load(layout, stored), options.against_web, options.seed)
    if not options.contact and requires_contact((row["url"] for row in rows), options.allow_network):
        raise ValueError(NO_CONTACT)
    configured = statements.options_of(stored)
    fetch = replace(
        configured.fetch, contact=options.contact, allow_network=options.allow_network,
        sign_with=options.sign_with,
    )  # fmt: skip
    found = against_web.compare(rows, fetch, configured.images)
    console.print(f"{count(len(rows), 'URL')} asked again:")
    for verdict, number in sorted(found.verdicts.items(), key=lambda item: (-item[1], item[0])):
        console.print(Text(f"  {number:>7,} {number / len(rows):>6.1%}  {verdict}"))
    for uid, url, differing in found.others:
        line = f"another picture ({differing} of 256 bits differ): {uid} {url}"
        console.print(Text(visible(line)), soft_wrap=True)
    for uid, url in found.refused:
        console.print(Text(visible(f"opted out since: {uid} {url}")), soft_wrap=True)


def problems_of(layout: Layout) -> list[str]:
    """Return the faults of a finished run; [] if nothing."""
    strays = [] if extend.under_way(layout.root) else manifest.stray_shards(layout)
    problems = [*strays, *manifest.verify_shards(layout)]
    return problems or [
        *accounting(layout), *balanced(layout), *score_files.problems(layout.root),
        *eu_summary.problems(layout),
    ]  # fmt: skip


def accounting(layout: Layout) -> list[str]:
    """Return the differences between the rows in the files and the manifest's counts."""
    stored = checked_manifest.of(layout.root)
    counts, problems = stored.counts, []
    state = finished_set.load(layout, stored)
    captions = samples = 0
    for shard in state.shards:
        table = state.table(shard, ["key", "captions"])
        stays = state.stays(shard, table)
        if len(stays) - int(stays.sum()) != len(state.dropped.keys(shard)):
            problems.append(f"{dropped_samples.FILE} names samples that are not in {shard}.tar")
        captions += sum(map(len, table["captions"].filter(pa.array(stays)).to_pylist()))
        samples += int(stays.sum())
    if captions != counts.captions:
        problems.append(f"the shards hold {captions} captions, the manifest says {counts.captions}")
    if samples != counts.samples:
        problems.append(f"the set has {samples} samples, the manifest says {counts.samples}")
    if counts.candidates != counts.captions + counts.rejected:
        problems.append("candidates are not captions and rejected rows together")
    if not stored.rejected_sampled:
        files = manifest.rejected_files(layout, stored)
        rows = sum(sum(schemas.read_table(path, ["candidates"])["candidates"].to_pylist()) for path in files)
        if rows != counts.rejected:
            problems.append(f"rejected/ holds {rows} candidates, the manifest says {counts.rejected}")
    return problems


def balanced(layout: Layout) -> list[str]:
    """Return the shards with a sample that no query keeps, or with a dropped sample that a query keeps.

    Dropped samples stay dropped even where a takedown has made room for them.
    """
    stored = checked_manifest.of(layout.root)
    state, problems = finished_set.load(layout, stored), []
    has_room = bool(tombstones.load(layout.root))
    for shard in state.shards:
        table = state.table(shard, ["key", "uid", "query_ids", "matched_query_ids"])
        any_keeps = pc.list_value_length(state.now(table)["query_ids"]).to_numpy() > 0
        stays = state.stays(shard, table)
        wrong = (stays & ~any_keeps) | (~stays & any_keeps & (not has_room))
        if wrong.any():
            problems.append(f"{int(wrong.sum())} samples of {shard}.tar contradict the balance")
    return problems
