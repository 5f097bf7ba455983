"""The normaliser is idempotent and follows its rule; the index agrees with a brute-force search."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.captions import match
from pipeline.captions.match import Matcher, tokens

SAMPLE = Path(__file__).resolve().parents[2] / "shared/data/text"

any_text = st.text(st.characters(exclude_categories=()), max_size=60)
# Few words and all kinds of boundary, so that queries meet texts often.
word = st.sampled_from(
    ["a", "b", "A", "ab", "dog's", "dog’s", "St.", "c++", "é", "e\u0301", "ß", "ss", "ﬁ", "™"]
)
glue = st.sampled_from(
    [" ", "  ", "-", "_", "'", "--", "/", ".", ". ", ", ", "(", ") ", "|", "\u200b", "“", ""]
)
phrase = st.lists(st.tuples(word, glue), max_size=8).map(lambda parts: "".join(w + g for w, g in parts))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        (" \t\r\n\x00\x1f\x7f\xa0\u2003", ""),
        ("A Photo of a DOG", "a photo of a dog"),
        ("St. Louis", "st . louis"),
        ("wait...what?! a;b:c`d,e", "wait . . . what ? ! a ; b : c ` d , e"),
        ("1,000.5 m²", "1 , 000 . 5 m2"),
        # Brackets, quotes, slashes and pipes are boundaries and dropped.
        (
            "(cat) [dog] {cow} <pig> cat/dog cat\\dog cat|dog",
            "cat dog cow pig cat dog cat dog cat dog",
        ),
        (
            "\"cat\" “cat” «cat» ‹cat› „cat“ ‘cat’ 'cat' 「cat」 *cat* ~cat~ ^cat^",
            "cat cat cat cat cat cat cat cat cat cat cat",
        ),
        ("cat – dog — cow • pig · hen … end", "cat dog cow pig hen . . . end"),
        # Hyphen, underscore and apostrophe join inside a word only.
        ("cat-shaped barn_wedding", "cat-shaped barn_wedding"),
        ("cat - dog -5 re- _x_ 'n' dogs' --help a--b", "cat dog 5 re x n dogs help a b"),
        ("dog's dog’s dogʼs dog´s dog＇s", "dog's dog's dog's dog's dog's"),
        ("non‑breaking non‐breaking", "non-breaking non-breaking"),
        ("- _ ' -- '' -_-", ""),
        # Signs that tell names apart are tokens.
        ("C++ C# AT&T 50% $5 a=b @me", "c + + c # at & t 50 % $ 5 a = b @ me"),
        ("5 € 🐕🐕 20°C", "5 € 🐕 🐕 20 ° c"),
        ("Nike™ Lego® ©Disney", "nike lego disney"),
        # Unicode: compatibility forms, full case folding, invisible characters, other scripts.
        ("ＦＵＬＬ ﬁsh Straße STRASSE İ", "full fish strasse strasse i\u0307"),
        ("cafe\u0301 café", "café café"),
        (
            "so\u00adft zero\u200bwidth \u202eabc \ufeffbom a\u200d\u0308",
            "soft zerowidth abc bom ä",
        ),
        ("हिन्दी में ไทย 日本語。中文", "हिन्दी में ไทย 日本語 中文"),
        ("a\ud800b \ue000 \U000e0041x", "a b x"),
    ],
)
def test_tokens_follow_the_rule(text: str, expected: str) -> None:
    assert tokens(text) == expected.split()


@given(any_text | phrase)
@example("\u0345\u0308a\u0345")
@example("a-\u0308-b")
def test_tokens_are_idempotent_and_encodable(text: str) -> None:
    words = tokens(text)
    assert tokens(" ".join(words)) == words
    assert all(word and word.split() == [word] for word in words)
    " ".join(words).encode()


def test_every_code_point_is_idempotent_between_letters() -> None:
    for start in range(0, sys.maxunicode + 1, 256):
        words = tokens(" ".join(f"a{chr(code)}b" for code in range(start, start + 256)))
        assert tokens(" ".join(words)) == words, hex(start)


@given(st.text(st.characters(max_codepoint=127), max_size=60))
def test_the_ascii_path_equals_the_general_one(text: str) -> None:
    assert tokens(text + " ü") == [*tokens(text), "ü"]


def brute_force(queries: list[str], text: str) -> list[int]:
    """Return the matches of the published rule, on normalised strings: a padded substring test per query."""
    spaced = [f" {' '.join(tokens(query))} " for query in queries]
    padded = f" {' '.join(tokens(text))} "
    return [i for i, query in enumerate(spaced) if query.strip() and query in padded]


@given(st.lists(phrase, max_size=12), phrase)
def test_matcher_equals_brute_force(queries: list[str], text: str) -> None:
    matcher = Matcher(queries)
    assert matcher.match(text) == brute_force(queries, text)
    assert matcher.dead == [i for i, query in enumerate(queries) if not tokens(query)]


def in_python(queries: list[str], rule: match.Rule = "openwit") -> Matcher:
    """Return the matcher of an installation without the C module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(match, "_match", None)
        return Matcher(queries, rule)


