"""`openwit browse` at several sizes: the cost of its index, and the time of its pages.

    python -m bench.browse --rows 1000000 10000000
    python -m bench.browse --rows 10000000 --keep FOLDER   # goes on where it was stopped, and stays
    python -m bench.browse --rows --store 100000       # index and pictures in an S3 server of this machine
    python -m bench.browse --rows --store 1000000 --keep FOLDER   # with the index of --rows 1000000 --keep
    python -m bench.browse --rows 1000000 --fresh     # each page to a connection that has read nothing
    python -m bench.browse --rows 1000000 --random 1000    # the pages of random questions, and the worst
    python -m bench.browse --rows 1000000 --peers     # duckdb and tantivy beside SQLite's FTS5, if installed
    python -m bench.browse --rows --datasets 100000    # the datasets library beside
    python -m bench.browse --rows --vectors 100000 --graph    # search by meaning, usearch beside if installed

Rows are of the shape of a crawl's: ten Zipf-distributed words per caption, seven queries, sites with a heavy
tail; the pictures are those of one small tar. Pages are asked for over HTTP, of a process of its own (the
system's cache is warm): the median and the slowest of twenty each, the mean and the most of that process's
reads, which repeat little of an answer that it has given before, and its memory.
"""

import argparse
import contextlib
import functools
import importlib
import json
import os
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import parse_qsl, urlencode

import numpy as np

from bench import browse_random
from pipeline import balance, storage
from pipeline.browse.guard import Guard
from pipeline.browse.server import Server
from pipeline.index import foreign, query_list
from pipeline.index.offsets import Place, places
from pipeline.index.place import Dataset
from pipeline.index.question import Filter
from pipeline.index.search import Search
from pipeline.index.tables import SAMPLE_COLUMNS, Index, Source, finish
from pipeline.index.vectors import Vectors
from pipeline.shards import Sample, write_shard
from tests import s3
from tests.scenes import jpeg, scene

QUERIES, WORDS, VOCABULARY = 50_000, 10, 200_000
DUCK = "8GB"  # of memory that duckdb may take; the rest goes to files
LARGEST = 200 << 20  # bytes of a file in the S3 server of the tests
PAGES = {
    "first page": "/api/samples?limit=60",
    "page 100,000 on": "/api/samples?limit=60&after=100000",
    "two words": "/api/samples?limit=60&q=word40+word7",
    "a common word": "/api/samples?limit=60&q=word1",
    "a phrase": "/api/samples?limit=60&q=%22word3+word2%22",
    "a site": "/api/samples?limit=60&site=site7.example",
    "a query": "/api/samples?limit=60&query=query+100",
    "a query by hash": "/api/query/100?limit=60",
    "a long one, 6,000 on": "/api/query/20?limit=60&rows=6000",
    "its last tenth": f"/api/query/20?limit=60&after={(53 << 10 | 820) << 32}",
    "word, site, size": "/api/samples?limit=60&q=word2&site=site3.example&min_width=300",
    "largest first": "/api/samples?limit=60&sort=-width",
    "sites": "/api/facets?kind=site",
    "queries": "/api/queries?q=quer",
    "a histogram": "/api/histogram?column=width",
    "a common word, largest": "/api/samples?limit=60&q=word2&sort=-width",
    "a word, largest": "/api/samples?limit=60&q=word40&sort=-width",
    "a rare word, largest": "/api/samples?limit=60&q=word1000&sort=-width",
    "its page 1,200 on": "/api/samples?limit=60&rows=1200&q=word40&sort=-width",
    "a word, narrow sizes": "/api/samples?limit=60&q=word7&min_width=1990&max_width=1995",
    "narrow sizes": "/api/samples?limit=60&min_width=1990&max_width=1995",
    "a middle, by height": "/api/samples?limit=60&min_width=900&max_width=905&sort=-height",
    "a phrase, largest": "/api/samples?limit=60&q=%22word3+word2%22&sort=-width",
    "its next page": "/api/samples?limit=60&rows=60&q=%22word3+word2%22&sort=-width",
    "wide sizes, by height": "/api/samples?limit=60&min_width=500&sort=-height",
    "narrow, by height": "/api/samples?limit=60&min_width=1990&sort=-height",
    "its page 1,200 on, too": "/api/samples?limit=60&rows=1200&min_width=1990&sort=-height",
    "a cut that all pass": "/api/samples?limit=60&min_bytes=1&q=word7&sort=-width",
    "200 samples": "/api/samples?limit=200&q=word40+word7&sort=-width",
    "the count of two words": "/api/samples?limit=0&count=1&q=word40+word7",
    "the count of a word": "/api/samples?limit=0&count=1&q=word1",
}


