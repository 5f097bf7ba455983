"""Scoring: a hook that is checked, batches that depend on nothing, conditions that execute nothing."""

import math
import pickle
from collections.abc import Mapping, Sequence
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from pipeline.images.process import Pixels, encode_jpeg
from pipeline.images.scoring import Sharpness, load, score_batches
from pipeline.score.keep_if import KeepIf


def image(level: int, height: int = 40, width: int = 60) -> Pixels:
    return np.full((height, width, 3), level, np.uint8)


def stored(level: int, caption: str = "a caption") -> tuple[bytes, list[str]]:
    return encode_jpeg(image(level), 95), [caption]


class Brightness:
    """Scores the mean level and the number of captions, and remembers the sizes of its batches."""

    columns = ("score_level", "score_captions")

    def __init__(self) -> None:
        self.batches: list[int] = []

    def score(self, images: list[Pixels], captions: list[list[str]]) -> Mapping[str, np.ndarray]:
        self.batches.append(len(images))
        return {
            "score_captions": np.array([len(texts) for texts in captions]),
            "score_level": np.array([pixels.mean() for pixels in images], np.float64),
        }


class Darkener(Brightness):
    """Blackens bright images, as a face blurrer would change those with faces."""

    def edit(self, images: list[Pixels]) -> Sequence[Pixels]:
        return [np.zeros_like(pixels) if pixels.mean() > 100 else pixels for pixels in images]


def test_batches_are_fixed_and_the_order_is_kept() -> None:
    scorer = Brightness()
    levels = [10 * i for i in range(10)]
    scored = score_batches(scorer, (stored(level) for level in levels), batch_size=4)
    assert scorer.batches == [4, 4, 2]
    assert scored.columns["score_level"] == pytest.approx(levels, abs=1)
    assert list(scored.columns) == ["score_level", "score_captions"]
    assert {column.dtype for column in scored.columns.values()} == {np.dtype(np.float32)}
    assert scored.replacements == {}


def test_no_samples_are_empty_columns() -> None:
    columns, replacements, _ = score_batches(Brightness(), [])
    assert {name: (c.shape, c.dtype) for name, c in columns.items()} == dict.fromkeys(
        Brightness.columns, ((0,), np.dtype(np.float32))
    )
    assert replacements == {}


def test_edited_images_are_encoded_and_the_others_left_alone() -> None:
    scored = score_batches(Darkener(), [stored(level) for level in (20, 200, 30, 220)], batch_size=3)
    assert sorted(scored.replacements) == [1, 3]
    assert scored.columns["score_level"][1] == pytest.approx(200, abs=1)  # scores are of the unedited image
    assert simplejpeg.decode_jpeg(scored.replacements[3], "RGB").max() <= 2


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        ({"score_level": np.zeros(2)}, "columns"),
        ({"score_level": np.zeros(2), "score_captions": np.zeros(2), "score_more": np.zeros(2)}, "columns"),
        ({"score_level": np.zeros(3), "score_captions": np.zeros(2)}, "score_level of shape"),
        ({"score_level": np.zeros((2, 1)), "score_captions": np.zeros(2)}, "shape"),
    ],
)
def test_broken_promises_are_errors(returned: dict[str, np.ndarray], message: str) -> None:
    scorer = SimpleNamespace(columns=Brightness.columns, score=lambda images, captions: returned)
    with pytest.raises(ValueError, match=message):
        score_batches(scorer, [stored(1), stored(2)])


@pytest.mark.parametrize(
    "edited", [[], [image(1, 10, 10)], [image(1).astype(np.float32)], [image(1)[..., 0]]], ids=str
)
def test_edits_must_keep_count_shape_and_type(edited: list[Pixels]) -> None:
    scorer = Darkener()
    scorer.edit = lambda images: edited  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="edited"):
        score_batches(scorer, [stored(1)])


def test_sharpness_ranks_blur_and_ignores_size() -> None:
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (256, 256, 3), dtype=np.uint8)
    smooth = np.repeat(np.repeat(noise[::16, ::16], 16, axis=0), 16, axis=1)
    flat = image(128, 300, 400)
    tiny = image(7, 1, 1)
    scores = Sharpness().score([noise, smooth, flat, tiny], [[], [], [], []])["score_sharpness"]
    assert scores[0] > 5 * scores[1] > 0
    assert list(scores[2:]) == [0, 0]
    larger = np.repeat(np.repeat(smooth, 2, axis=0), 2, axis=1)
    again = Sharpness().score([larger], [[]])["score_sharpness"]
    assert again[0] == pytest.approx(scores[1], rel=0.01)


