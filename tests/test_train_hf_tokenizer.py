"""A tokenizer.json of one's own: ids as open_clip reads it, trained with, kept, exported."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import train_peers, train_shards
from tests.test_train_loop import config, prepared
from tests.test_train_options import run  # noqa: F401
from train import checkpoint, cli, hf_tokenizer
from train.clip_trainer import fit
from train.evaluation import models
from train.evaluation.options import EvalConfig
from train.hf_tokenizer import HuggingFaceTokenizer
from train.packing import pack_lists

tokenizers = pytest.importorskip("tokenizers")
TEXTS = [
    "A photo of a Red car &amp; more", "", "  caf\u00e9 \n LibertyCaf\u00c3\u00a9", "x" * 40, "red " * 100,
    "<b>green</b> </s> paint", "\u65e5\u672c\u8a9e",
]  # fmt: skip
ENDS = {
    "bert": ("[CLS] $A [SEP]", ["[CLS]", "[SEP]"]),
    "t5": ("$A </s>", ["</s>"]),
    "gpt2": ("", ["<|endoftext|>"]),
}


def write(path: Path, kind: str) -> Path:
    """Train a small tokenizer with the special tokens of a family's, and write it."""
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    template, special = ENDS[kind]
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["[PAD]", *special], show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator([f"a photo of {colour} paint" for colour in train_shards.COLOURS] * 3, trainer)
    if template:
        ids = [(token, made.token_to_id(token)) for token in special]
        made.post_processor = processors.TemplateProcessing(single=template, special_tokens=ids)
    made.save(str(path))
    return path


@pytest.mark.parametrize("kind", ENDS)
def test_ids_are_open_clips(kind: str, tmp_path: Path) -> None:
    ours = hf_tokenizer.load(write(tmp_path / "tokenizer.json", kind))
    assert isinstance(ours, HuggingFaceTokenizer) and pickle.loads(pickle.dumps(ours)).end == ours.end
    (tmp_path / "tokenizer.json").write_bytes(ours.to_bytes())
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "pad_token": "[PAD]",
        "eos_token": ENDS[kind][1][-1],
    }
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(about))
    theirs = train_peers.open_clip().tokenizer.HFTokenizer(str(tmp_path), context_length=20)
    assert ours.vocab_size == len(theirs.tokenizer)
    for text in TEXTS:
        padded = ours.encode(text, 20)
        padded += [theirs.tokenizer.pad_token_id] * (20 - len(padded))
        assert padded == theirs(text)[0].tolist(), text
        caption = ours.caption(text, 20)
        assert caption[-1] == ours.end and ours.end not in caption[len(ours.prefix) : -1]


def test_a_tokenizer_that_ends_no_text_or_is_none_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "tokenizer.json", "gpt2")
    path.write_text(path.read_text().replace("<|endoftext|>", "<nothing>"))
    with pytest.raises(ValueError, match="adds no end token"):
        hf_tokenizer.load(path)
    for wrong in ("{}", "x", '{"model": {"type": "BPE"}}'):
        path.write_text(wrong)
        with pytest.raises(ValueError, match=r"tokenizer.json is no tokenizer.json"):
            hf_tokenizer.load(path)


def test_a_run_with_it_resumes_and_is_exported(run: Path, tmp_path: Path) -> None:  # noqa: F811
    vocab = write(tmp_path / "tokenizer.json", "bert")
    out = tmp_path / "out"
    fit(config(run, out, max_steps=2, vocab=str(vocab)))
    fit(config(run, out, max_steps=2, vocab=str(vocab), resume=True))
    loaded = checkpoint.load_model(str(out))
    assert isinstance(loaded.tokenizer, HuggingFaceTokenizer)
    assert loaded.tokenizer.vocab_size == loaded.state.architecture.vocab_size
    text = "a photo of RED paint"
    expected = loaded.model.encode_text(pack_lists([loaded.tokenizer.caption(text)]))
    export = ["--checkpoint", str(out), "--format", "open_clip", "--out", str(tmp_path / "x")]
    assert cli.export_main(export) == 0
    peers = train_peers.open_clip()
    model = peers.create_model(f"local-dir:{tmp_path / 'x'}")
    ids = peers.get_tokenizer(f"local-dir:{tmp_path / 'x'}")([text])
    with torch.no_grad():
        found = torch.nn.functional.normalize(model.encode_text(ids), dim=1)
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), atol=1e-5)
    evaluation = EvalConfig(checkpoint=("x",), data=("x=x",), task=("zeroshot",), out="y")
    encoder = models.load(models.ModelSource("x", str(tmp_path / "x")), evaluation)
    assert encoder.tokenizer.caption(text) == loaded.tokenizer.caption(text)
    going = prepared(config(run, tmp_path / "b", init_from=str(tmp_path / "x")))
    assert going.tokenizer.caption(text) == loaded.tokenizer.caption(text)
    hf = ["--checkpoint", str(out), "--format", "hf", "--out", str(tmp_path / "hf")]
    assert cli.export_main(hf) == (2 if loaded.tokenizer.end == 2 else 0)
