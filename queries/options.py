"""The options of `openwit queries`."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class QueriesConfig:
    """Build the query list: the words, bigrams and article titles of Wikipedia, and WordNet's synsets."""

    out: str
    """The list to write, .parquet. The report goes beside it (queries_report.html), and so does the folder of
    intermediate files (queries.work), which is removed at the end."""

    wikipedia: tuple[str, ...] = ()
    """Dump files, pages-articles[-multistream].xml.bz2 or .xml, as paths or globs. A multistream dump is read
    in
    parallel if its index (pages-articles-multistream-index.txt.bz2) lies beside it. Gives words and
    bigrams."""

    pageviews: tuple[str, ...] = ()
    """Page-view files, hourly (pageviews-*.gz) or complete (pageviews-*-user.bz2), as paths or globs. Gives
    titles;
    their redirects are resolved if the dump is given as well."""

    wordnet: str | None = None
    """The folder of WordNet's database files (data.noun, data.verb, data.adj, data.adv)."""

    size: int = 500_000
    """How many queries at most."""

    lang: str = "en"
    """The language of the Wikipedia in page views (de for de.wikipedia), and whose marks of lists and
    disambiguation pages are looked for."""

    min_count: int = 100
    """How often a word must occur in Wikipedia."""

    min_bigram_count: int = 100
    """How often a bigram must occur. Pointwise mutual information alone would rank typing errors first."""

    min_views: int = 70
    """How often an article must have been viewed in the files given."""

    wordnet_lemmas: Literal["first", "all"] = "first"
    """The first lemma of each synset, which is its name (86,571 in WordNet 3.0), or every lemma (147,306)."""

    extra: tuple[str, ...] = ()
    """Lists of further queries, such as class names: .txt, one a line, .json or .parquet. Always complete."""

    exclude: tuple[str, ...] = ()
    """Lists of queries to leave out."""

    workers: int = 0
    """Local worker processes; 0 for one a core. On a cluster the runner's own flags decide."""

    keep_work: bool = False
    """Keep the intermediate files, so that another --size or --min-count need not read the dump again."""

    check: bool = False
    """Find the inputs, print the plan, and write nothing."""

    def __post_init__(self) -> None:
        if not (self.wikipedia or self.pageviews or self.wordnet or self.extra):
            raise ValueError(
                "no source: give at least one of --wikipedia, --pageviews, --wordnet and --extra"
            )
        if not self.out.endswith(".parquet"):
            raise ValueError(f"--out must end in .parquet, not be {self.out!r}")
        for name in ("size", "min_count", "min_bigram_count", "min_views"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")
        if self.workers < 0:
            raise ValueError(f"--workers must be 0 or more, not {self.workers}")

    @property
    def work(self) -> str:
        """Return the folder of the intermediate files."""
        return f"{self.out.removesuffix('.parquet')}.work"

    @property
    def report(self) -> str:
        """Return the path of the report."""
        return f"{self.out.removesuffix('.parquet')}_report.html"

    @property
    def summary(self) -> str:
        """Return the path of the summary, which is written last."""
        return f"{self.out.removesuffix('.parquet')}_summary.json"
