"""From candidates to samples: the rows that each stage let through, and the reasons for the rest."""

from typing import NamedTuple

from pipeline.checked_manifest import Counts
from pipeline.reasons import REASONS
from pipeline.run_folder import STAGES


class Cause(NamedTuple):
    """A reason and how many candidates, each a caption, it cost; fields only."""

    reason: str
    captions: int
    share: float
    """Of all candidates."""
    of_stage: float
    """Of those that entered the stage."""
    transient: bool
    meaning: str


class FunnelStep(NamedTuple):
    """One stage; fields only."""

    stage: str
    entered: int
    left: int
    causes: list[Cause]


def funnel(counts: Counts) -> list[FunnelStep]:
    """Return the stages in order from the manifest's counts, causes by falling count."""
    entered, steps = counts.candidates, []
    for stage in STAGES:
        found = counts.rejected_by_stage.get(stage, {})
        causes = [
            Cause(
                reason, count, count / max(counts.candidates, 1), count / max(entered, 1),
                *_explained(reason),
            )
            for reason, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))
        ]  # fmt: skip
        left = entered - sum(found.values())
        steps.append(FunnelStep(stage, entered, left, causes))
        entered = left
    return steps


def _explained(reason: str) -> tuple[bool, str]:
    """Return whether a reason is transient and its meaning, also for words of other versions."""
    known = REASONS.get(reason)
    return (known.transient, known.meaning) if known else (False, "a reason of another version of openwit")


def is_opt_out(reason: str) -> bool:
    """Return whether a reason honours a site's wish: robots.txt or one of the opt-out signals."""
    return reason.startswith(("robots_", "opt_out"))
