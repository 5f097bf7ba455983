"""Ask an index: pages of samples and rejects by text, query and facets; queries, sites, one sample."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pipeline import balance, storage
from pipeline.index.pages import MOST, SECONDS, Pages
from pipeline.index.query_list import rank_of, rank_terms
from pipeline.index.walk import Page

_SORTED: Final = 200  # samples of a query whose rows are read for a page: 1.7 MB of ten million
_RANK: Final = 1 << 32  # places in a query's order for each rank, of which every sample takes one


class Search(Pages):
    """An index that is open for reading; for one thread."""

    def facets(self, kind: str, limit: int, table: str = "samples", like: str = "") -> list[dict[str, Any]]:
        """Return the commonest values of a facet with their counts, or those that begin with a text."""
        assert table in ("samples", "rejects")
        rows = self.db.execute(
            f"SELECT value, samples, rejects FROM facets WHERE kind = ? AND {table} > 0 AND "
            f"value >= ? AND value < ? ORDER BY {table} DESC, value LIMIT ?",
            (kind, like, like + "\U0010ffff", min(limit, 10 * MOST)),
        )
        return [dict(row) for row in rows]

    def sample(self, uid: str) -> dict[str, Any] | None:
        """Return a sample's row, or None."""
        row = self.db.execute("SELECT * FROM samples WHERE uid = ?", (uid,)).fetchone()
        return {name: row[name] for name in row.keys() if name != "phash"} if row else None  # noqa: SIM118

    def by_uids(self, uids: Sequence[str]) -> list[dict[str, Any]]:
        """Return samples in the order of their uids as given; those that are missing are left out."""
        marks = ", ".join("?" * len(uids))
        rows = self.db.execute(
            f"SELECT {self.columns('samples')} FROM samples WHERE uid IN ({marks})", list(uids)
        )
        found = {row["uid"]: dict(row) for row in rows}
        return [found[uid] for uid in uids if uid in found]

    def all_uids(self) -> npt.NDArray[np.bytes_]:
        """Return the uids of all samples, S32 [n]."""
        count = int(self.meta("samples") or 0)
        rows = self.db.execute("SELECT uid FROM samples")
        return np.fromiter((row[0].encode() for row in rows), "S32", count)

    def pictures(self, uids: Sequence[str]) -> list[bytes]:
        """Return the stored pictures of samples, in the order of their uids; b"" for anything that is
        missing."""
        rows = {row["uid"]: row for row in self.by_uids(uids)}
        known = [uid for uid in uids if uid in rows]
        found = storage.read_ranges([self.place(rows[uid]) for uid in known])
        data = dict(zip(known, found, strict=True))
        return [data.get(uid, b"") for uid in uids]

    def place(self, row: Mapping[str, Any], part: str = "") -> tuple[str, int, int]:
        """Return path, start and end of a sample's picture, or of its part "json_"."""
        start = row[f"{part}offset"]
        return self.shard(row["shard"]), start, start + row[f"{part}length"]

    def staged(self, uid: str) -> tuple[str, int, int] | None:
        """Return path, start and end of a picture that was fetched but is not in the set, if it is kept."""
        row = self.db.execute("SELECT path, start, length FROM staged WHERE uid = ?", (uid,)).fetchone()
        return None if row is None else (row["path"], row["start"], row["start"] + row["length"])

    def shard(self, number: int) -> str:
        """Return a shard's path."""
        return str(self.db.execute("SELECT path FROM shards WHERE id = ?", (number,)).fetchone()["path"])

    def queries_of(self, numbers: Sequence[int]) -> list[dict[str, Any]]:
        """Return rows of the query list by their numbers."""
        marks = ", ".join("?" * len(numbers))
        rows = self.db.execute(
            f"SELECT id, query, matched, kept, present, short FROM queries WHERE id IN ({marks})",
            list(numbers),
        )
        return [dict(row) for row in rows]

    def queries(self, text: str, limit: int, offset: int = 0, sort: str = "-kept") -> list[dict[str, Any]]:
        """Return queries that have words beginning with those of a text, or all."""
        column = sort.removeprefix("-")
        if column not in ("kept", "matched", "present", "short", "query", "id"):
            raise ValueError(f"cannot sort queries by {column}")
        words = " AND ".join(f'"{word}"*' for word in re.findall(r"\w+", text))
        given: list[Any] = [*([words] if words else []), min(limit, MOST), offset]
        found = "SELECT rowid FROM queries_text WHERE queries_text MATCH ?"
        if words and sort == "-kept":  # as they stand in the full-text table
            statement = f"WHERE place IN ({found} ORDER BY rowid LIMIT ? OFFSET ?) ORDER BY place"
        else:
            order = (
                "place" if sort == "-kept" else f"{column} {'DESC' if sort.startswith('-') else 'ASC'}, id"
            )
            where = f"WHERE place IN ({found})" if words else ""
            statement = f"{where} ORDER BY {order} LIMIT ? OFFSET ?"
        with self.within(SECONDS):
            rows = self.db.execute(
                f"SELECT id, query, matched, kept, present, short FROM queries {statement}", given
            ).fetchall()
        return [dict(row) for row in rows]

    def query_number(self, query: str) -> int | None:
        """Return the number of a query by its text or number, or None."""
        if query.isdigit():
            row = self.db.execute("SELECT id FROM queries WHERE id = ?", (int(query),)).fetchone()
            if row:
                return int(row["id"])
        row = self.db.execute("SELECT id FROM queries WHERE query = ?", (query,)).fetchone()
        return int(row["id"]) if row else None

    def ranked(self, query: int, limit: int, after: int = 0) -> Page:
        """Return a page of samples of a query in the order in which it takes them, with priority and kept.

        after: `next` of the page before. A query keeps the samples whose h(seed, uid, query), 0..1, is at
        most its threshold; the others are there for the sake of other queries. Samples are tagged by the
        first bits of that number, so that those of a page are a few short lists. A list of more than 200, as
        there are after a query's first 200,000 samples, stays in the order of the set: to sort it all of its
        rows would have to be read.
        """
        row = self.db.execute(
            "SELECT hash, threshold, present FROM queries WHERE id = ?", (query,)
        ).fetchone()
        if row is None:
            return Page([], 0, True)
        threshold = None if row["threshold"] is None else int.from_bytes(row["threshold"], "big")
        rank, place = divmod(after, _RANK)
        before, count, follows = dict[str, int](), 0, 0
        with self.within(SECONDS):
            for tag, samples in self.tuples(
                "SELECT term, doc FROM samples_terms WHERE col = 'tags' AND term >= ? AND term < ?",
                rank_terms(query, rank),
            ):
                if count >= place + limit or (before and count + samples > _SORTED):
                    follows = _RANK * rank_of(tag)
                    break
                before[tag] = count
                count += samples
            if not before:
                return Page([], row["present"], True, follows)
            statement = "SELECT rowid FROM samples_text WHERE samples_text MATCH ? ORDER BY rowid"
            ids = [one[0] for one in self.tuples(statement, [f"tags : ({' OR '.join(before)})"])]
            shown = slice(place, place + limit)
            found = self.by_ids(ids[shown] if count > _SORTED else ids)
        uids = np.array([int(one["uid"][:16], 16) for one in found], np.uint64)
        hashed = np.full(len(found), int.from_bytes(row["hash"], "big"), np.uint64)
        priority = balance.priorities(uids, hashed)
        order = np.arange(len(found)) if count > _SORTED else np.argsort(priority, kind="stable")[shown]
        if (end := place + len(order)) < count:
            tag, first = [one for one in before.items() if one[1] <= end][-1]
            follows = _RANK * rank_of(tag) + end - first
        rows = [
            found[n] | {"priority": own / 2**64, "kept": threshold is None or own <= threshold}
            for n, own in zip(order.tolist(), priority[order].tolist(), strict=True)
        ]
        return Page(rows, row["present"], True, follows)

    def rejects_of(self, uid: str) -> list[dict[str, Any]]:
        """Return the rejected rows of an image, and those that were merged into it."""
        columns = self.columns("rejects")
        rows = self.db.execute(
            f"SELECT {columns} FROM rejects WHERE uid = ? UNION ALL "
            f"SELECT {columns} FROM rejects WHERE reason = 'merged_into' AND detail = ? LIMIT ?",
            (uid, uid, MOST),
        )
        return [dict(row) for row in rows]

    def histogram(self, column: str) -> list[tuple[float, int]]:
        """Return (lower bound, samples) of equal bins between a column's least and largest value."""
        if column not in self.numbers:
            raise ValueError(f"there is no column {column}")
        return [(low, count) for low, count in json.loads(self.meta("histograms")).get(column, [])]

    def stars(self, offset: int, limit: int) -> list[list[dict[str, Any]]]:
        """Return groups of pictures that look alike, the largest first, as samples with their distance."""
        groups = self.db.execute(
            "SELECT star, count(*) AS members FROM near GROUP BY star ORDER BY members DESC, star "
            "LIMIT ? OFFSET ?",
            (min(limit, MOST), offset),
        ).fetchall()
        found = []
        for group in groups:
            members = self.db.execute(
                "SELECT sample, distance FROM near WHERE star = ? ORDER BY distance, sample LIMIT ?",
                (group["star"], MOST),
            ).fetchall()
            rows = {row["id"]: row for row in self.by_ids([one["sample"] for one in members])}
            found.append(
                [rows[one["sample"]] | {"distance": one["distance"], "members": group["members"]}
                 for one in members if one["sample"] in rows]
            )  # fmt: skip
        return found
