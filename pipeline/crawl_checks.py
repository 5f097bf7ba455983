"""Checks of `openwit crawl` before anything is read or written: each error says what to do next."""

import importlib
from typing import Any

from pipeline import checked_manifest, extend, outcome, restart, run_folder, storage
from pipeline import config as parser
from pipeline.http.user_agent import NO_CONTACT
from pipeline.options import CrawlConfig, ImageOptions, presets
from pipeline.publishing import StageOptions
from pipeline.run_folder import Layout
from pipeline.score.keep_if import KeepIf


def check_paths(options: CrawlConfig) -> None:
    """Raise ValueError for a query list that is missing, or a folder that cannot be made."""
    if options.queries != presets.ALL and not storage.exists(options.queries):
        raise ValueError(
            f"--queries {options.queries}: there is no such file; `all` takes every row without a list"
        )
    if (
        options.queries != presets.ALL
        and storage.is_local(options.queries)
        and storage.is_folder(options.queries)
    ):
        raise ValueError(f"--queries {options.queries} is a folder, where a file is needed")
    if storage.is_local(options.out):
        folder = storage.local_path(options.out).absolute()
        for path in (folder, *folder.parents):
            if path.exists() and not path.is_dir():
                raise ValueError(f"--out {options.out}: {path} is a file, not a folder")


def what_changed(
    layout: Layout,
    options: CrawlConfig,
    inputs: list[storage.FileInfo],
    fingerprints: dict[str, str],
    semantics: StageOptions,
) -> tuple[list[restart.Change], restart.Loss | None]:
    """Return the options that differ from the run's, and the loss if it begins again (None if there is none).

    ValueError for changes that --restart cannot make either: other sources, or a run that has been extended.
    """
    if sources := run_folder.changed_inputs(layout, inputs):
        raise ValueError(extend.advice(layout, sources))
    stage = run_folder.first_changed_stage(layout, fingerprints)
    changed = restart.changes(run_folder.begun_options(layout), semantics) if stage else []
    extend.refuse_change(layout, retry=options.retry_failed, changed="; ".join(map(str, changed)))
    if stage == "finish" and run_folder.read_json(layout.stage("fetch", "removed.stage")):
        raise ValueError(
            f"{'; '.join(map(str, changed))} would need the fetched images, which were deleted when the "
            "shards were verified; choose another --out, and --keep-staging to be able to change it"
        )
    if stage:
        return changed, restart.loss(layout, stage)
    if options.restart and run_folder.is_done(layout, "finish"):
        counts = checked_manifest.of(layout.root).counts
        found = outcome.worst(counts)
        if not counts.samples and found is not None:
            empty = "candidates" if found[0].stage == "candidates" else "fetch"
            return [], restart.loss(layout, empty)
    return [], None


def missing_contact(options: CrawlConfig, pieces: list[Any], layout: Layout) -> str:
    """Return the advice about a contact that this command will need and does not have, or ""."""
    from pipeline import preview

    stages = {"all": run_folder.STAGES}.get(options.stage, (options.stage,))
    pages = any(piece.format == "pages" for piece in pieces)
    fetching = {"fetch", "candidates"} if pages else {"fetch"}
    part = extend.under_way(layout.root) or layout if not options.extend else None
    left = [
        s for s in fetching & {*stages} if part is None or not run_folder.is_done(part, s) or options.restart
    ]
    if options.fetch.contact or not (left or options.retry_failed):
        return ""
    return NO_CONTACT if preview.needs_contact(pieces, options) else ""


def check_keys(options: CrawlConfig) -> None:
    """Raise ValueError for keys that cannot be used, or one for both purposes (Web Bot Auth forbids that)."""
    from pipeline import keys
    from pipeline.http import signing

    if options.images.iscc:
        importlib.import_module("iscc_lib")  # of an extra, named by the code that catches the error
    signers = [keys.load(path) for path in (options.fetch.sign_with, options.sign_manifest) if path]
    if options.fetch.sign_with:
        signing.Signer(signers[0])
    if len({key.thumbprint for key in signers}) < len(signers):
        raise ValueError(
            "--sign-with and --sign-manifest need keys of their own: `openwit identity` makes one"
        )


def check_scoring(options: CrawlConfig) -> None:
    """Raise ValueError for a scorer that cannot be loaded, or a condition on a column it does not write."""
    if not options.scorer:
        return
    from pipeline.images import scoring

    scorer = scoring.load(*options.scorer)
    if options.keep_if:
        condition = KeepIf.parse(options.keep_if)
        condition.require(scorer.columns)
        condition.refuse_shares()


def too_small_for(model: str, images: ImageOptions) -> str:
    """Return the fault of the stored size for a model, or ""; ValueError for an unknown model."""
    if not model:
        return ""
    from pipeline.data.architectures import ARCHITECTURES

    if model not in ARCHITECTURES:
        raise ValueError(f"unknown model {model}{parser.nearest(model, list(ARCHITECTURES))}")
    side = ARCHITECTURES[model].image_size
    if images.resize_mode == "longer" or (images.resize_mode != "keep" and images.image_size < side):
        return f"{model} is trained at {side} pixels; store the shorter side at --image-size {side} or more"
    return ""
