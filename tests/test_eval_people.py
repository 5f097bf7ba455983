"""People beside the model (table 2), and its statements on people: sums over categories (figure 18)."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tests.test_eval_parts import drawn
from train.evaluation import bias, classes, paper_figures, people
from train.evaluation.people import Answer
from train.evaluation.results import Result

LABELS = {"1": "cat", "2": "dog", "3": "dog", "4": "cat", "new": ""}
ANSWERS = [
    Answer(example_id, person, answer)
    for example_id, given in {"1": ("cat", "cat", "dog"), "2": ("dog", "", "cat"), "3": ("", "", "dog"),
                              "4": ("", "", ""), "new": ("cat", "cat", "cat")}.items()
    for person, answer in zip("abc", given, strict=True)
]  # fmt: skip


def test_peoples_answers_are_scored_alone_and_by_majority() -> None:
    found = people.score(ANSWERS, LABELS, 0.95, 0)
    assert (found["people"], found["examples"], found["answers"], found["guesses"]) == (3, 4, 12, 6)
    assert found["accuracy"] == pytest.approx(4 / 12) and found["accuracy_on_guesses"] == pytest.approx(4 / 6)
    # 1: cat. 2: dog, cat and nothing are equally frequent. 3 and 4: most say that they do not know.
    assert found["majority"] == pytest.approx((1 + 1 / 3) / 4)
    # Of guesses alone: 2 is a tie of two, 3 is right, nobody guesses at 4.
    assert found["majority_on_guesses"] == pytest.approx((1 + 1 / 2 + 1) / 3)
    for name in ("accuracy", "majority", "accuracy_on_guesses", "majority_on_guesses"):
        low, high = found[f"{name}_interval"]
        assert low <= found[name] <= high
    assert people.shares(ANSWERS, LABELS) == pytest.approx({"1": 2 / 3, "2": 1 / 3, "3": 1 / 3, "4": 0})


def test_answers_are_read_by_shots(tmp_path: Path) -> None:
    path = tmp_path / "people.csv"
    path.write_text("example_id,person,answer,shots\na.jpg,p,cat,0\na.jpg,p,dog,1\nb.jpg,p,,0\n")
    found = people.read(str(path))
    assert found == {
        0: [Answer("a.jpg", "p", "cat"), Answer("b.jpg", "p", "")],
        1: [Answer("a.jpg", "p", "dog")],
    }
    for text, message in (
        ("example_id,person\n", "no column answer"), ("example_id,person,answer\n", "no answers"),
        ("example_id,person,answer\na,p,x\na,p,y\n", "line 3: p has answered a twice"),
        ("example_id,person,answer,shots\na,p,x,two\n", "line 2: shots"),
    ):  # fmt: skip
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            people.read(str(path))


def test_categories_are_sums_of_their_classes(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_text("thief\tcrime\nman\ngorilla\tanimal\ncriminal\tcrime\n")
    names, categories = classes.read_categories(str(path))
    assert names == ["thief", "man", "gorilla", "criminal"] and categories == ["crime", "", "animal", "crime"]
    assigned, groups = np.array([0, 3, 1, 2, 1, 1]), ["a", "a", "a", "b", "b", "b"]
    rates = bias.category_rates(assigned, categories, groups, 0.95)
    assert [(row["class"], [round(rate["rate"], 3) for rate in row["rates"]]) for row in rates] == [
        ("crime", [0.667, 0]), ("animal", [0, 0.333])
    ]  # fmt: skip
    path.write_text("man\nman\tx\n")
    with pytest.raises(ValueError, match="'man' twice"):
        classes.read_categories(str(path))


def test_labels_above_a_threshold_differ_by_a_chi_squared_test() -> None:
    random = np.random.default_rng(0)
    groups = ["women"] * 60 + ["men"] * 40
    chances = random.random((100, 4)) * 0.08
    chances[:60, 1] += 0.05
    chances[:, 3] = 0.5
    rows = bias.label_rates(chances, ["suit", "hair", "tie", "person"], groups, 0.04)
    assert rows[0]["class"] == "hair" and "person" not in [row["class"] for row in rows]
    table = np.array([[(chances[60:, 1] > 0.04).sum(), (chances[60:, 1] <= 0.04).sum()],
                      [(chances[:60, 1] > 0.04).sum(), (chances[:60, 1] <= 0.04).sum()]])  # fmt: skip
    expected = stats.chi2_contingency(table, correction=False)
    assert (rows[0]["chi2"], rows[0]["p"]) == pytest.approx((expected.statistic, expected.pvalue))
    assert [rate["group"] for rate in rows[0]["rates"]] == ["men", "women"]
    result = Result(dataset="congress", model="m", task="bias", metrics={},
                    detail={"labels": [{"threshold": 0.04, "rows": rows}]})  # fmt: skip
    charts = paper_figures.labels([result], "")
    assert any(chart.title == "congress: labels above 4.0%, more of women" for chart in charts)
    assert "hair, women: 100%" in [text for chart in charts for text in drawn(chart)[1]]
