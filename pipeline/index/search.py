"""Ask an index: pages of samples and rejects by text, query and facets; queries, sites, one sample."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline import balance, storage
from pipeline.index.pages import MOST, SECONDS, Pages
from pipeline.index.query_list import rank_terms


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

    def ranked(self, query: int, offset: int, limit: int) -> list[dict[str, Any]]:
        """Return samples of a query in the order in which it takes them, with priority in 0..1 and kept.

        A query keeps the samples whose h(seed, uid, query) is at most its threshold; the others are there for
        the sake of other queries. Samples are tagged by the first bits of that number, so that those of a
        page are a few short lists.
        """
        row = self.db.execute("SELECT hash, threshold FROM queries WHERE id = ?", (query,)).fetchone()
        if row is None:
            return []
        threshold = None if row["threshold"] is None else int.from_bytes(row["threshold"], "big")
        before, count, tags = 0, 0, list[str]()
        with self.within(SECONDS):
            for tag, samples in self.db.execute(
                "SELECT term, doc FROM samples_terms WHERE col = 'tags' AND term >= ? AND term < ?",
                rank_terms(query),
            ):
                if not tags and before + samples <= offset:
                    before += samples
                    continue
                tags.append(f'"{tag}"')
                count += samples
                if before + count >= offset + limit:
                    break
            if not tags:
                return []
            own = self.db.execute(
                "SELECT rowid FROM samples_text WHERE samples_text MATCH ?",
                (f"tags : ({' OR '.join(tags)})",),
            )
            found = self.by_ids([one[0] for one in own])
        uids = np.array([int(one["uid"][:16], 16) for one in found], np.uint64)
        hashed = np.full(len(found), int.from_bytes(row["hash"], "big"), np.uint64)
        priority = balance.priorities(uids, hashed).tolist()
        order = sorted(range(len(found)), key=lambda n: (priority[n], found[n]["id"]))
        return [
            found[n]
            | {"priority": priority[n] / 2**64, "kept": threshold is None or priority[n] <= threshold}
            for n in order[offset - before : offset - before + limit]
        ]

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
