"""Candidates: one piece of a source in, one file of matched caption rows and one of rejected rows out.

The expensive parse is paid here once. Rows leave sorted by (uid, caption_hash), the first half of the URL's
hash, so that later stages read any range of hashes by the Parquet row groups' statistics.
"""

import contextlib
import gc
import itertools
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Final, NamedTuple

import orjson
import pyarrow as pa

from pipeline import querylist, schemas, storage, urls
from pipeline.candidates.parts import JudgedPiece, PieceTask
from pipeline.captions import language
from pipeline.captions.language import NO_PAGE, UNDETERMINED, Identifier, Prior
from pipeline.captions.match import MatchAll, Matcher, Rule, warn_without_module
from pipeline.captions.text import clean, read_caption
from pipeline.http import named
from pipeline.options import FetchOptions, SourceOptions, TextRules
from pipeline.select.workers import few_captions
from pipeline.sources import Image, read
from pipeline.tombstones import Tombstones
from pipeline.tombstones import load as load_tombstones

_BATCH_ROWS = 4096
_CACHE_ENTRIES = 10_000  # that fit into a processor's caches
_LONG_TEXT = 1000  # characters of a text that is not kept
_LIST_IMAGES = 512  # of a list that are read together
_PAGE_IMAGES = 200  # of a page that are looked at together
_OBJECTS = 10_000  # that are made before Python looks for cycles among them

Page = Callable[[], Prior]
"""The language that a caption's page suggests, found when it is first asked for."""


class Verdict(NamedTuple):
    """The verdict on one text: the caption with its matches, or a reason."""

    caption: str
    reason: str
    detail: str
    matched: list[int]
    lang: str
    lang_score: float


_new: Final = tuple.__new__  # of a Verdict: its own takes four times as long


def no_page() -> Prior:
    """Return the prior of a caption that stands alone."""
    return NO_PAGE


class _Text:
    """The facts known of a text."""

    __slots__ = ("caption", "matched", "prior", "reason", "told")

    def __init__(self, caption: str, reason: str) -> None:
        self.caption, self.reason = caption, reason
        self.matched: list[int] | None = None
        """Queries, once they were looked for."""
        self.prior: Prior | None = None
        """Of the last page that asked for the language."""
        self.told: tuple[str, float, float] | None = None
        """The language on that page."""


class CaptionJudge:
    """Clean, filter, match and identify captions; equal texts are read once while the memory lasts.

    The first rule that refuses a caption is its reason. The language is told last, of captions that match:
    it costs more than all the other rules.

    lang: the wanted language, or "any". Without an identifier no language is told.
    """

    def __init__(
        self,
        matcher: Matcher | MatchAll,
        rules: TextRules,
        identifier: Identifier | None,
        lang: str,
        mask: bool,
        empty: bool = False,
    ) -> None:
        self._matcher, self._rules, self._identifier = matcher, rules, identifier
        self._wanted = "" if lang == "any" else language.code_of(lang)
        self._mask, self._empty = mask, empty
        self._known: dict[str, _Text] = {}

    @property
    def without_text(self) -> Verdict:
        """Return the verdict on a row of a list that has no caption."""
        matched = self._matcher.match("") if self._empty else []
        return Verdict("", "" if matched else "no_caption", "", matched, "", 0.0)

    def page(self, images: Sequence[Image]) -> Page:
        """Return the evidence of these images' page about their captions' language."""
        first = images[0]
        alone = len(images) == 1 and len(first.texts) < 2 and not first.page_lang and not first.page_url
        return no_page if self._identifier is None or alone else cache(partial(self._prior, images))

    def _prior(self, images: Sequence[Image]) -> Prior:
        assert self._identifier is not None
        try:
            texts = (text for image in images for _, text in image.texts)
            read = (self._known.get(text) or self._read(text) for text in texts)
            captions = self._identifier.of_page(text.caption for text in read if not text.reason)
            return language.page_prior(images[0].page_lang, images[0].page_url, captions)
        except Exception:  # noqa: BLE001 - the image that cannot be read is counted when its turn comes
            return NO_PAGE

    def read_ahead(self, images: Sequence[Image]) -> None:
        """Read several images' texts, one thing for all, then the next: its tables stay in the caches."""
        texts = dict.fromkeys(text for image in images if not image.reason for _, text in image.texts)
        try:
            fresh = [self._read(text) for text in texts if text not in self._known and len(text) < _LONG_TEXT]
            fresh = [read for read in fresh if not read.reason]
            for read in fresh:
                read.matched = self._matcher.match(read.caption)
            if self._identifier is not None and not images[0].page_url and not images[0].page_lang:
                for read in fresh:
                    if read.matched:
                        read.prior, read.told = NO_PAGE, self._tell(read.caption, NO_PAGE)
        except Exception:  # noqa: BLE001, S110 - the image that cannot be read is counted when its turn comes
            pass

    def judge(self, text: str, page: Page = no_page) -> Verdict:
        """Return the verdict on one text of a page."""
        read = self._known.get(text) or self._read(text)
        if read.reason:
            return Verdict(read.caption, read.reason, "", [], "", 0.0)
        matched = read.matched
        if matched is None:
            matched = read.matched = self._matcher.match(read.caption)
        if not matched:
            return Verdict(read.caption, "no_match", "", [], "", 0.0)
        if self._identifier is None:
            return Verdict(read.caption, "", "", matched, "", 0.0)
        prior, told = page(), read.told
        if told is None or read.prior is not prior:
            told = self._tell(read.caption, prior)
            read.prior, read.told = prior, told
        lang, score, wanted = told
        if self._wanted and wanted < language.IN_USE.improbable:
            return Verdict(read.caption, "language", f"{lang} {score:.4f}", [], lang, score)
        return _new(Verdict, (read.caption, "", "", matched, lang, score))

    def _tell(self, caption: str, prior: Prior) -> tuple[str, float, float]:
        """Return a caption's language, its probability, and the probability of the wanted language."""
        assert self._identifier is not None
        return self._identifier.tell(caption, prior, self._wanted) or (UNDETERMINED, 0.0, 0.0)

    def _read(self, text: str) -> _Text:
        """Return a text as it is when it is first seen, or the first time for long."""
        read = _Text(*read_caption(text, self._rules, self._mask))
        if len(self._known) >= _CACHE_ENTRIES:
            self._known.clear()
        if len(text) < _LONG_TEXT:
            self._known[text] = read
        return read


