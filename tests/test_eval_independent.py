"""A whole report on photographs: open_clip, scikit-learn and SciPy compute every number of it again."""

import json
import re
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import beam_job
from tests import eval_models, train_peers

pytestmark = pytest.mark.usefixtures("one_thread")
ARCHIVE = Path(__file__).resolve().parents[2] / "shared/data/images/cifar10-images.tar.gz"
TEST, TRAIN = 20, 16  # photographs of each class


@pytest.fixture(scope="module", autouse=True)
def peers() -> None:
    """Import them for these tests alone: every process of the tests imports every module of them."""
    pytest.importorskip("sklearn")
    train_peers.open_clip()
    train_peers.transformers()


def unpack(root: Path) -> None:
    """Write the first photographs of every class of the archive as root/test and root/train."""
    counts: dict[tuple[str, str], int] = {}
    with tarfile.open(ARCHIVE) as tar:
        for member in tar:
            if not member.name.endswith(".jpg"):
                continue
            # The archive begins with the test split; of its 1,000 of each class the first make two splits.
            _, label, name = member.name.split("/")[-3:]
            number = counts.get(("", label), 0)
            counts["", label] = number + 1
            if number < TEST + TRAIN:
                target = root / ("test" if number < TEST else "train") / label / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(tar.extractfile(member).read())  # type: ignore[union-attr]
            elif len(counts) == 10 and min(counts.values()) >= TEST + TRAIN:
                return


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")  # at the largest C
@pytest.mark.skipif(not ARCHIVE.exists(), reason="needs the sample data beside the checkout")
def test_every_number_of_a_report_on_photographs_is_the_other_programs(tmp_path: Path) -> None:
    from bench.independent import Peer, Recomputed, pairs, read

    unpack(tmp_path)
    model = eval_models.export(tmp_path / "model", seed=1)
    names = sorted(path.name for path in (tmp_path / "test").iterdir())
    test, train = (read(tmp_path / split, names, 32) for split in ("test", "train"))
    assert len(names) == 10 and (len(test.ids), len(train.ids)) == (10 * TEST, 10 * TRAIN)
    others = {one: number % 7 > number % 3 for number, one in enumerate(test.ids)}
    pq.write_table(pa.table({"example_id": list(others), "correct": list(others.values())}),
                   tmp_path / "others.parquet")  # fmt: skip
    tasks = ("zeroshot", "linear-probe", "few-shot", "robustness")
    assert beam_job.main(
        ["eval", "--checkpoint", f"m={model}", "--data", f"cifar10={tmp_path / 'test'}", "--workers", "2",
         "--train", f"cifar10={tmp_path / 'train'}", "--out", str(tmp_path / "out"), "--corruptions", "blur",
         "--shots", "2", "--draws", "2", "--compare", f"others={tmp_path / 'others.parquet'}",
         *(part for task in tasks for part in ("--task", task))]
    ) == 0  # fmt: skip
    again = Recomputed(Peer(model, "cifar10", names), test, train, names, tmp_path / "out", "cifar10", 20)
    rows = json.loads((tmp_path / "out/results.json").read_text())
    assert [row["task"] for row in rows] == [*tasks, *["robustness"] * 4]
    computed = {"zeroshot": lambda row: again.zero_shot({"others": others}), "linear-probe": again.probe,
                "few-shot": lambda row: again.few_shot(), "robustness": again.robustness}  # fmt: skip
    found = [pair for row in rows for pair in pairs(row, computed[row["task"]](row))]
    by_kind: dict[str, list[float]] = {}
    for pair in found:
        if pair.ours == pair.ours or pair.theirs == pair.theirs:
            ranked = pair.kind == "zero-shot, exact intervals" and re.search("roc_auc|map11", pair.name)
            by_kind.setdefault("rankings" if ranked else pair.kind, []).append(abs(pair.ours - pair.theirs))
    assert (
        max(by_kind["zero-shot, exact intervals"]) < 1e-6 and len(by_kind["zero-shot, exact intervals"]) > 80
    )
    # Scores are float32: of 36,000 pairs one or two may be in another order.
    assert max(by_kind["rankings"]) < 1e-4 and len(by_kind["rankings"]) >= 2
    # One example of 200 is half a point: a single example may fall on the other side of a probe's boundary.
    assert max(by_kind["probes"]) <= 0.0051 and len(by_kind["probes"]) > 30
    # A few-shot probe's C is chosen among nine on 40 photographs: one tie broken otherwise moves one draw.
    means = [abs(one.ours - one.theirs) for one in found
             if one.kind == "few-shot" and one.name.startswith("metrics.acc1")]  # fmt: skip
    assert len(means) == 1 and max(means) <= 0.02
    assert max(by_kind["bootstrap intervals"]) < 0.03