# The input that the C module reads byte by byte: every ASCII character, runs of joiners, and letters of
# several bytes.
edges = st.text(
    st.sampled_from([*map(chr, range(128)), *"--''__..", "é", "日", "™", "\u0345", "\ud800"]), max_size=40
)


@given(st.lists(phrase | edges | any_text, max_size=12), phrase | edges | any_text)
@example(["a-b", "-", "a"], "--a---b-'' a-b")
@example(["a " * 1100, "a"], "a " * 1100)  # the table of steps grows once
def test_the_c_module_and_python_answer_alike(queries: list[str], text: str) -> None:
    ours, plain = Matcher(queries), in_python(queries)
    for one in (text, *queries, f"{text} {' '.join(queries)}"):
        assert ours.match(one) == plain.match(one)
    assert ours.dead == plain.dead


@pytest.mark.skipif(match._match is None, reason="the C module is not built")
def test_the_c_module_refuses_what_is_no_text() -> None:
    index = match._match.Index(["a b", "", "a"])
    assert index.match("A b") == [0, 2]
    for wrong in (b"a", None, 1):
        with pytest.raises(TypeError):
            index.match(wrong)
        with pytest.raises(TypeError):
            match._match.Index([wrong])
    with pytest.raises(TypeError):
        match._match.Index(("a",))
    with pytest.raises(TypeError):
        match._match.Index(["a"], more=1)
    with pytest.raises(UnicodeEncodeError):
        index.match("\ud800")


def test_a_line_says_when_python_matches(monkeypatch, caplog) -> None:
    monkeypatch.setattr(match, "_match", None)
    match.warn_without_module()
    assert "without a C compiler" in caplog.text
    caplog.clear()
    monkeypatch.setattr(match, "_match", object())
    match.warn_without_module()
    assert not caplog.text


small = st.lists(st.sampled_from("ab.")).map(" ".join)


@given(st.lists(small, max_size=30), small)
def test_matcher_equals_brute_force_on_overlapping_queries(queries: list[str], text: str) -> None:
    assert Matcher(queries).match(text) == brute_force(queries, text)


def published(queries: list[str], text: str) -> list[int]:
    """Return the matches of MetaCLIP's substr_matching: a padded, case-sensitive substring test per query."""
    for mark in (",", ".", ";", ":", "?", "!", "`"):
        text = text.replace(mark, f" {mark} ")
    for blank in ("\t", "\n", "\r"):
        text = text.replace(blank, " ")
    return [i for i, query in enumerate(queries) if query and f" {query} " in f" {text} "]


# Words and marks that meet, in either case, with white space of every kind between them.
cased = st.lists(
    st.sampled_from(
        ["a", "A", "ab", "b", ",", ".", "-", "_", "(", "é", "É", " ", "  ", "\t", "\n", "\xa0", "", "'"]
    ),
    max_size=10,
).map("".join)