@functools.cache
def query_hashes() -> balance.U64:
    """Return the hashes of the queries, uint64 [Q]."""
    return balance.query_hashes([f"query {n}" for n in range(QUERIES)], 0)


def rows(count: int, found: Sequence[tuple[str, Place]], seed: int = 0) -> Iterator[list[object]]:
    """Yield the columns of samples, without tags: uid, key ... height, site, queries and their ranks."""
    hashes = query_hashes()
    rng = np.random.default_rng(seed)
    vocabulary = np.array([f"word{n}" for n in range(VOCABULARY + 1)], object)
    for start in range(0, count, 10_000):
        n = min(10_000, count - start)
        words = vocabulary[np.minimum(rng.zipf(1.2, (n, WORDS)), VOCABULARY)].tolist()
        queries = np.minimum(rng.zipf(1.3, (n, 7)), QUERIES) - 1
        sites = np.minimum(rng.zipf(1.4, n), 1_000_000).tolist()
        sizes = rng.integers(200, 2000, (n, 2)).tolist()
        uids = rng.bytes(16 * n)
        high = np.frombuffer(uids, ">u8").astype(np.uint64)[::2]
        ranks = query_list.rank_tags(queries.ravel(), np.repeat(high, 7), hashes)
        lists = queries.tolist()
        for i in range(n):
            caption = " ".join(words[i])
            url = f"https://cdn.site{sites[i]}.example/images/{start + i}.jpg"
            uid = uids[16 * i : 16 * i + 16].hex()
            yield [
                uid, *found[i % len(found)], caption, url, url, *sizes[i], f"site{sites[i]}.example",
                set(lists[i]), set(ranks[7 * i : 7 * i + 7]),
            ]  # fmt: skip


