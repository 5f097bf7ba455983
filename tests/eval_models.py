"""Small models with random weights and small sets of plain colours, for the evaluation's tests."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from tests import train_shards
from tests.test_train_model import SMALL_VIT, scrambled
from train import checkpoint, convert_weights, vocabulary
from train.checkpoint import State
from train.model import CLIP
from train.tokenizer import Tokenizer

COLOURS = tuple(train_shards.COLOURS)


def tokenizer() -> Tokenizer:
    """Return a vocabulary learned from the colours' captions."""
    texts = [f"a photo of the {colour} paint, a type of clothing" for colour in COLOURS] * 3
    return Tokenizer(vocabulary.learn_merges(vocabulary.count_words(texts)))


def model(seed: int = 0) -> CLIP:
    """Return a ViT of 32 pixels with random weights."""
    return scrambled(replace(SMALL_VIT, vocab_size=tokenizer().vocab_size), seed)


def export(folder: Path, seed: int = 0) -> Path:
    """Write the model as open_clip has it."""
    own = model(seed)
    convert_weights.export(own.state_dict(), own.architecture, tokenizer(), "open_clip", folder)
    return folder


def training_run(folder: Path, seed: int = 0, step: int = 7) -> Path:
    """Write the model as a training run leaves it."""
    from safetensors.torch import save_file

    own = model(seed)
    at = folder / "checkpoints" / f"step-{step:08d}"
    at.mkdir(parents=True)
    save_file(own.state_dict(), at / "model.safetensors")
    tokenizer().save(at / checkpoint.VOCABULARY)
    state = State(step=step, model="small", architecture=own.architecture, seconds=1.0, counts={}, config={})
    (at / "state.json").write_text(json.dumps(asdict(state)))
    (folder / "checkpoints" / "latest").write_text(at.name)
    return folder


def colours(folder: Path, each: int, first: int = 0) -> Path:
    """Write a folder of class folders; pictures of one class differ by noise."""
    for colour in COLOURS:
        (folder / colour).mkdir(parents=True)
        for number in range(first, first + each):
            (folder / colour / f"{number}.jpg").write_bytes(train_shards.jpeg(colour, seed=number))
    return folder