class PieceTables(NamedTuple):
    """The outcome of one piece: both tables together account for every candidate in it."""

    accepted: pa.Table
    rejected: pa.Table
    images: int
    candidates: int


def refuse_reserved(image: Image) -> Image:
    """Give an image whose page opts out that reason."""
    if image.opt_out and image.reason is None:
        return image._replace(reason="opt_out_page", detail=image.opt_out)
    return image


def without_credentials(image: Image) -> Image:
    """Return the image without a user name or password in its URLs."""
    url, page_url = map(urls.without_credentials, (image.url, image.page_url))
    return image._replace(url=url, page_url=page_url)


def judge_image(
    image: Image,
    source: str,
    judge: CaptionJudge,
    tombstones: Tombstones | None = None,
    page: Page = no_page,
) -> list[tuple[tuple[object, ...], bool]]:
    """Return (row, accepted) for each caption of an image; an image without text is one candidate."""
    if "@" in image.url or "@" in image.page_url:
        image = without_credentials(image)
    if tombstones is not None and (tombstones.has_url(image.url) or tombstones.has_url(image.page_url)):
        return [(_rejected("", Image(""), "", "taken_down", ""), False) for _ in image.texts or [""]]
    url, texts, page_url, kept, why, detail, _, page_lang, rights = image
    reason, uid = why or "", b""
    if not reason:
        try:
            uid = urls.digest(urls.canonical(url))
        except urls.BadUrl as error:
            reason, detail = error.reason, str(error)
    if not reason and not texts:
        reason, detail = "no_caption", ""
    if reason:
        captions = [clean(text) for _, text in texts] or [""]
        return [(_rejected(uid.hex(), image, caption, reason, detail), False) for caption in captions]
    extra = orjson.dumps(kept, option=orjson.OPT_SORT_KEYS).decode() if kept else ""
    rows: list[tuple[tuple[object, ...], bool]] = []
    for kind, text in texts:
        caption, reason, detail, matched, lang, score = judge.judge(text, page)
        if reason == "no_caption" and kind == "caption":
            caption, reason, detail, matched, lang, score = judge.without_text
        if reason:
            rows.append((_rejected(uid.hex(), image, caption, reason, detail), False))
        else:
            number = schemas.caption_hash(caption)
            row = (
                uid, url, caption, number, matched, lang, score, page_lang, page_url, source, extra, rights,
            )  # fmt: skip
            rows.append((row, True))
    return rows


def _rejected(uid: str, image: Image, caption: str, reason: str, detail: str) -> tuple[object, ...]:
    limit = schemas.DETAIL_CHARACTERS
    url = image.url if len(image.url) <= 4096 else image.url[:4096]
    url, page = (text.encode("utf-8", "replace").decode() for text in (url, image.page_url))
    return (uid, url, caption[:8192], page, "candidates", reason, detail[:limit], 1, image.rights)