@given(st.lists(cased, max_size=12), cased)
@example(["a  b", "a b", " a", "a ", " ", "a , b"], "a  b a,b  a")
@example(["a", "\0", "A\x7f"], "a \0 A\x7f")
def test_metaclips_rule_is_that_of_its_script(queries: list[str], text: str) -> None:
    ours, plain = Matcher(queries, "metaclip"), in_python(queries, "metaclip")
    for one in (text, *queries, f"{text} {' '.join(queries)}"):
        assert ours.match(one) == plain.match(one) == published(queries, one)
    assert ours.dead == plain.dead and not set(ours.dead) & set(published(queries, text))


@given(st.lists(edges | any_text, max_size=6), edges | any_text)
def test_both_ways_of_metaclips_rule_agree_on_any_text(queries: list[str], text: str) -> None:
    ours, plain = Matcher(queries, "metaclip"), in_python(queries, "metaclip")
    assert ours.match(text) == plain.match(text)


def test_metaclips_rule_keeps_case_and_loses_queries_with_marks() -> None:
    matcher = Matcher(["Dog", "dog", "St. Louis", "(dog)", "hot dog", "o.k."], "metaclip")
    assert matcher.dead == [2, 5]
    assert matcher.match("A hot dog, a (dog) in St. Louis") == [1, 3, 4]
    assert matcher.match("Dog-shaped DOG Dog") == [0]


def test_a_balanced_set_by_metaclips_rule_has_the_size_of_its_algorithm(sample_data: Path) -> None:
    """A small run of bench/metaclip.py: sizes beside the expectation of Algorithm 1, exactly computed."""
    from bench import metaclip

    texts = metaclip.captions([sample_data / "text" / "img2dataset_test_10000.parquet"], 10_000)
    every = json.loads((sample_data / "text" / "surrogate_queries500k.json").read_text())
    words = {word for text in texts for word in text.split()}
    queries = [query for query in every if query in words]
    matches = metaclip.pairs(Matcher(queries, "metaclip").match, texts)
    counts = np.bincount(matches[:, 0])
    for most in (5, 50):
        lost = np.log1p(-np.minimum(most / counts[matches[:, 0]], 1 - 1e-12))
        expected = (1 - np.exp(np.bincount(matches[:, 1], lost)))[np.unique(matches[:, 1])].sum()
        assert metaclip.kept(matches, queries, most) == pytest.approx(expected, rel=0.01)


def test_all_queries_of_one_form_match() -> None:
    matcher = Matcher(["Dog", "St. Louis", "dog", "(dog)", "st . louis", "hot dog"])
    assert matcher.match("DOG in St. Louis") == [0, 1, 2, 3, 4]


def test_only_queries_without_tokens_are_dead() -> None:
    matcher = Matcher(["o.k.", "", "?", "()", "The Police: Live", "--"])
    assert matcher.dead == [1, 3, 5]
    assert matcher.match("The Police: Live, o.k.?") == [0, 2, 4]


def test_matcher_equals_brute_force_on_500k_queries() -> None:
    if not (SAMPLE / "surrogate_queries500k.json").exists():
        pytest.skip("no sample data beside the checkout")
    import pyarrow.parquet as pq

    queries: list[str] = json.loads((SAMPLE / "surrogate_queries500k.json").read_text())
    table = pq.read_table(SAMPLE / "img2dataset_test_10000.parquet", columns=["TEXT"])
    captions = [text for text in table["TEXT"].to_pylist() if text][:10_000:33]
    matcher = Matcher(queries)
    spaced = [f" {' '.join(tokens(query))} " for query in queries]
    # One pass over the queries for all captions at once finds which can occur at all; the rest is exact.
    corpus = "\n".join(f" {' '.join(tokens(caption))} " for caption in captions)
    possible = [i for i, query in enumerate(spaced) if query.strip() and query in corpus]
    matches = 0
    for caption in captions:
        padded = f" {' '.join(tokens(caption))} "
        expected = [i for i in possible if spaced[i] in padded]
        assert matcher.match(caption) == expected
        matches += len(expected)
    assert matches > 5 * len(captions)
