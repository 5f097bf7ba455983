"""The options of `openwit queries`. Importing this module needs nothing but the core's packages."""

import os
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import tyro

from pipeline import storage

Paths = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class QueriesConfig:
    """Build the query list: the words, bigrams and article titles of Wikipedia, and WordNet's synsets.

    Each source may be left out. Run the same command again to continue where it stopped.
    """

    COMMON: ClassVar = frozenset(
        {"out", "wikipedia", "pageviews", "wordnet", "size", "lang", "extra", "exclude", "workers", "check"}
    )
    """Options that --help explains."""
    EXAMPLES: ClassVar = (
        "openwit queries --wordnet /usr/share/wordnet --out queries.parquet",
        "openwit queries --wikipedia 'dumps/enwiki-*.xml.bz2' --size 500000 --out queries.parquet",
    )
    """Lines of the help."""

    out: str
    """The list to write, .parquet. Its report (NAME_report.html), its summary (NAME_summary.json) and, while
    the job runs, the folder of intermediate files (NAME.work) lie beside it."""

    wikipedia: Paths = ()
    """Dump files, pages-articles[-multistream].xml.bz2 or .xml: a path or glob, and several times. A
    multistream dump is read in parallel if its index lies beside it. Gives words and bigrams."""

    pageviews: Paths = ()
    """Page-view files, hourly (pageviews-*.gz) or complete (pageviews-*-user.bz2): a path or glob, and
    several times. Gives titles; redirects are resolved, and other pages left out, if the dump is given
    as well."""

    wordnet: str = ""
    """Folder of WordNet's database files (data.noun, data.verb, data.adj, data.adv)."""

    size: int = 500_000
    """How many queries at most. WordNet and --extra are complete; of the rest words have 61%, bigrams 24% and
    titles 15%, as in MetaCLIP's list, and places that a source cannot fill go to the others."""

    lang: str = "en"
    """Language of the Wikipedia, as in de.wikipedia: which page views are read, and how lists and
    disambiguation pages are known."""

    min_count: int = 100
    """How often a word must occur in Wikipedia."""

    min_bigram_count: int = 100
    """How often a bigram must occur; pointwise mutual information alone would rank typing errors first."""

    min_views: int = 70
    """How often an article must have been viewed in the files given, all views added up. MetaCLIP's 70 is of
    another unit: it adds up only hours in which the article had 50 views or more, over 26 days."""

    wordnet_lemmas: Literal["first", "all"] = "first"
    """The first lemma of each synset, which is its name (86,571 in WordNet 3.0), or every lemma (147,306)."""

    extra: Paths = ()
    """Lists of further queries, such as class names: .txt (one per line), .json or .parquet. Always whole."""

    exclude: Paths = ()
    """List of queries to leave out."""

    log_json: str = ""
    """Local file to which progress is appended, a JSON object per line; - is standard output."""

    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes on this machine, up to about 1 GB each; on a cluster Beam's own flags decide."""

    keep_work: bool = False
    """Keep the intermediate files, so that a list with other options need not read the dump again."""

    check: bool = False
    """Find the inputs, print the plan and the effective configuration, and write nothing."""

    def __post_init__(self) -> None:
        if not (self.wikipedia or self.pageviews or self.wordnet or self.extra):
            raise ValueError(
                "no source: give at least one of --wikipedia, --pageviews, --wordnet and --extra"
            )
        if not self.out.endswith(".parquet"):
            raise ValueError(f"--out must end in .parquet, not be {self.out!r}")
        for name in ("size", "min_count", "min_bigram_count", "min_views", "workers"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {getattr(self, name)}")

    def beside(self, ending: str) -> str:
        """Return the path of a file or folder beside the list."""
        return storage.sibling(self.out, ending)

    @property
    def work(self) -> str:
        """Return the folder of the intermediate files."""
        return self.beside(".work")

    @property
    def report(self) -> str:
        """Return the path of the report."""
        from pipeline import querylist  # which imports pyarrow, and --help needs none

        return querylist.report_of(self.out)

    @property
    def summary(self) -> str:
        """Return the path of the summary, which is written last."""
        return self.beside("_summary.json")