def judged(
    image: Image, source: str, judge: CaptionJudge, tombstones: Tombstones | None, page: Page
) -> list[tuple[tuple[object, ...], bool]]:
    """Return the rows of `judge_image`; whatever goes wrong becomes their reason."""
    try:
        return judge_image(image, source, judge, tombstones, page)
    except Exception as error:  # noqa: BLE001 - one image must not end a file: it is counted
        detail = f"{type(error).__name__}: {error}"
        captions = [clean(text) for _, text in image.texts] or [""]
        return [(_rejected("", image, text, "internal_error", detail), False) for text in captions]


def _with_pages(images: Iterator[Image], judge: CaptionJudge) -> Iterator[tuple[Image, Page]]:
    """Yield images with the language their page suggests; sources give the images of a page together."""
    for url, group in itertools.groupby(images, operator.attrgetter("page_url")):
        while several := list(itertools.islice(group, _PAGE_IMAGES if url else _LIST_IMAGES)):
            judge.read_ahead(several)
            page = judge.page(several) if url else None
            for image in several:
                if page is None and (image.page_lang or len(image.texts) > 1):
                    yield image, judge.page((image,))
                else:
                    yield image, page or no_page


def judge_piece(
    images: Iterator[Image],
    source: str,
    judge: CaptionJudge,
    max_captions: int,
    tombstones: Tombstones | None = None,
) -> PieceTables:
    """Return the tables of a piece; within it, captions are already deduplicated and capped."""
    rows: dict[bool, list[tuple[object, ...]]] = {True: [], False: []}
    columns = {True: schemas.CAPTION_ROWS, False: schemas.REJECTED_ROWS}
    tables: dict[bool, list[pa.Table]] = {True: [], False: []}
    seen, tombstones = 0, tombstones or None
    for image, page in _with_pages(images, judge):
        seen += 1
        for row, accepted in judged(image, source, judge, tombstones, page):
            rows[accepted].append(row)
            if len(rows[accepted]) >= _BATCH_ROWS:
                tables[accepted].append(schemas.to_table(rows[accepted], columns[accepted]))
                rows[accepted].clear()
    for accepted, rest in rows.items():
        tables[accepted].append(schemas.to_table(rest, columns[accepted]))
    accepted_rows, rejected_rows = pa.concat_tables(tables[True]), pa.concat_tables(tables[False])
    candidates = len(accepted_rows) + len(rejected_rows)
    # One URL of the web has nine million captions: bounded here, before anything is combined.
    kept, over = few_captions(schemas.sort_rows(accepted_rows), max_captions)
    return PieceTables(kept, pa.concat_tables([rejected_rows, over]), seen, candidates)


@contextlib.contextmanager
def _rare_collections() -> Iterator[None]:
    """Let Python look for cycles a tenth as often: there are many rows, which hold none."""
    before = gc.get_threshold()
    gc.set_threshold(_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


class _State:
    def __init__(self, judge: CaptionJudge, tombstones: Tombstones) -> None:
        self.judge, self.tombstones = judge, tombstones


@dataclass(frozen=True, kw_only=True)
class CandidatesWorker:
    """Run one piece: read, judge, write."""

    folder: str
    queries: str
    sources: SourceOptions
    formats: tuple[str, ...]
    rules: TextRules
    lang: str
    mask: bool
    max_captions: int
    root: str
    """Folder of the run, whose tombstones are honoured."""
    honour_pages: bool = True
    fetch: FetchOptions = field(default_factory=FetchOptions)
    """How sources at http(s) URLs are read."""
    rule: Rule = "openwit"

    def open(self) -> _State:
        """Load the matcher and the language model, once a process."""
        named.configure(self.fetch)
        identifier = Identifier()
        queries = querylist.load(self.queries)
        warn_without_module()
        matcher = MatchAll() if queries == querylist.EVERYTHING else Matcher(queries, self.rule)
        judge = CaptionJudge(
            matcher, self.rules, identifier, self.lang, self.mask, self.sources.empty_captions
        )
        return _State(judge, load_tombstones(self.root))

    def run(self, state: _State, task: PieceTask) -> JudgedPiece:
        """Write NAME.parquet and NAME.rejected.parquet."""
        images = read(task.piece, self.sources, self.formats)
        if self.honour_pages:
            images = map(refuse_reserved, images)
        with _rare_collections():
            tables = judge_piece(images, task.piece.source, state.judge, self.max_captions, state.tombstones)
        base = storage.join(self.folder, task.name)
        schemas.write_table(f"{base}.parquet", tables.accepted)
        schemas.write_table(f"{base}.rejected.parquet", tables.rejected)
        return JudgedPiece(
            name=task.name, path=f"{base}.parquet", rejects=f"{base}.rejected.parquet",
            rows=len(tables.accepted), images=tables.images, candidates=tables.candidates,
            rejected=schemas.count_reasons(tables.rejected),
        )  # fmt: skip
