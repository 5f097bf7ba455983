"""The cost of a changed option: which options changed, which results would go, which flag to type."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, cast

from pipeline import checked_manifest, run_folder
from pipeline.formats import count
from pipeline.options.fetch import opt_outs_typed
from pipeline.progress import MarkerReader
from pipeline.publishing import StageOptions, Value
from pipeline.run_folder import Layout

FILES: Final = frozenset(("queries", "drop", "hash_list", "detector"))  # told by their contents


class Change(NamedTuple):
    """An option as users type it, before and now."""

    option: str
    old: str
    new: str

    def __str__(self) -> str:
        """Return it as a message says it."""
        return f"{self.option} {self.old} -> {self.new}" if self.old or self.new else f"another {self.option}"


class Loss(NamedTuple):
    """The work to do again if a run began again from a stage."""

    stage: str
    samples: int
    """Of the finished set."""
    images: int
    """That were asked for."""
    stages: tuple[str, ...]
    """That are finished, in order."""
    pieces: int
    """Finished pieces of the first stage, where it is not finished."""

    def __bool__(self) -> bool:
        """Return whether there is anything to lose."""
        return bool(self.samples or self.images or self.stages or self.pieces)


def changes(
    before: StageOptions, now: StageOptions, *, without: frozenset[str] = frozenset()
) -> list[Change]:
    """Return the options that differ, of the stages that were begun; `without`: those that do not count."""
    old = dict(_typed({stage: before[stage] for stage in before}, without))
    new = dict(_typed({stage: now[stage] for stage in now if stage in before}, without))
    return [
        Change(option, *_shown(option, old, new))
        for option in sorted(old.keys() | new.keys())
        if old.get(option) != new.get(option) and not (option not in old and _is_off(new[option]))
    ]


def _is_off(value: Value) -> bool:
    """Return whether an option does nothing; an option that is newer than the run and off has not changed."""
    return value is None or value is False or value in ("", ())


def _typed(semantics: StageOptions, without: frozenset[str]) -> Iterator[tuple[str, Value]]:
    """Yield (option as typed, value)."""
    flat: dict[str, Value] = {}
    for options in semantics.values():
        flat |= options  # a later stage's value is the whole one
    for name, value in flat.items():
        if name == "opt_out":
            value = opt_outs_typed(cast(Sequence[str], value))
        if name not in without:
            yield f"--{name.replace('_', '-')}", value


def _shown(option: str, old: Mapping[str, Value], new: Mapping[str, Value]) -> tuple[str, str]:
    if option.removeprefix("--").replace("-", "_") in FILES:
        given = [bool(side.get(option)) for side in (old, new)]
        return ("", "") if all(given) else (_value(given[0]), _value(given[1]))
    return _value(old.get(option)), _value(new.get(option))


def _value(value: Value) -> str:
    """Return a value as it would be typed."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, tuple):
        return " ".join(map(str, value)) or "none"
    if value is None or value == "":
        return "none"
    return f"{value:g}" if isinstance(value, float) else f"{value}"


def loss(layout: Layout, stage: str) -> Loss:
    """Return the loss if a run started again from `stage`."""
    later = run_folder.STAGES[run_folder.STAGES.index(stage) :]
    stages = tuple(name for name in later if run_folder.is_done(layout, name))
    manifest = checked_manifest.read(layout.root)
    pieces = 0
    if stage == run_folder.STAGES[0] and not stages:
        pieces = MarkerReader(layout.stage(stage)).read().done
    images = tried(layout) if stage != "finish" else 0
    return Loss(stage, manifest.counts.samples if manifest else 0, images, stages, pieces)


def tried(layout: Layout) -> int:
    """Return how many images a run has asked for, in all rounds."""
    return sum(MarkerReader(layout.round(number)).read().images for number in layout.rounds())


def describe(changed: list[Change], lost: Loss) -> str:
    """Return one sentence: the changed options and their cost."""
    what = "; ".join(map(str, changed)) or "another version of openwit"
    parts = []
    if lost.samples:
        parts.append(f"replace the {count(lost.samples, 'sample')} of the finished set")
    if lost.images:
        parts.append(f"fetch {count(lost.images, 'image')} again")
    if not parts and lost.stages:
        parts.append(f"do {', '.join(lost.stages)} again")
    if not parts:
        parts.append(f"read {count(lost.pieces, 'piece')} of the sources again")
    return f"{what}: this would start the run again from {lost.stage}, and {' and '.join(parts)}"


def refusal(changed: list[Change], lost: Loss) -> str:
    """Return why a command is refused and what to type instead."""
    stays = "; the finished set stays as it is until the new set is verified" if lost.samples else ""
    return f"{describe(changed, lost)}. Choose another --out, or give --restart to confirm{stays}"
