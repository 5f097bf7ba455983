"""The whole job: the same list from any number of workers and pieces, equal to an independent count."""

import bz2
import contextlib
import html.parser
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.captions.match import tokens
from pipeline.flow.runner import Runner
from queries import inputs, job, wikipedia, wikitext, workers
from queries.options import QueriesConfig
from tests.browser import chromium
from tests.queries_dump import SAMPLE_DUMP, WORDNET, Written, write_multistream
from tests.rows import checked_results
from tests.test_queries_wordnet import write_wordnet

ARTICLES = [
    Written(
        "New York City", "'''New York''' is a city. New York has [[taxi]]s.\n{{Infobox}} York is older. " * 3
    ),
    Written("Taxi", "A taxi is a car. The yellow taxi of New York. <script>alert(1)</script> " * 4),
    Written("NYC", "#REDIRECT [[New York City]]", redirect="New York City"),
    Written("Mercury", "may be a planet {{disambig}}"),
    Written("Mercury (planet)", "Mercury is a planet of the sun " * 5),
    Written("List of cities", "New York"),
    Written("<b>Bold</b> & co", "Bold and brave."),
]
VIEWS = """en New_York_City 100 0
en.m NYC 900 0
en Mercury 5000 0
en Mercury_(planet) 800 0
en Main_Page 99999 0
en List_of_cities 700 0
en Special:Search 600 0
en Misspeltt 500 0
en Taxi 3 0
en <b>Bold</b>_&_co 400 0
"""


def _config(folder: Path, name: str, **options: Any) -> QueriesConfig:
    return QueriesConfig(out=str(folder / name / "queries.parquet"), min_bigram_count=2, **options)


@pytest.fixture
def sources(tmp_path: Path) -> dict[str, Any]:
    dump, _ = write_multistream(tmp_path, ARTICLES, 2)
    (tmp_path / "pageviews-20260101-000000").write_text(VIEWS)
    (tmp_path / "wordnet").mkdir()
    (tmp_path / "extra.txt").write_text("tabby cat\nTAXI\n")
    (tmp_path / "exclude.txt").write_text("The\n")
    return {
        "wikipedia": (str(dump),),
        "pageviews": (str(tmp_path / "pageviews-*"),),
        "wordnet": str(write_wordnet(tmp_path / "wordnet")),
        "extra": (str(tmp_path / "extra.txt"),),
        "exclude": (str(tmp_path / "exclude.txt"),),
        "min_count": 4,
    }


def _run(config: QueriesConfig, workers: int = 1, flags: tuple[str, ...] = ()) -> dict[str, Any]:
    @contextlib.contextmanager
    def on_step(label: str, folder: str, tasks: int, images: int = 0) -> Iterator[None]:
        yield

    Path(config.out).parent.mkdir(exist_ok=True)
    found = inputs.find_inputs(config)
    return job.QueryJob(config, found, Runner(workers=workers, flags=flags, watch=on_step)).run()


def test_all_sources_make_one_list(tmp_path: Path, sources: dict[str, Any]) -> None:
    config = _config(tmp_path, "a", **sources)
    summary = _run(config)
    table = pq.read_table(config.out)
    rows = {row["query"]: (row["source"], row["count"]) for row in table.to_pylist()}
    assert table["query_id"].to_pylist() == list(range(len(rows)))
    assert rows["york"] == ("unigram", 3 * 3 + 4 + 1)
    assert rows["new york"] == ("bigram", 2 * 3 + 4 + 1)
    assert rows["New York City"] == ("title", 1000)
    assert rows["<b>Bold</b> & co"] == ("title", 400)
    assert rows["mercury"] == ("unigram", 5)  # and not the title "Mercury (planet)", which is the same query
    assert rows["entity"] == ("wordnet", 2)
    assert rows["tabby cat"] == ("extra", 0)
    assert not {"the", "The", "TAXI", "Mercury", "Main Page", "List of cities", "Taxi"} & rows.keys()
    assert rows["new york"][1] > rows["york is"][1] > 0
    assert not {"city new", "older new"} & rows.keys()  # a sentence ends between
    assert summary["statistics"]["title"]["dropped"] == {
        "disambiguation": 1, "list": 1, "other_namespace": 1, "over_budget": 0, "too_few_views": 1,
        "unknown_page": 2,
    }  # fmt: skip
    assert summary["statistics"]["wikipedia"]["kinds"] == {
        "article": 4, "disambiguation": 1, "list": 1, "redirect": 1
    }  # fmt: skip
    assert summary["dead"] == 0


