"""Encoding: the words and their neighbours are those of the normaliser, whatever the batches and blocks."""

import itertools
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.captions.match import tokens
from queries import token_blocks
from queries.token_blocks import TokenBlock, TokenEncoder, is_word

_FRAGMENTS = ["a", "Dog's", "St.", "—", "(b)", "C++", "\n", " ", "é", "e\u0301", "ﬁ", "--", "x-y", "½"]
TEXTS = st.lists(st.text(max_size=40) | st.lists(st.sampled_from(_FRAGMENTS)).map("".join), max_size=8)


def _straightforward(texts: list[str]) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Count words, and pairs of words that follow each other within a line with nothing between."""
    words, pairs = Counter[str](), Counter[tuple[str, str]]()
    for text in texts:
        for line in text.replace("\0", "").split("\n"):
            found = tokens(line)
            words.update(filter(is_word, found))
            pairs.update((a, b) for a, b in itertools.pairwise(found) if is_word(a) and is_word(b))
    return words, pairs


def _decoded(blocks: list[TokenBlock]) -> tuple[Counter[str], Counter[tuple[str, str]]]:
    words, pairs = Counter[str](), Counter[tuple[str, str]]()
    for block in blocks:
        words.update(dict(zip(block.words, block.counts.tolist(), strict=True)))
        stream = block.stream.tolist()
        pairs.update(
            (block.words[a - 1], block.words[b - 1]) for a, b in itertools.pairwise(stream) if a and b
        )
    return words, pairs


@given(TEXTS, st.integers(1, 30), st.integers(1, 60))
def test_blocks_hold_the_words_and_pairs_of_the_normaliser(
    texts: list[str], block_tokens: int, batch: int
) -> None:
    texts = [text.replace("\0", "") for text in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(token_blocks, "_BATCH_CHARACTERS", batch)
        encoder = TokenEncoder(block_tokens)
        blocks = [block for text in texts for block in encoder.add(text)] + list(encoder.finish())
    assert _decoded(blocks) == _straightforward(texts)


def test_full_blocks_are_given_out() -> None:
    encoder = TokenEncoder(block_tokens=50)
    text = "word " * 60_000
    blocks = [block for _ in range(3) for block in encoder.add(text)]
    assert [block.counts.tolist() for block in blocks] == [[60_000]] * 3
    assert list(encoder.finish()) == []


@pytest.mark.parametrize("token", ["a", "7", "x-y", "½", "é"])
def test_a_word_has_a_letter_or_a_digit(token: str) -> None:
    assert is_word(token)


@pytest.mark.parametrize("token", ["+", "€", ".", "\u0301"])
def test_other_tokens_are_no_words(token: str) -> None:
    assert not is_word(token)
