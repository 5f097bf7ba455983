"""RareAct (Miech et al. 2020; appendix E.3, table 15): mWAP and mSAP, there called mWSAP, as published.

A row of rareact.csv is a clip and an action, a verb and a noun, with a person's label: 1 is positive, 2 to 4
hard negatives, 0 negative. A positive clip is a hard negative of every action that shares its verb or its
noun, and a negative of all others. Clips of the same video count together: mWAP weights them, mSAP draws one
of them.
"""

import csv
import io
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline import storage
from train.evaluation.metrics import Scores

DRAWS: Final = 100  # of mSAP


class Clip(NamedTuple):
    """A row of rareact.csv; fields only."""

    id: str
    video: str
    action: int
    verb: str
    noun: str
    annotation: int


def read(path: str) -> list[Clip]:
    """Return the rows of rareact.csv; ValueError."""
    reader = csv.DictReader(io.StringIO(storage.read_bytes(path).decode("utf-8-sig")))
    needed = ("id", "video_id", "class_id", "verb", "noun", "annotation")
    if missing := [name for name in needed if name not in (reader.fieldnames or [])]:
        raise ValueError(f"{path} has no column {missing[0]}; rareact.csv has {', '.join(needed)}")
    try:
        clips = [
            Clip(
                row["id"],
                row["video_id"],
                int(row["class_id"]),
                row["verb"],
                row["noun"],
                int(row["annotation"]),
            )
            for row in reader
        ]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    if sorted({one.action for one in clips}) != list(range(len(actions(clips)))):
        raise ValueError(f"{path}: class_id must count its actions from 0")
    return clips


def actions(clips: Sequence[Clip]) -> list[str]:
    """Return the names of the actions, "cut laptop", in the order of class_id."""
    names = {one.action: f"{one.verb} {one.noun}" for one in clips}
    return [names[number] for number in sorted(names)]


class Parts(NamedTuple):
    """Rows of clips, of one action; fields only."""

    positive: list[int]
    easy: list[int]
    hard: list[int]


def parts(clips: Sequence[Clip]) -> dict[int, Parts]:
    """Return for each action with a positive clip the rows of its positives and its negatives."""
    words = {one.action: (one.verb, one.noun) for one in clips}
    found = {action: Parts([], [], []) for action in words}
    for row, one in enumerate(clips):
        if one.annotation != 1:
            own = found[one.action]
            (own.hard if one.annotation else own.easy).append(row)
            continue
        for action, (verb, noun) in words.items():
            other = found[action]
            if action == one.action:
                other.positive.append(row)
            elif verb == one.verb or noun == one.noun:
                other.hard.append(row)
            else:
                other.easy.append(row)
    return {action: own for action, own in found.items() if own.positive}


def average_precision(
    scores: Scores, positive: npt.NDArray[np.bool_], weights: npt.NDArray[np.float64]
) -> float:
    """Return the weighted average precision of [n] scores: precision at each, times the recall it adds."""
    order = np.argsort(-scores, kind="stable")
    ends = np.append(scores[order][1:] != scores[order][:-1], [True])
    hits = np.cumsum((weights * positive)[order])[ends]
    every = np.cumsum(weights[order])[ends]
    return float((np.diff(hits, prepend=0) / hits[-1]) @ (hits / every))


def mwap(clips: Sequence[Clip], scores: Scores) -> float:
    """Return the mean over actions of the average precision; a clip weighs 1 / those of its video.

    scores: [clips, actions].
    """
    found = []
    for action, own in parts(clips).items():
        weights = []
        for rows in own:
            videos = [clips[row].video for row in rows]
            weights += [1 / videos.count(video) for video in videos]
        chosen = np.array([*own.positive, *own.easy, *own.hard])
        right = np.arange(len(chosen)) < len(own.positive)
        found.append(average_precision(scores[chosen, action], right, np.array(weights)))
    return float(np.mean(found))


def msap(clips: Sequence[Clip], scores: Scores, seed: int, draws: int = DRAWS) -> float:
    """Return the mean over actions and draws of the average precision, one clip drawn of each video.

    scores: [clips, actions].
    """
    random = np.random.default_rng(seed)
    found = []
    for action, own in parts(clips).items():
        by_video: list[list[list[int]]] = []
        for rows in own:
            grouped: dict[str, list[int]] = {}
            for row in rows:
                grouped.setdefault(clips[row].video, []).append(row)
            by_video.append(list(grouped.values()))
        right = np.arange(sum(map(len, by_video))) < len(by_video[0])
        for _ in range(draws):
            drawn = np.array([random.choice(rows) for part in by_video for rows in part])
            found.append(average_precision(scores[drawn, action], right, np.ones(len(drawn))))
    return float(np.mean(found))