def test_load_makes_the_example() -> None:
    scorer = load("pipeline.images.scoring:Sharpness")
    assert isinstance(scorer, Sharpness)
    assert score_batches(scorer, [stored(9)]).columns["score_sharpness"] == pytest.approx([0])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("", "module:Class"),
        ("module", "module:Class"),
        (":Class", "module:Class"),
        ("no_such_module:Class", "cannot be imported: No module named 'no_such_module'"),
        ("pipeline.images.scoring:Nothing", "no class 'Nothing'"),
        ("pipeline.images.scoring:load", "no class 'load'"),
        ("pipeline.images.scoring:Scored", "cannot be created: TypeError"),
        ("collections:Counter", "needs a method `score`"),
        ("scorers:NoColumns", "needs a method `score` and a tuple"),
        ("scorers:BadNames", "begin with score_"),
        ("scorers:Repeated", "different names"),
    ],
)
def test_load_says_what_is_wrong(spec: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("scorers")
    for name, columns in (("NoColumns", ()), ("BadNames", ("level",)), ("Repeated", ("score_a", "score_a"))):
        setattr(module, name, type(name, (Brightness,), {"columns": columns}))
    monkeypatch.setitem(__import__("sys").modules, "scorers", module)
    with pytest.raises(ValueError, match=message):
        load(spec)


ROW = {"score_nsfw": 0.25, "score_sharpness": np.float32(12), "width": 300, "missing": None, "nan": math.nan}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("score_nsfw < 0.5", True),
        ("score_nsfw < 0.25", False),
        ("score_nsfw <= 0.25", True),
        ("score_nsfw > 0.25", False),
        ("score_nsfw >= 0.25", True),
        ("score_nsfw == 0.25", True),
        ("score_nsfw != 0.25", False),
        ("score_nsfw < 0.5 and score_sharpness >= 10", True),
        ("score_nsfw > 0.5 or score_sharpness >= 10", True),
        ("score_nsfw > 0.5 and score_sharpness >= 10 or width > 1", True),
        ("score_nsfw > 0.5 and (score_sharpness >= 10 or width > 1)", False),
        ("  0 < score_nsfw < 0.3 ", True),
        ("0 < score_nsfw < 0.2", False),
        ("-1 < score_nsfw", True),
        ("width > score_sharpness", True),
        ("missing != 1", False),
        ("missing == missing", False),
        ("nan != 0", False),
        ("nan < 1 or width == 300", True),
    ],
)
def test_conditions(text: str, expected: bool) -> None:
    condition = KeepIf.parse(text)
    assert condition.check(ROW) is expected
    assert pickle.loads(pickle.dumps(condition)).check(ROW) is expected


def test_conditions_name_their_columns() -> None:
    condition = KeepIf.parse("width > 2 and score_b < 1 or score_a < score_b")
    assert condition.names == ("score_a", "score_b", "width")
    condition.require(["width", "score_b", "score_a", "more"])
    with pytest.raises(ValueError, match="reads score_a, score_b; the columns are height, width"):
        condition.require(["width", "height"])
    with pytest.raises(ValueError, match="reads score_a"):
        condition.check({"width": 1, "score_b": 1})
    with pytest.raises(ValueError, match="lang holds str"):
        KeepIf.parse("lang == 1").check({"lang": "en"})


@pytest.mark.parametrize(
    "text",
    [
        "",
        "width",
        "width >",
        "1",
        "not width > 1",
        "width > 1 if width else 2",
        "width > 'a'",
        "width in (1, 2)",
        "width is None",
        "width + 1 > 2",
        "width > True",
        "width > 1j",
        "width > 1" + "0" * 400,
        "__import__('os').system('true') > 1",
        "width.real > 1",
        "rows[0] > 1",
        "(lambda: 1)() > 0",
        "(x := 1) > 0",
        "width > 1; width",
        "width > -'a'",
        "width > ~1",
        "a" * 1001,
        "(" * 400 + "a > 1" + ")" * 400,
        "a > 1\x00",
    ],
)
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="condition"):
        KeepIf.parse(text)


@given(st.text(max_size=60) | st.text("ab01 <>=!()-.andor", max_size=40))
def test_any_text_is_a_condition_or_a_value_error(text: str) -> None:
    try:
        condition = KeepIf.parse(text)
    except ValueError:
        return
    assert condition.check(dict.fromkeys(condition.names, 1.0)) in (True, False)


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_conditions_agree_with_python(a: float, b: float, c: float) -> None:
    condition = KeepIf.parse("a < b and (b <= c or a != 0.5) or c >= 0.9 and a <= b <= c")
    assert condition.check({"a": a, "b": b, "c": c}) == (
        (a < b and (b <= c or a != 0.5)) or (c >= 0.9 and a <= b <= c)
    )
