"""The retrieval and bias tasks."""

from typing import Any

import numpy as np
import torch

from pipeline.intervals import Interval
from train.evaluation import bias, bootstrap, classes, gallery, prompts, retrieval, texts, zeroshot
from train.evaluation.classes import Classes
from train.evaluation.encoded_model import EncodedModel, labelled
from train.evaluation.metrics import hits, softmax, top
from train.evaluation.results import Result


def run_retrieval(encoded: EncodedModel) -> list[Result]:
    """Return recall at 1, 5 and 10 in both directions for every set with captions; ValueError without any."""
    names = [one.name for one in encoded.config.sets if any(encoded.features(one.name).captions)]
    if not names:
        raise ValueError("retrieval needs captions: .txt or .json in shards, a column caption in Parquet")
    return [_retrieve(encoded, name) for name in names]


@torch.no_grad()
def _retrieve(encoded: EncodedModel, name: str) -> Result:
    found, config, encoder = encoded.features(name), encoded.config, encoded.encoder
    rows = np.array([row for row, captions in enumerate(found.captions) if captions], np.int64)
    captions = [prompts.fill(config.retrieval_template, text) for row in rows for text in found.captions[row]]
    owner = np.repeat(np.arange(len(rows)), [len(found.captions[row]) for row in rows])
    with encoder.autocast():
        embedded = texts.encode_texts(encoder.model, encoder.tokenizer, captions, encoder.device).float()
    images = torch.from_numpy(found.embeddings[rows]).to(encoder.device)
    owners = torch.from_numpy(owner).to(encoder.device)
    image_ranks, text_ranks = retrieval.ranks(images, embedded, owners)
    metrics: dict[str, float] = {}
    spans = {}
    for k in retrieval.AT:
        right = image_ranks < k
        metrics[f"text_retrieval_recall@{k}"] = float(right.mean())
        spans[f"text_retrieval_recall@{k}"] = bootstrap.exact(int(right.sum()), len(right), config.confidence)
        right = text_ranks < k
        metrics[f"image_retrieval_recall@{k}"] = float(right.mean())
        # Captions of one image succeed and fail together: they are drawn together.
        drawn = bootstrap.clustered(right.astype(np.float64), owner, config.seed)
        spans[f"image_retrieval_recall@{k}"] = bootstrap.percentile(drawn, config.confidence)
    metrics |= {"images": len(rows), "captions": len(captions), "without_caption": len(found) - len(rows)}
    cards = gallery.draw_captions(
        encoded.path(name), [found.example_ids[row] for row in rows], captions, images, embedded, owners,
        config.gallery // 3, config.seed,
    )  # fmt: skip
    return Result(
        dataset=name, model=encoded.name, task="retrieval", metrics=metrics, intervals=spans,
        main="image_retrieval_recall@5", gallery=cards,
    )  # fmt: skip


def run_bias(encoded: EncodedModel) -> list[Result]:
    """Return error rates and assignment rates by group, for every set with groups."""
    found = [
        _bias(encoded, one.name) for one in encoded.config.sets if any(encoded.features(one.name).groups)
    ]
    if not found:
        raise ValueError(
            "bias needs a set with groups: a column group in Parquet, or group in a shard's .json"
        )
    return found


def _bias(encoded: EncodedModel, name: str) -> Result:
    found, config = encoded.features(name), encoded.config
    metrics: dict[str, float] = {}
    spans = {}
    detail: dict[str, Any] = {}
    rows = labelled(found)
    rows = rows[[bool(found.groups[row]) for row in rows]] if len(rows) else rows
    if len(rows):
        known = encoded.classes(name)
        truth = classes.truth(found.labels, known.labels, several=encoded.several(name))
        correct = hits(encoded.zero_shot(name), truth, 1)[rows]
        detail["errors"] = bias.error_rates(correct, [found.groups[row] for row in rows], config.confidence)
        metrics |= {"acc1": float(correct.mean())}
        spans["acc1"] = bootstrap.exact(int(correct.sum()), len(correct), config.confidence)
        for one in detail["errors"]:
            metrics[f"error_rate/{one['group']}"] = one["error"]
            spans[f"error_rate/{one['group']}"] = Interval(one["low"], one["high"])
        rates = [one["error"] for one in detail["errors"]]
        metrics["error_rate_gap"] = max(rates) - min(rates)
    if config.bias_classes:
        names, categories = classes.read_categories(config.bias_classes)
        detail |= _assigned(encoded, name, names, categories, "")
        if config.bias_added:
            added, more = classes.read_categories(config.bias_added)
            if both := sorted(set(names) & set(added)):
                raise ValueError(f"{config.bias_added} holds {both[0]!r}, which --bias-classes has already")
            detail |= _assigned(encoded, name, names + added, categories + more, "_with_added")
            detail["added"] = added
    if not detail:
        raise ValueError(f"{name} has neither labels nor --bias-classes: there is nothing to measure")
    return Result(
        dataset=name, model=encoded.name, task="bias", metrics=metrics, intervals=spans, detail=detail
    )


def _assigned(
    encoded: EncodedModel, name: str, names: list[str], categories: list[str], suffix: str
) -> dict[str, Any]:
    """Return the rates of a list of classes: by class, by category, and of labels above each threshold."""
    found, confidence = encoded.features(name), encoded.config.confidence
    rows = np.flatnonzero([bool(group) for group in found.groups])
    known = Classes(names, [classes.display(one) for one in names])
    kind = ".bias-added" if suffix else ".bias"
    weights = encoded.classifier(name, known, encoded.prompts(name).ensemble, kind)
    logits = zeroshot.logits(found.embeddings[rows], weights, encoded.encoder.scale)
    groups, first = [found.groups[row] for row in rows], top(logits, 1)[:, 0]
    rates: dict[str, Any] = {f"assigned{suffix}": bias.assignment_rates(first, names, groups, confidence)}
    if any(categories):
        rates[f"categories{suffix}"] = bias.category_rates(first, categories, groups, confidence)
    if not suffix:
        chances = softmax(logits)
        rates["labels"] = [
            {"threshold": one, "rows": bias.label_rates(chances, names, groups, one)}
            for one in bias.THRESHOLDS
        ]
    return rates