def test_workers_and_pieces_do_not_change_a_byte(
    tmp_path: Path, sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _config(tmp_path, "a", **sources)
    _run(first)
    monkeypatch.setattr(wikipedia, "PIECE_BYTES", 1)  # a piece for each stream
    monkeypatch.setattr(inputs, "_PARTITION_BYTES", 300)  # several partitions
    second = _config(tmp_path, "b", **sources)
    assert inputs.find_inputs(second).partitions > 2
    _run(second, workers=2)
    assert Path(first.out).read_bytes() == Path(second.out).read_bytes()


def test_a_portable_runner_gives_the_same_bytes(tmp_path: Path, sources: dict[str, Any]) -> None:
    """A graph as Flink, Spark and Dataflow handle it: through protocol buffers, coders and pickles."""
    options = {name: sources[name] for name in ("wikipedia", "min_count")}
    first, second = _config(tmp_path, "a", **options), _config(tmp_path, "b", **options)
    _run(first)
    flags = ("--runner=PortableRunner", "--job_endpoint=embed", "--environment_type=LOOPBACK")
    _run(second, flags=flags)
    assert Path(first.out).read_bytes() == Path(second.out).read_bytes()


def test_only_the_best_rows_are_held(tmp_path: Path) -> None:
    paths = [
        workers.publish(pa.table({"n": pa.array(numbers, pa.int64())}), str(tmp_path / f"{i}.parquet"))
        for i, numbers in enumerate([[3, 9], [8, 1, 2], [7, 10], []])
    ]
    assert job.best_rows(paths, [("n", "descending")], 2)["n"].to_pylist() == [10, 9]


def test_a_run_continues_where_it_stopped(
    tmp_path: Path, sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = _config(tmp_path, "a", **sources)
    with monkeypatch.context() as patch:
        patch.setattr(workers.RankPairsWorker, "run", None)
        with pytest.raises(Exception, match="NoneType"):
            _run(config)
    assert not Path(config.out).exists()
    with monkeypatch.context() as patch:
        patch.setattr(workers.EncodeWorker, "run", None)  # finished steps are not done again
        patch.setattr(workers.WordsWorker, "run", None)
        patch.setattr(workers.PairsWorker, "run", None)
        _run(config)
    whole = _config(tmp_path, "b", **sources)
    _run(whole)
    assert Path(config.out).read_bytes() == Path(whole.out).read_bytes()
    assert not Path(config.work).exists()


def test_the_files_of_every_step_are_as_its_results_say(tmp_path: Path, sources: dict[str, Any]) -> None:
    config = _config(tmp_path, "a", keep_work=True, **sources)
    _run(config)
    assert checked_results(Path(config.work)) == {
        "EncodedPiece", "FrequentWords", "BlockBigrams", "RankedBigrams", "ViewedTitles", "ViewedArticles",
        "RankedTitles",
    }  # fmt: skip


def test_a_changed_option_reruns_from_the_step_it_touches(
    tmp_path: Path, sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _config(tmp_path, "a", keep_work=True, **sources)
    _run(first)
    assert job.finished_summary(first, inputs.find_inputs(first)) is not None
    changed = _config(tmp_path, "a", keep_work=True, **{**sources, "min_count": 5})
    assert job.finished_summary(changed, inputs.find_inputs(changed)) is None
    monkeypatch.setattr(workers.EncodeWorker, "run", None)
    monkeypatch.setattr(workers.ViewsWorker, "run", None)
    _run(changed)
    counts = [r["count"] for r in pq.read_table(changed.out).to_pylist() if r["source"] == "unigram"]
    assert min(counts) == 5


@pytest.mark.parametrize(
    ("changed", "steps"),
    [
        ({"workers": 3, "keep_work": True}, set()),
        ({"min_count": 5}, {"words", "bigrams", "rank bigrams"}),
        ({"min_bigram_count": 5}, {"rank bigrams"}),
        ({"min_views": 5}, {"titles"}),
        ({"size": 50}, {"rank bigrams", "titles"}),
        ({"lang": "de"}, {"encode", "words", "bigrams", "rank bigrams", "page views", "redirects", "titles"}),
    ],
)
def test_each_option_touches_its_own_steps(changed: dict[str, Any], steps: set[str]) -> None:
    folders = []
    for options in ({}, changed):
        config = QueriesConfig(out="q.parquet", wikipedia=("dump",), **options)
        made = job._Steps(config, inputs.Inputs([], [], []), 10, wikipedia.Wiki(), [])
        folders.append({step.label: step.folder for step in [*made.of_dump, *made.of_views]})
    assert {label for label, folder in folders[0].items() if folders[1][label] != folder} == steps


def test_a_size_that_is_too_small_is_told_before_the_dump_is_read(
    tmp_path: Path, sources: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers.EncodeWorker, "run", None)
    with pytest.raises(ValueError, match="make 8 queries; --size must be at least that, not 7"):
        _run(_config(tmp_path, "a", **sources, size=7))


def test_wordnet_alone_makes_a_list(tmp_path: Path) -> None:
    folder = tmp_path / "wordnet"
    folder.mkdir()
    config = QueriesConfig(out=str(tmp_path / "q.parquet"), wordnet=str(write_wordnet(folder)))
    _run(config)
    assert pq.read_table(config.out)["query"].to_pylist() == [
        "able", "breathe", "elect", "entity", "st. petersburg", "w0"
    ]  # fmt: skip


def test_a_dump_without_frequent_words_gives_none(tmp_path: Path, sources: dict[str, Any]) -> None:
    config = _config(tmp_path, "a", wikipedia=sources["wikipedia"], extra=sources["extra"], min_count=1000)
    assert _run(config)["composition"] == {"unigram": 0, "bigram": 0, "title": 0, "wordnet": 0, "extra": 2}


def test_page_views_alone_make_a_list(tmp_path: Path, sources: dict[str, Any]) -> None:
    config = _config(tmp_path, "a", pageviews=sources["pageviews"])
    _run(config)
    assert pq.read_table(config.out)["query"].to_pylist()[:3] == ["Mercury", "NYC", "Misspeltt"]


class _Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]


def test_the_report_is_one_safe_file(tmp_path: Path, sources: dict[str, Any]) -> None:
    config = _config(tmp_path, "a", **sources)
    _run(config)
    text = Path(config.report).read_text()
    page = _Page()
    page.feed(text)
    assert page.tags["svg"] >= 6
    assert not page.tags["script"]
    assert not page.tags["b"]  # the title <b>Bold</b> is text
    assert page.links == []
    with chromium() as browser:
        for width in (1280, 390):
            browser.resize(width)
            browser.open(Path(config.report))
            assert browser.run("document.documentElement.scrollWidth <= innerWidth")
        assert browser.problems() == [] == browser.barriers()
    for expected in (
        "Queries that can never match: <strong>0</strong>",
        "unknown_page",
        "New York City",
        "excluded",
    ):
        assert expected in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no source"),
        ({"extra": ("x",), "size": 0}, "--size must be at least 1"),
        ({"extra": ("x",), "out": "q.csv"}, "must end in .parquet"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueriesConfig(**{"out": "q.parquet", **options})


def test_an_input_that_is_not_there_is_named(tmp_path: Path) -> None:
    config = QueriesConfig(out=str(tmp_path / "q.parquet"), wikipedia=(str(tmp_path / "*.bz2"),))
    with pytest.raises(ValueError, match=r"--wikipedia .*\*\.bz2 matches no file"):
        inputs.find_inputs(config)


def _independent_counts() -> tuple[Counter[str], Counter[tuple[str, str]]]:
    """Count with mwxml and Counter, on the text that `strip` gives."""
    mwxml = pytest.importorskip("mwxml")
    words, pairs = Counter[str](), Counter[tuple[str, str]]()
    with bz2.open(SAMPLE_DUMP) as file:
        for page in mwxml.Dump.from_file(file):
            if page.namespace or page.redirect:
                continue
            for line in wikitext.strip(next(iter(page)).text).split("\n"):
                found = [token if any(c.isalnum() for c in token) else None for token in tokens(line)]
                words.update(token for token in found if token)
                pairs.update((a, b) for a, b in itertools.pairwise(found) if a and b)
    return words, pairs


@pytest.mark.skipif(not SAMPLE_DUMP.exists(), reason="needs the sample data beside the checkout")
def test_counts_of_a_real_dump_equal_an_independent_count(tmp_path: Path) -> None:
    words, pairs = _independent_counts()
    options: dict[str, Any] = {"wordnet": str(WORDNET)} if (WORDNET / "data.noun").exists() else {}
    config = QueriesConfig(
        out=str(tmp_path / "q.parquet"),
        wikipedia=(str(SAMPLE_DUMP),),
        min_count=5,
        min_bigram_count=3,
        **options,
    )
    summary = _run(config)
    rows = pq.read_table(config.out).to_pylist()
    assert {r["query"]: r["count"] for r in rows if r["source"] == "unigram"} == {
        word: count for word, count in words.items() if count >= 5
    }
    total = words.total()
    expected = {
        f"{a} {b}": (count, math.log2(count * total / (words[a] * words[b])))
        for (a, b), count in pairs.items()
        if count >= 3 and words[a] >= 5 and words[b] >= 5 and count * total > words[a] * words[b]
    }
    found = {r["query"]: (r["count"], r["score"]) for r in rows if r["source"] == "bigram"}
    assert found.keys() == expected.keys()
    assert all(found[query][0] == expected[query][0] for query in expected)
    assert max(abs(found[query][1] - expected[query][1]) for query in expected) < 1e-9
    scores = [r["score"] for r in rows if r["source"] == "bigram"]
    assert scores == sorted(scores, reverse=True)
    assert summary["dead"] == 0
    if options:
        names = {r["query"] for r in rows}
        assert sum(r["source"] == "wordnet" for r in rows) > 80_000
        assert {"st. petersburg", ".22 caliber"} <= names  # which MetaCLIP's list cuts to "st" and ""
