"""Where a picture was taken (appendix E.4, table 17): the place of the most similar reference picture.

A label is a place, "LATITUDE,LONGITUDE" in degrees. IM2GPS counts guesses within 1, 25, 200, 750, 2,500 km.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from train.evaluation import bootstrap
from train.evaluation.encoded_model import EncodedModel
from train.evaluation.results import Result

Floats = npt.NDArray[np.float64]

RADII: Final = (1, 25, 200, 750, 2500)  # km: a street, a city, a region, a country, a continent
_EARTH: Final = 6_371.0  # km
_CHUNK: Final = 256


def place(label: str) -> tuple[float, float] | None:
    """Return latitude and longitude in degrees, None for a label that is no place."""
    parts = label.split(",")
    try:
        latitude, longitude = (float(part) for part in parts)
    except ValueError:
        return None
    return (latitude, longitude) if abs(latitude) <= 90 and abs(longitude) <= 180 else None


def are_places(labels: Sequence[str]) -> bool:
    """Return whether all labels are places."""
    return bool(labels) and all(place(label) for label in labels)


def distances(a: Floats, b: Floats) -> Floats:
    """Return km on a sphere, float64 [n], between places [n, 2] in degrees (haversine)."""
    first, second = np.radians(a), np.radians(b)
    half = (second - first) / 2
    chord = np.sin(half[:, 0]) ** 2 + np.cos(first[:, 0]) * np.cos(second[:, 0]) * np.sin(half[:, 1]) ** 2
    return np.asarray(2 * _EARTH * np.arcsin(np.sqrt(np.clip(chord, 0, 1))))


def nearest(queries: npt.NDArray[np.float32], references: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """Return the most similar reference [m, E] of each query [n, E], all unit vectors: int64 [n]."""
    parts = [(queries[start : start + _CHUNK] @ references.T).argmax(axis=1)
             for start in range(0, len(queries), _CHUNK)]  # fmt: skip
    return np.concatenate(parts)


def run(encoded: EncodedModel) -> list[Result]:
    """Return the shares within each radius for every set with reference pictures (--train); ValueError."""
    names = [one.name for one in encoded.config.sets if encoded.config.split("train", one.name)]
    names = [name for name in names if are_places(encoded.features(name).labels)]
    if not names:
        raise ValueError(
            'geolocation needs a set whose labels are places, such as "48.858,2.294", and --train NAME=PATH, '
            "reference pictures with places"
        )
    return [_one(encoded, name) for name in names]


def _one(encoded: EncodedModel, name: str) -> Result:
    found, references = encoded.features(name), encoded.features(name, "train")
    if not are_places(references.labels):
        raise ValueError(f"--train {name}: every label must be a place, LATITUDE,LONGITUDE")
    rows = nearest(found.embeddings, references.embeddings)
    here, there = (np.array([place(label) for label in one.labels]) for one in (found, references))
    away = distances(here, there[rows])
    metrics, spans = {}, {}
    for radius in RADII:
        right = int((away <= radius).sum())
        metrics[f"within_{radius}_km"] = right / len(away)
        spans[f"within_{radius}_km"] = bootstrap.exact(right, len(away), encoded.config.confidence)
    metrics |= {"median_km": float(np.median(away)), "examples": len(away), "references": len(references)}
    return Result(
        dataset=name, model=encoded.name, task="geolocation", metrics=metrics, intervals=spans,
        main="within_25_km",
    )  # fmt: skip
