"""The answers of `openwit browse`: what a request asks for, which goes out as JSON or as a picture."""

import itertools
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from pipeline import status, storage, untrusted
from pipeline.browse import arrived, saved
from pipeline.browse.pairs import Pairs
from pipeline.captions.contacts import mask
from pipeline.index.pages import MOST
from pipeline.index.place import Dataset
from pipeline.index.question import Filter
from pipeline.index.search import Search
from pipeline.index.tables import FACETS

if TYPE_CHECKING:
    from pipeline.browse.semantic import Semantic
    from pipeline.index.vectors import Found

LIMIT: Final = 60
"""Samples of a page that is asked for without a number."""
_ARRIVED: Final = 48
_TROUBLED: Final = 10  # sites
_LIMIT: Final = ("limit", LIMIT)
_PAGING: Final = (("offset", 0), _LIMIT)
_FOLLOWING: Final = (("after", 0), _LIMIT)
_HIDDEN: Final = (
    "id", "tags", "suffix", "offset", "length", "json_offset", "json_length", "shard"
)  # fmt: skip


class Answers:
    """What is known of one dataset; ValueError for a question that is none, LookupError for an absence."""

    def __init__(
        self, of: Dataset, path: Path | None, *,
        overlaps: Sequence[Pairs] = (), semantic: "Semantic | None" = None, mask: bool = True,
    ) -> None:  # fmt: skip
        self._of, self._path, self._mask = of, path, mask
        self._overlaps, self._semantic = overlaps, semantic
        self._local = threading.local()
        self._arrived: dict[str, arrived.Place] = {}

    @property
    def _search(self) -> Search:
        """Return this thread's connection to the index; LookupError if there is none yet."""
        if self._path is None:
            raise LookupError("there is no index yet: the crawl is under way")
        found = getattr(self._local, "search", None)
        if found is None:
            found = self._local.search = Search(self._path)
        assert isinstance(found, Search), "this thread's own"
        return found

    def info(self, request: web.Request) -> dict[str, Any]:
        """Return the facts about the dataset that the page needs."""
        del request
        is_run = self._of.layout is not None
        if self._path is None:
            return {"name": self._of.name, "is_run": is_run, "is_indexed": False, "numbers": []}
        search = self._search
        kinds = [kind for kind in (*FACETS, "reason", "stage") if self._has(kind)]
        return {
            "name": self._of.name, "is_run": is_run, "is_indexed": True, "facets": kinds,
            "samples": search.page(Filter(), 0).total, "numbers": search.numbers,
            "rejects": search.page(Filter(), 0, table="rejects").total,
            "queries": bool(search.queries("", 1)), "stars": bool(search.stars(0, 1)),
            "overlaps": len(self._overlaps), "semantic": self._semantic is not None,
        }  # fmt: skip

    def _has(self, kind: str) -> bool:
        search = self._search
        return bool(search.facets(kind, 1) or search.facets(kind, 1, "rejects"))

    def samples(self, request: web.Request) -> dict[str, Any]:
        """Return a page of samples, or of rejected rows where a reason, or rejected=1, is asked for.

        The next is asked for with its `next` as `after`; it is 0 on the last.
        """
        wanted = self._filter(request.query)
        table = "rejects" if {"reason", "stage", "rejected"} & set(request.query) else "samples"
        after, limit = (_whole(request.query.get(name), default) for name, default in _FOLLOWING)
        if request.query.get("count"):
            page = self._search.count(wanted, table)
        else:
            page = self._search.page(wanted, limit, after, table)
        show = self._rejected if table == "rejects" else self._shown
        return {
            "total": page.total, "is_exact": page.is_exact, "next": page.next,
            "samples": [show(row) for row in page.rows],
        }  # fmt: skip

    def _filter(self, given: Any) -> Filter:
        """Return the filter of a request's parameters; ValueError for anything that is none."""
        query, number = given.get("query", ""), None
        if query:
            number = self._search.query_number(query)
            if number is None:
                raise ValueError(f"no query is called {query!r}")
        bounds: dict[str, dict[str, float]] = {"min_": {}, "max_": {}}
        for name, value in given.items():
            if name[:4] in bounds and value:
                bounds[name[:4]][name[4:]] = _real(name, value)
        kinds = (*FACETS, "reason", "stage")
        return Filter(
            text=given.get("q", ""), query=number, sort=given.get("sort", ""),
            facets={kind: given[kind] for kind in kinds if given.get(kind)},
            least=bounds["min_"], most=bounds["max_"],
        )  # fmt: skip

    def sample(self, request: web.Request) -> dict[str, Any]:
        """Return everything known of one sample: its KEY.json, its queries, the samples merged into it."""
        uid = request.match_info["uid"]
        row = self._search.sample(uid)
        rejected = [self._rejected(one) for one in self._search.rejects_of(uid)]
        if row is None:
            if not rejected:
                raise LookupError("no such sample")
            return {"uid": uid, "rejected": rejected}
        stored: dict[str, Any] = {}
        if row["json_length"]:
            try:
                stored = self._shown(untrusted.parse_row(self._bytes(row, "json_")))
            except (ValueError, FileNotFoundError):  # of a shard that is gone
                stored = {}
        numbers = [int(tag[1:]) for tag in row["tags"].split() if tag[0] == "q"]
        kept = set(stored.get("query_ids") or [])
        queries = [one | {"keeps": one["id"] in kept} for one in self._search.queries_of(numbers[:MOST])]
        return {
            **self._shown(row), "shard": self._search.shard(row["shard"]),
            "stored": stored, "queries": queries, "rejected": rejected,
        }  # fmt: skip

    def _bytes(self, row: dict[str, Any], part: str = "") -> bytes:
        return storage.read_ranges([self._search.place(row, part)])[0]

    def _stored(self, request: web.Request) -> bytes | None:
        row = self._search.sample(request.match_info["uid"])
        return None if row is None else self._bytes(row)

    def _staged(self, request: web.Request) -> bytes | None:
        place = self._search.staged(request.match_info["uid"])
        return None if place is None else arrived.picture(place)

    def _fetched(self, request: web.Request) -> bytes | None:
        place = self._arrived.get(request.match_info["uid"])
        return None if place is None else arrived.picture(place)

    def _example(self, request: web.Request) -> bytes | None:
        given = request.query
        return self._report(request).picture(given.get("dataset", ""), given.get("example", ""))

    def _report(self, request: web.Request) -> Pairs:
        number = _whole(request.match_info["report"], 0)
        if number >= len(self._overlaps):
            raise LookupError("no such report")
        return self._overlaps[number]

    def overlaps(self, request: web.Request) -> list[dict[str, Any]]:
        """Return each overlap report's sets, with their pairs by similarity."""
        del request
        return [{"folder": one.folder, "sets": one.sets()} for one in self._overlaps]

    def pairs(self, request: web.Request) -> dict[str, Any]:
        """Return pairs of a set of a report, from a similarity downwards."""
        given = request.query
        offset, limit = (_whole(given.get(name), default) for name, default in _PAGING)
        most = _real("most", given.get("most") or "1")
        before = _whole(given.get("before"), 0)
        page = self._report(request).page(given.get("dataset", ""), most, before, offset, min(limit, MOST))
        return page | {"pairs": [self._shown(pair) for pair in page["pairs"]]}

    def stars(self, request: web.Request) -> list[list[dict[str, Any]]]:
        """Return groups of pictures that look alike, the largest first."""
        offset, limit = (_whole(request.query.get(name), default) for name, default in _PAGING)
        return [[self._shown(row) for row in group] for group in self._search.stars(offset, min(limit, 50))]

    def similar(self, request: web.Request) -> dict[str, Any]:
        """Return a page of the samples that a text describes best, or that look most like a sample."""
        given, model = request.query, self._model()
        offset, limit = (_whole(given.get(name), default) for name, default in _PAGING)
        if text := given.get("text", "").strip():
            return self._ranked(model.by_text(text, offset + limit)[offset:])
        row = self._search.sample(given.get("uid", ""))
        if row is None:
            raise LookupError("no such sample")
        return self._ranked(model.by_picture(self._bytes(row), offset + limit)[offset:])

    def _model(self) -> "Semantic":
        if self._semantic is None:
            raise LookupError("openwit browse was started without --checkpoint")
        return self._semantic

    def _ranked(self, found: "list[Found]") -> dict[str, Any]:
        rows = {row["uid"]: self._shown(row) for row in self._search.by_uids([one.uid for one in found])}
        samples = [rows[one.uid] | {"similarity": one.similarity} for one in found if one.uid in rows]
        return {"samples": samples}

    def facets(self, request: web.Request) -> list[dict[str, Any]]:
        """Return the commonest values of a facet, or those that begin with q."""
        given = request.query
        table = "rejects" if given.get("of") == "rejects" else "samples"
        limit = _whole(given.get("limit"), LIMIT)
        return self._search.facets(given.get("kind", ""), limit, table, given.get("q", ""))

    def queries(self, request: web.Request) -> list[dict[str, Any]]:
        """Return queries by their words."""
        given = request.query
        offset, limit = (_whole(given.get(name), default) for name, default in _PAGING)
        return self._search.queries(given.get("q", ""), limit, offset, given.get("sort") or "-kept")

    def query(self, request: web.Request) -> dict[str, Any]:
        """Return a query, and a page of its samples by priority: first those that it keeps.

        The next is asked for with its `next` as `after`; it is 0 on the last.
        """
        number = self._search.query_number(request.match_info["query"])
        if number is None:
            raise LookupError("no such query")
        after, limit = (_whole(request.query.get(name), default) for name, default in _FOLLOWING)
        found = self._search.queries_of([number])[0]
        page = self._search.ranked(number, min(limit, MOST), after)
        return {
            "query": found, "total": page.total, "kept": found["kept"], "next": page.next,
            "samples": [self._shown(row) for row in page.rows],
        }  # fmt: skip

    def histogram(self, request: web.Request) -> list[tuple[float, int]]:
        """Return the distribution of a numeric column."""
        return self._search.histogram(request.query.get("column", ""))

    def live(self, request: web.Request) -> dict[str, Any]:
        """Return how far the crawl is, as `openwit status --json` prints it."""
        del request
        if self._of.layout is None:
            raise LookupError("not a run of openwit")
        return status.state_of(self._of.name, time.time())

    def arrived(self, request: web.Request) -> list[dict[str, Any]]:
        """Return the last pictures that the crawl has fetched, the newest first."""
        del request
        if self._of.layout is None:
            raise LookupError("not a run of openwit")
        found = arrived.newest(self._of.name, _ARRIVED)
        self._arrived = {known["uid"]: place for known, place in found}
        return [known for known, _ in found]

    def troubled(self, request: web.Request) -> list[dict[str, Any]]:
        """Return the sites of a crawl that failed most often in the last minutes."""
        del request
        return arrived.troubled(self._of.name, _TROUBLED) if self._of.layout is not None else []

    @property
    def _folder(self) -> str:
        """Return the folder in which browse writes: the run's own, else the folder it was started in."""
        return self._of.name if self._of.layout is not None else "."

    def export(self, given: dict[str, Any]) -> dict[str, Any]:
        """Write the samples of a selection or filter: a list of uids, or with form="webdataset" a shard."""
        name, uids = saved.check_name(given.get("name")), given.get("uids")
        if uids is not None and not (isinstance(uids, list) and all(isinstance(uid, str) for uid in uids)):
            raise ValueError("uids is a list of strings")
        if uids is None:
            filters = {key: value for key, value in given.items() if isinstance(value, str)}
            uids = self._search.uids(self._filter(filters))
        if given.get("form") == "webdataset":
            some = list(itertools.islice(uids, saved.MOST + 1))
            return saved.write_webdataset(self._folder, name, some, self._search)
        return saved.write_list(self._folder, name, uids)

    def views(self, request: web.Request) -> dict[str, str]:
        """Return the saved views."""
        del request
        return saved.views(self._folder)

    def save_view(self, given: dict[str, Any]) -> dict[str, str]:
        """Save a view under a name."""
        return saved.save_view(self._folder, saved.check_name(given.get("name")), given.get("view"))

    def _rejected(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a rejected row, and the place of its picture: in the run, or among the kept pictures."""
        shown = self._shown(row)
        if row["reason"] == "merged_into" and self._search.sample(row["detail"]) is not None:
            return shown | {"picture": f"api/image/{row['detail']}"}
        is_staged = self._search.staged(row["uid"]) is not None
        return shown | ({"picture": f"api/staged/{row['uid']}"} if is_staged else {})

    def _shown(self, row: dict[str, Any]) -> dict[str, Any]:
        """Return a row without the things that only the server needs, and without contact data."""
        found = {name: value for name, value in row.items() if name not in _HIDDEN}
        if self._mask:
            for name in ("caption", "detail"):
                if isinstance(text := found.get(name), str):
                    found[name] = mask(text)
            if isinstance(texts := found.get("captions"), list):
                found["captions"] = [mask(text) for text in texts if isinstance(text, str)]
        return found


def _whole(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdigit() or len(text) > 15:
        raise ValueError("offset, after and limit are whole numbers")
    return int(text)


def _real(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} is not a number") from None
