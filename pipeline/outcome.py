"""Advice on a run's counts: nothing arrived, or one reason took most of a stage."""

from collections.abc import Iterable

from pipeline.checked_manifest import Counts
from pipeline.formats import count
from pipeline.reasons import USUAL, USUAL_OF_PAGES, remedy
from pipeline.report.funnel import Cause, FunnelStep, funnel

_MOST = 0.5  # of the rows that enter a stage


def warnings(counts: Counts, formats: Iterable[str]) -> list[str]:
    """Return a sentence for each reason that took most of a stage and should not; formats: of the sources."""
    usual = USUAL_OF_PAGES if {*formats} & {"wat", "warc", "html", "pages"} else USUAL
    return [
        f"{cause.of_stage:.0%} of the rows that entered {step.stage} are {cause.reason} "
        f"({cause.captions:,} of {step.entered:,}): {remedy(cause.reason)}"
        for step in funnel(counts)
        for cause in step.causes
        if cause.of_stage > _MOST and cause.reason not in usual
    ]


def nothing(counts: Counts) -> str:
    """Return why a finished run has no sample and how to mend it, or "" if it has samples."""
    if counts.samples:
        return ""
    found = worst(counts)
    if found is None:
        return "nothing arrived: the sources hold no candidate"
    step, cause = found
    then = "" if cause.transient else f". Add --restart to run the same command again from {step.stage}"
    return (
        f"nothing arrived: {cause.captions:,} of {count(counts.candidates, 'candidate')} "
        f"{'is' if counts.candidates == 1 else 'are'} {cause.reason}: {remedy(cause.reason)}{then}"
    )


def worst(counts: Counts) -> tuple[FunnelStep, Cause] | None:
    """Return the reason that took most of all candidates, with its stage; None if nothing was rejected."""
    causes = [(step, cause) for step in funnel(counts) for cause in step.causes if cause.captions]
    return max(causes, key=lambda item: item[1].captions, default=None)