def make_index(path: Path, count: int, shard: str) -> None:
    """Write an index of `count` samples, by the code that indexes runs."""
    with storage.open_input(shard) as file:
        found = list(places(file))
    index = Index(path)

    def add(source: Source, number: int) -> None:
        def columns() -> Iterator[list[object]]:
            share = min(100_000, count - 100_000 * int(source.name))
            for row in rows(share, found, number):
                uid, key, place, caption, url, page, width, height, site, queries, ranks = row
                tags = [index.tag("samples", kind, value) for kind, value in (
                    ("site", site), ("lang", "en"), ("format", "jpeg"), ("shard", source.name)
                )]  # fmt: skip
                tags += [f"q{query}" for query in queries]
                yield [
                    uid, key, number, *place[:5], caption, url, page, " ".join([*tags, *ranks]), width,
                    height, 5000, 0.9, None,
                ]  # fmt: skip

        index.insert("samples", SAMPLE_COLUMNS, columns())

    shards = [Source(str(n), shard, "1") for n in range(-(-count // 100_000))]
    index.renew("samples", shards, add, lambda done, total, found: None)
    one = (1 << 60).to_bytes(8, "big")
    listed = [
        (n, f"query {n}", 100, QUERIES - n, 60, 0, value.to_bytes(8, "big"), one)
        for n, value in enumerate(query_hashes().tolist())
    ]
    query_list.write(index.db, listed)
    finish(index, "bench")
    index.close()


SERVE = """
import asyncio, sys
from pathlib import Path
from pipeline.browse.cli import serve
from pipeline.index.place import Dataset
from pipeline.options.finished import BrowseConfig
options = BrowseConfig(run="bench", port=int(sys.argv[2]), open=False)
asyncio.run(serve(Dataset("bench", None), Path(sys.argv[1]), options))
"""


def ask(port: int, path: str) -> tuple[float, bytes]:
    """Return seconds and body of an answer."""
    started = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port, timeout=600)
    connection.request("GET", path)
    body = connection.getresponse().read()
    connection.close()
    return time.perf_counter() - started, body


def read_bytes(pid: int) -> int:
    """Return the bytes that a process has read by system calls."""
    return int(Path(f"/proc/{pid}/io").read_text().split("rchar: ")[1].split()[0])


def reached(load: Callable[[str], Any], page: str) -> str:
    """Return the address of a page so many rows on, to which a browser comes by those before it."""
    place, _, query = page.partition("?")
    given = dict(parse_qsl(query))
    rows = int(given.pop("rows", 0))
    while rows > 0:
        found = load(f"{place}?{urlencode(given)}")
        given["after"], rows = str(found["next"]), rows - len(found["samples"])
    return f"{place}?{urlencode(given)}"


def show_pages(path: Path) -> None:
    """Serve an index and print the times of its pages."""
    with socket.create_server(("127.0.0.1", 0)) as found_port:
        port = int(found_port.getsockname()[1])
    child = subprocess.Popen([sys.executable, "-c", SERVE, str(path), str(port)], stdout=subprocess.DEVNULL)
    try:
        while True:
            try:
                ask(port, "/api/info")
                break
            except OSError:
                time.sleep(0.05)
        for name, address in PAGES.items():
            page = reached(lambda path: json.loads(ask(port, path)[1]), address)
            taken, read = list[tuple[float, bytes]](), list[int]()
            for _ in range(20):
                before = read_bytes(child.pid)
                taken.append(ask(port, page))
                read.append(read_bytes(child.pid) - before)
            seconds = sorted(one for one, _ in taken)
            found = json.loads(taken[0][1])
            total = f"{found['total']:>12,}" if isinstance(found, dict) else f"{len(found):>12,}"
            exact = "" if not isinstance(found, dict) or found.get("is_exact", True) else " at least"
            print(
                f"  {name:<20} {1e3 * statistics.median(seconds):7.1f} ms, "
                f"slowest {1e3 * seconds[-1]:7.1f} ms, "
                f"{statistics.mean(read) / 1e6:6.2f} MB read, at most {max(read) / 1e6:.2f} {total}{exact}"
            )
        uids = [row["uid"] for row in json.loads(ask(port, PAGES["first page"])[1])["samples"]]
        started = time.perf_counter()
        for uid in uids:
            ask(port, f"/api/image/{uid}")
        print(f"  sixty pictures one after the other {1e3 * (time.perf_counter() - started):7.1f} ms")
        started = time.perf_counter()
        uids = [row["uid"] for row in json.loads(ask(port, PAGES["two words"])[1])["samples"][:12]]
        with ThreadPoolExecutor(6) as browser:  # a browser asks for six at a time
            list(browser.map(lambda uid: ask(port, f"/api/image/{uid}"), uids))
        print(f"  a page and its first twelve pictures {1e3 * (time.perf_counter() - started):7.1f} ms")
        status = Path(f"/proc/{child.pid}/status").read_text()
        print(f"  the server held {int(status.split('VmHWM:')[1].split()[0]) / 1e3:,.0f} MB at most")
    finally:
        child.terminate()
        child.wait()


def show_fresh(path: Path) -> None:
    """Print the cost of each page of samples to a connection that has read nothing, without HTTP."""

    def server() -> Server:
        return Server(Dataset("bench", None), path, Guard(host="127.0.0.1", port=1))

    def load(page: str, server: Server) -> Any:
        address, _, given = page.partition("?")
        _, kind, *query = address.removeprefix("/").split("/")
        request = SimpleNamespace(query=dict(parse_qsl(given)), match_info={"query": "".join(query)})
        return (server.query if kind == "query" else server.samples)(request)

    for name, address in PAGES.items():
        if address.startswith(("/api/samples", "/api/query/")):
            page, fresh = reached(functools.partial(load, server=server()), address), server()
            before, read = time.process_time(), read_bytes(os.getpid())
            load(page, fresh)
            taken, read = time.process_time() - before, read_bytes(os.getpid()) - read
            print(f"  {name:<24} {1e3 * taken:7.1f} CPU ms, {read / 1e6:6.2f} MB read")


def show_store(count: int, keep: str) -> None:
    """Print the times of a set in a local S3 server: the copy of its index, its pages and its pictures.

    keep: folder with an index of so many rows, which is then of the pictures in the store; "": a new one.
    """
    with tempfile.TemporaryDirectory() as name, s3.serve() as store:
        shard, folder = f"{store.url}/set/00000.tar", Path(keep or name)
        write_pictures(folder / "00000.tar")
        storage.copy_file(str(folder / "00000.tar"), shard)
        path, remote = folder / "index.sqlite", f"{store.url}/set/index/index.sqlite"
        make_index(path, count, shard)
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute("UPDATE shards SET path = ?", (shard,))
        size = path.stat().st_size
        if size <= LARGEST:
            storage.copy_file(str(path), remote)
            path.unlink()
            started = time.perf_counter()
            storage.copy_file(remote, str(path))
            taken = f"{time.perf_counter() - started:.1f} s to copy the index of {size / 1e6:,.0f} MB, once"
        else:
            taken = (
                f"its index of {size / 1e6:,.0f} MB is more than the server of the tests takes, so not copied"
            )
        print(f"{count:,} rows in a store: {taken}")
        show_pages(path)


def write_pictures(path: Path) -> None:
    """Write the tar whose hundred pictures all rows show."""
    write_shard(path, (Sample(f"{n:09d}", jpeg(scene(n, 256, 256)), "", b"{}") for n in range(100)))


def peers(count: int, shard: Path, folder: Path) -> None:
    """Print the cost of other search engines on the same rows, where they are installed."""
    with shard.open("rb") as file:
        found = list(places(file))
    try:
        import duckdb
    except ImportError:
        print("  duckdb is not installed")
    else:
        import pyarrow as pa

        started = time.process_time()
        database = duckdb.connect(str(folder / "duck.db"), config={"memory_limit": DUCK})
        database.execute("CREATE TABLE samples (id BIGINT, uid VARCHAR, caption VARCHAR, site VARCHAR)")
        batch = list[dict[str, object]]()
        for n, row in enumerate(rows(count, found, 1), 1):
            batch.append({"id": n, "uid": row[0], "caption": row[3], "site": row[8]})
            if len(batch) == 100_000 or n == count:
                database.register("part", pa.Table.from_pylist(batch))
                database.execute("INSERT INTO samples SELECT id, uid, caption, site FROM part")
                batch.clear()
        with contextlib.suppress(ImportError):
            importlib.import_module("duckdb_extensions").import_extension("fts")
        database.execute("LOAD fts")
        database.execute(
            "PRAGMA create_fts_index('samples', 'id', 'caption', stemmer='none', stopwords='none')"
        )
        database.close()
        size = (folder / "duck.db").stat().st_size
        show_cost("duckdb", started, size, count)
        database = duckdb.connect(str(folder / "duck.db"), read_only=True, config={"memory_limit": DUCK})
        database.execute("LOAD fts")
        scored = (
            "SELECT uid, caption FROM samples WHERE fts_main_samples.match_bm25(id, '{}', conjunctive := 1)"
        )
        for name, statement in (
            ("two words", scored.format("word40 word7") + " IS NOT NULL ORDER BY id LIMIT 60"),
            ("a common word", scored.format("word1") + " IS NOT NULL ORDER BY id LIMIT 60"),
            ("a site", "SELECT uid, caption FROM samples WHERE site = 'site7.example' LIMIT 60"),
        ):
            show_engine(name, lambda statement=statement: database.execute(statement).fetchall())
        database.close()
    try:
        import tantivy
    except ImportError:
        print("  tantivy is not installed")
        return
    schema = tantivy.SchemaBuilder()
    schema.add_text_field("caption", stored=True)
    schema.add_text_field("tags", tokenizer_name="whitespace")
    schema.add_text_field("uid", stored=True, tokenizer_name="raw")
    (folder / "tantivy").mkdir()
    index = tantivy.Index(schema.build(), path=str(folder / "tantivy"))
    started, writer = time.process_time(), index.writer(256 << 20, 1)
    for row in rows(count, found, 1):
        tags = " ".join([row[8].replace(".", "_"), *(f"q{query}" for query in row[9])])
        writer.add_document(tantivy.Document(uid=row[0], caption=row[3], tags=tags))
    writer.commit()
    writer.wait_merging_threads()
    size = sum(path.stat().st_size for path in (folder / "tantivy").iterdir())
    show_cost("tantivy", started, size, count)
    index.reload()
    searcher = index.searcher()
    for name, query in (("two words", "caption:word40 AND caption:word7"),
                        ("a common word", "caption:word1"), ("a site", "tags:site7_example")):  # fmt: skip
        parsed = index.parse_query(query, ["caption"])
        show_engine(name, lambda parsed=parsed: [
            searcher.doc(address) for _, address in searcher.search(parsed, 60).hits])  # fmt: skip


def show_datasets(count: int, folder: Path) -> None:
    """Print the time until a WebDataset of `count` samples can be searched: openwit, and `datasets`."""
    from datasets import Image, load_dataset

    rng, pictures = np.random.default_rng(0), [jpeg(scene(n, 64, 64)) for n in range(100)]
    shards = []
    for start in range(0, count, 10_000):
        words = np.minimum(rng.zipf(1.2, (min(10_000, count - start), WORDS)), VOCABULARY)
        texts = (" ".join(f"word{word}" for word in row) for row in words)
        shards.append(str(folder / f"{start:09d}.tar"))
        samples = (Sample(f"{start + n:09d}", pictures[n % 100], text, b"{}") for n, text in enumerate(texts))
        write_shard(Path(shards[-1]), samples)
    started = time.process_time()
    foreign.index_shards(folder / "index.sqlite", "bench", shards, lambda done, total, found: None)
    indexed = time.process_time() - started
    search = Search(folder / "index.sqlite")
    print(f"{count:,} samples: openwit {indexed:.1f} CPU s to index")
    show_engine("two words", lambda: search.page(Filter(text="word40 word7"), 60))
    search.close()
    started = time.process_time()
    cache = str(folder / "cache")
    found = load_dataset("webdataset", data_files=shards, split="train", cache_dir=cache)
    print(f"  datasets: {time.process_time() - started:.1f} CPU s to load")
    found = found.cast_column("jpg", Image(decode=False))
    started = time.process_time()
    chosen = found.filter(
        lambda text: "word40 " in text and "word7 " in text, input_columns="txt", load_from_cache_file=False
    )
    print(f"    two words {time.process_time() - started:8.2f} CPU s, {len(chosen):,} samples")


def like_pictures(count: int, width: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return unit vectors as models of pictures give them: around few means, along few directions."""
    shape, rng = np.random.default_rng(0), np.random.default_rng(seed)
    means = shape.normal(size=(2_000, width)) * 0.7 + shape.normal(size=width)
    along = shape.normal(size=(64, width)) / np.sqrt(np.arange(1, 65))[:, None]
    found = means[rng.integers(0, len(means), count)] + rng.normal(size=(count, 64)) @ along
    found += 0.2 * rng.normal(size=(count, width))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def show_vectors(count: int, width: int, folder: Path, graph: bool) -> None:
    """Print the cost of the nearest 50 vectors among `count`: all compared, and by usearch's graph."""
    found = Vectors(folder / "index.sqlite", f"{count:016d}", width)
    with found.vectors.open("wb") as file, found.uids.open("wb") as names:
        for start in range(0, count, 10_000):
            block = like_pictures(min(10_000, count - start), width, start + 1)
            file.write(block.astype(np.float16).tobytes())
            names.write(np.array([f"{start + n:032x}" for n in range(len(block))], "S32").tobytes())
    wanted = like_pictures(50, width, count + 1)
    found.nearest(wanted[0], 50)  # torch is loaded
    before, exact = time.process_time(), [found.nearest(vector, 50) for vector in wanted]
    taken = (time.process_time() - before) / len(wanted) * 1e3
    print(
        f"{count:,} vectors, all compared: {taken:.0f} CPU ms a question, {held():,.0f} MB held", flush=True
    )
    if not graph:
        return
    before = time.process_time()
    found.make_graph()
    built, peak = (time.process_time() - before) / count * 1e6, held()
    size = sum(path.stat().st_size for path in folder.glob("*.usearch")) / count
    before, near = time.process_time(), [found.nearest(vector, 50) for vector in wanted]
    taken = (time.process_time() - before) / len(wanted) * 1e3
    shared = [
        len({one.uid for one in a} & {one.uid for one in b}) / 50 for a, b in zip(exact, near, strict=True)
    ]
    print(
        f"  usearch: {built:.0f} CPU us a vector to build, {peak:,.0f} MB held, {size:,.0f} bytes a vector; "
        f"{taken:.1f} CPU ms a question, recall@50 {statistics.mean(shared):.1%}, worst {min(shared):.0%}"
    )


def held() -> float:
    """Return the megabytes of memory that this process holds beside files mapped into it."""
    return int(Path("/proc/self/status").read_text().split("RssAnon:")[1].split()[0]) / 1e3


def show_cost(name: str, started: float, size: int, count: int) -> None:
    """Print CPU time and bytes per row."""
    taken = (time.process_time() - started) / count * 1e6
    print(f"  {name}: {taken:.1f} CPU us/row, {size / count:.0f} bytes/row", flush=True)


def show_engine(name: str, action: Callable[[], object]) -> None:
    """Print the median of twenty calls, or of as many as take a minute."""
    seconds = list[float]()
    while len(seconds) < 20 and sum(seconds) < 60:
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    print(f"    {name:<20} {1e3 * statistics.median(seconds):7.1f} ms", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--vectors", type=int, nargs="*", default=[])
    parser.add_argument("--graph", action="store_true", help="usearch's graph beside")
    parser.add_argument("--datasets", type=int, nargs="*", default=[])
    parser.add_argument("--store", type=int, nargs="*", default=[])
    parser.add_argument(
        "--fresh", action="store_true", help="each page to a connection that has read nothing"
    )
    parser.add_argument("--random", type=int, default=0, help="random questions in place of the table")
    parser.add_argument("--seed", type=int, default=0, help="of the random questions")
    parser.add_argument("--keep", default="", help="folder in which the index stays")
    options = parser.parse_args()
    for count in options.store:
        show_store(count, options.keep)
    for count in options.datasets:
        with tempfile.TemporaryDirectory() as name:
            show_datasets(count, Path(name))
    for count in options.vectors:
        with tempfile.TemporaryDirectory() as name:
            show_vectors(count, 512, Path(name), options.graph)
    for count in options.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(options.keep or name)
            folder.mkdir(parents=True, exist_ok=True)
            shard = folder / "00000.tar"
            write_pictures(shard)
            started = time.process_time()
            make_index(folder / "index.sqlite", count, str(shard))
            size = (folder / "index.sqlite").stat().st_size
            print(
                f"{count:,} rows: {(time.process_time() - started) / count * 1e6:.1f} CPU us/row to index, "
                f"{size / count:.0f} bytes/row"
            )
            if options.random:
                browse_random.show_random(folder / "index.sqlite", options.random, read_bytes, options.seed)
            else:
                (show_fresh if options.fresh else show_pages)(folder / "index.sqlite")
            if options.peers:
                peers(count, shard, folder)


if __name__ == "__main__":
    main()
