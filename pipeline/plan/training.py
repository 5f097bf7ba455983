"""How long training takes: arithmetic, the device's peak, and the share of it that is reached."""

from typing import Any, NamedTuple

import numpy as np

from pipeline.config import nearest
from pipeline.data.architectures import ARCHITECTURES, RECIPES
from train.flops import image_flops, text_flops

CAPTION_TOKENS = 77.0
"""Of the context, padding included, as in the paper's text tower; ours packs, and computes fewer."""
PASSES = 3.0
"""A training step costs three forward passes (arXiv:2204.02311, appendix B)."""


class Training(NamedTuple):
    """Hold the resources of training a model."""

    samples_seen: float
    flops: float
    mfu: float
    gpu_days: float


def check(model: str, gpu: str, rates: dict[str, Any]) -> None:
    """Raise ValueError for an unknown model or device."""
    if model not in ARCHITECTURES:
        raise ValueError(f"unknown model {model}{nearest(model, list(ARCHITECTURES))}")
    if gpu not in rates:
        raise ValueError(
            f"no rates for the device {gpu}{nearest(gpu, list(rates))}; known: {', '.join(rates)}"
        )


def training(model: str, pairs: float, epochs: int, gpu: str, mfu: float, rates: dict[str, Any]) -> Training:
    """Return the resources of `epochs` passes over `pairs` samples; ValueError for an unknown model or
    device."""
    check(model, gpu, rates)
    architecture = ARCHITECTURES[model]
    device = rates[gpu]
    mfu = mfu or device["mfu"]
    seen = pairs * (epochs or RECIPES[model].epochs)
    forward = image_flops(architecture) + text_flops(architecture, CAPTION_TOKENS, CAPTION_TOKENS**2, 1)
    flops = PASSES * forward * seen
    return Training(seen, flops, mfu, flops / (device["peak_tflops"] * 1e12 * mfu) / 86_400)


def implied_mfu(model: str, pairs: float, gpus: int, days: float, gpu: str, rates: dict[str, Any]) -> float:
    """Return the share of the peak at which `gpus` devices train a model by its recipe in `days`."""
    full = training(model, pairs, 0, gpu, 1.0, rates)
    return float(np.divide(full.gpu_days, gpus * days))
