"""Everything on an object store: a real S3 server behind a proxy that refuses, stalls and loses answers."""

import errno
import json
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import lock, schemas, storage, storage_retry
from pipeline.cli import main
from pipeline.demo.server import Server
from pipeline.fetch.parts import Restored
from pipeline.flow import markers
from pipeline.flow.parts import Part
from pipeline.index import place
from pipeline.index.question import Filter
from pipeline.index.search import Search
from pipeline.verify import main as verify
from tests import finished_run
from tests.crawling import arguments, contents, settle
from tests.scenes import scene, write_folder
from tests.test_queries_wordnet import write_wordnet

pytest.importorskip("moto.server")
pytest.importorskip("s3fs")

from tests import s3

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def server() -> Iterator[s3.Store]:
    with s3.serve() as store:
        yield store


@pytest.fixture
def store(server: s3.Store) -> Iterator[s3.Store]:
    """Yield the store without faults, and leave it so."""
    yield server
    for name in ("refuse", "lose"):
        setattr(server.proxy, name, lambda number, method, path: False)


def every(n: int, proxy: s3.Proxy) -> None:
    """Refuse every n-th request from now on."""
    proxy.refuse = lambda number, method, path: number % n == 0


# --- trying again


class StatusError(Exception):
    """An error with an HTTP status, as gcsfs and aiohttp raise."""

    def __init__(self, code: int) -> None:
        super().__init__(f"status {code}")
        self.code = code


@pytest.mark.parametrize(
    ("error", "transient"),
    [
        (TimeoutError(), True),
        (ConnectionResetError(), True),
        (OSError(errno.EBUSY, "SlowDown"), True),
        (StatusError(503), True),
        (StatusError(429), True),
        (StatusError(403), False),
        (FileNotFoundError(), False),
        (PermissionError(), False),
        (OSError(errno.ENOSPC, "disk full"), False),
        (ValueError("Bad Request"), False),
    ],
)
def test_only_what_may_pass_is_tried_again(error: Exception, transient: bool) -> None:
    waits: list[float] = []
    attempts = []

    def fail() -> None:
        attempts.append(1)
        raise error

    with pytest.raises(type(error)):
        storage_retry.retried(fail, waits.append)
    assert len(attempts) == (storage_retry.TRIES if transient else 1)
    assert waits == ([0.5, 1, 2, 4, 8, 16] if transient else [])


def test_the_error_of_a_client_library_is_judged_by_its_status() -> None:
    from botocore.exceptions import ClientError
    from s3fs.errors import translate_boto_error

    def error(code: str, status: int) -> BaseException:
        answer = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
        return translate_boto_error(ClientError(answer, "PutObject"))

    assert storage_retry.is_transient(error("InternalError", 500))
    assert storage_retry.is_transient(error("BadGateway", 502)), "a code that s3fs does not know"
    assert storage_retry.is_transient(error("BadDigest", 400))
    assert not storage_retry.is_transient(error("InvalidBucketName", 400))
    assert not storage_retry.is_transient(error("WeirdCode", 400))


# --- reading and writing


def test_what_is_written_is_read_while_requests_fail(store: s3.Store) -> None:
    every(5, store.proxy)
    base = f"{store.url}/plain"
    assert storage.list_files(base) == [] and not storage.exists(base)
    paths = [f"{base}/{n}.json" for n in range(5)]
    for n, path in enumerate(paths):
        storage.write_bytes(path, str(n).encode() * 10)
    assert storage.list_files(base, ".json") == paths == storage.glob(f"{base}/*.json")
    assert storage.read_many(paths) == [str(n).encode() * 10 for n in range(5)]
    assert storage.read_ranges([(paths[1], 0, 2), (paths[2], 3, 9)]) == [b"11", b"222222"]
    assert storage.file_info(paths[0]).size == 10 and storage.file_info(paths[0]).etag
    storage.remove_tree(paths[0])
    assert storage.list_files(base) == paths[1:]
    storage.remove_tree(base)
    assert not storage.exists(base) and not store.keys("plain/")
    assert store.proxy.statuses()[503] > 3


def test_columns_of_a_table_are_read_without_the_rest(store: s3.Store) -> None:
    table = pa.table({"n": range(100), "text": [os.urandom(50_000).hex() for _ in range(100)]})
    schemas.write_table(f"{store.url}/t.parquet", table)
    every(4, store.proxy)
    assert schemas.read_table(f"{store.url}/t.parquet", ["n"]) == table.select(["n"])
    assert schemas.read_table(f"{store.url}/t.parquet") == table


def test_listings_show_what_others_wrote_meanwhile(store: s3.Store) -> None:
    storage.write_bytes(f"{store.url}/shared/a", b"1")
    assert len(storage.list_files(f"{store.url}/shared")) == 1
    store.client.put_object(Bucket=s3.BUCKET, Key="shared/b", Body=b"22")
    assert len(storage.list_files(f"{store.url}/shared")) == 2
    store.client.put_object(Bucket=s3.BUCKET, Key="shared/b", Body=b"333")
    assert storage.file_info(f"{store.url}/shared/b").size == 3 and storage.exists(f"{store.url}/shared/b")


def test_an_error_while_writing_publishes_nothing(store: s3.Store) -> None:
    with pytest.raises(RuntimeError, match="halfway"), storage.atomic_output(f"{store.url}/half") as path:
        path.write_bytes(b"half of it")
        raise RuntimeError("halfway")
    assert not store.keys("half")


def test_a_killed_writer_leaves_nothing_that_can_be_read(store: s3.Store) -> None:
    """Killed between two parts of an upload: the store shows the file whole or not at all."""
    arrived, let_go = threading.Event(), threading.Event()

    def stall(number: int, method: str, path: str) -> bool:
        if "partNumber=3" in path:
            arrived.set()
            store.proxy.lock.release()  # the others go on
            let_go.wait(60)
            store.proxy.lock.acquire()
        return False

    store.proxy.refuse = stall
    script = (
        "from pipeline import storage\n"
        f"with storage.atomic_output('{store.url}/killed.tar') as path:\n"
        "    path.write_bytes(bytes(151 << 20))\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script])
    try:
        assert arrived.wait(120)
        child.kill()
        child.wait()
    finally:
        let_go.set()
    assert "killed.tar" in store.uploads() and not store.keys("killed.tar")
    assert not storage.exists(f"{store.url}/killed.tar")
    store.client.abort_multipart_upload(
        Bucket=s3.BUCKET, Key="killed.tar",
        UploadId=store.client.list_multipart_uploads(Bucket=s3.BUCKET)["Uploads"][0]["UploadId"],
    )  # fmt: skip


# --- conditional writes


@pytest.mark.parametrize("where", ["local", "s3"])
def test_one_of_many_creates_a_file(store: s3.Store, tmp_path: Path, where: str) -> None:
    path = f"{store.url}/once" if where == "s3" else str(tmp_path / "new" / "once")
    won: list[int] = []
    threads = [
        threading.Thread(target=lambda n=n: storage.create_bytes(path, str(n).encode()) and won.append(n))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1 and storage.read_bytes(path) == str(won[0]).encode()
    assert [p.name for p in (tmp_path / "new").glob("*")] == (["once"] if where == "local" else [])


def test_the_first_marker_of_a_task_counts(store: s3.Store, tmp_path: Path) -> None:
    for folder in (f"{store.url}/markers", str(tmp_path / "markers")):
        first, second = (Restored(name="7", blob=f"{folder}/{letter}.blob") for letter in "ab")
        assert markers.commit(folder, first) == first
        assert markers.commit(folder, second) == first
        assert markers.finished(folder) == {"7": first}


def test_a_conditional_write_whose_answer_is_lost_counts(store: s3.Store) -> None:
    store.proxy.lose = lambda number, method, path: method == "PUT" and not store.keys("lost")
    start = len(store.proxy.seen)
    storage.create_bytes(f"{store.url}/lost", b"mine")
    assert storage.read_bytes(f"{store.url}/lost") == b"mine"
    # It was written before the answer was lost: the second try met the object of the first.
    store.proxy.lose = lambda number, method, path: method == "PUT" and number == start + 100
    start = len(store.proxy.seen)
    store.proxy.lose = lambda number, method, path: number == start
    assert markers.commit(f"{store.url}/m", Part(name="1")) == Part(name="1")
    assert [status for _, _, status in store.proxy.seen[start : start + 2]] == [0, 412]


# --- the lock


def test_a_second_launcher_is_told_who_is_at_work(store: s3.Store) -> None:
    work = f"{store.url}/run/work"
    with lock.lock(work):
        found, alive = lock.holder(work)
        assert found is not None and found.pid == os.getpid() and alive
        with (
            pytest.raises(ValueError, match=rf"process {os.getpid()} on .* is at work in s3://"),
            lock.lock(work),
        ):
            pass
    assert lock.holder(work) == (None, False)


def put_lock(work: str, **changes: object) -> lock.Holder:
    """Leave a lock behind."""
    found = replace(lock.Holder(), **changes)
    storage.write_bytes(f"{work}/lock", json.dumps(asdict(found)).encode())
    return found


def test_the_lock_of_the_dead_is_taken(store: s3.Store) -> None:
    work = f"{store.url}/dead/work"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    put_lock(work, pid=ended.pid)
    assert lock.holder(work)[1] is False
    with lock.lock(work):
        assert lock.holder(work)[1] is True
    put_lock(work, started=time.time() - 100_000)  # restarted container, same number
    with lock.lock(work):
        pass
    put_lock(work, host="elsewhere", beat=time.time() - 130)
    with lock.lock(work):
        pass
    put_lock(work, host="elsewhere", beat=time.time() - 50)
    with (
        pytest.raises(ValueError, match=r"if it was killed, this command works in [67][0-9] s"),
        lock.lock(work),
    ):
        pass
    storage.remove_tree(f"{work}/lock")


def test_a_holder_renews_its_lock_and_stops_when_it_is_taken(
    store: s3.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = f"{store.url}/beating/work"
    monkeypatch.setattr(lock, "_BEAT", 0.05)
    with pytest.raises(KeyboardInterrupt), lock.lock(work):
        first = lock.holder(work)[0]
        assert first is not None
        deadline = time.monotonic() + 30
        while (lock.holder(work)[0] or first).beat == first.beat:
            assert time.monotonic() < deadline
        for _ in range(600):  # again and again: at this pace a beat may come between
            other = put_lock(work, host="elsewhere", id="other")
            time.sleep(0.1)
    found, _ = lock.holder(work)
    assert found is not None and found == other, "somebody else's lock is not removed"


# --- the jobs


@pytest.fixture(scope="module")
def source(web: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a short URL list of the demonstration web."""
    path = tmp_path_factory.mktemp("source") / "urls.parquet"
    pq.write_table(pq.read_table(web.web.folder / "urls.parquet").slice(0, 100), path)
    return path


def options(web: Server, source: str, out: str, *extra: str) -> list[str]:
    argv = arguments(web.web, Path("placeholder"), "--source-format", "parquet", "--lang", "any", *extra)
    argv[argv.index("placeholder")] = out
    argv[argv.index(str(web.web.warc))] = source
    return [*argv, "--workers", "1", "--unit-images", "40", "--per-query", "5", "--samples-per-shard", "20"]


@pytest.fixture(scope="module")
def local_run(web: Server, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local") / "run"
    settle(web.web)
    assert main(options(web, str(source), str(out))) == 0
    return out


def wait_for(store: s3.Store, prefix: str, child: "subprocess.Popen[bytes]") -> None:
    """Return as soon as an object has this prefix."""
    deadline = time.monotonic() + 180
    while not store.keys(prefix):
        assert child.poll() is None, f"the run ended before {prefix} was there"
        assert time.monotonic() < deadline
        time.sleep(0.02)


FETCHED = "work/fetch/round-0/00000-0001.json"


@pytest.mark.parametrize(
    ("kills", "workers", "refused"),
    [
        ([FETCHED], "1", 61),  # each refusal is waited out
        pytest.param(
            ["work/candidates/", "work/select/samples/", FETCHED, "work/fetch/merged-0/", "shards/00000.tar"],
            "2", 11, marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_a_run_on_s3_is_killed_continued_and_equal_to_a_local_one(
    web: Server, source: Path, local_run: Path, store: s3.Store, tmp_path: Path, kills: list[str],
    workers: str, refused: int,
) -> None:  # fmt: skip
    """Inputs and run on the store, requests refused, the launcher killed with -9."""
    expected = contents(local_run)
    name = f"run-{workers}"
    for path, key in ((source, "in/urls.parquet"), (web.web.queries, "in/queries.txt")):
        storage.write_bytes(f"{store.url}/{key}", Path(path).read_bytes())
    start = len(store.proxy.seen)
    every(refused, store.proxy)
    argv = [*options(web, f"{store.url}/in/urls.parquet", f"{store.url}/{name}"), "--workers", workers]
    argv[argv.index(str(web.web.queries))] = f"{store.url}/in/queries.txt"
    command = [sys.executable, "-m", "beam_job", "crawl", *argv]
    for prefix in kills:
        child = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            wait_for(store, f"{name}/{prefix}", child)
        finally:
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    done = store.read(f"{name}/{FETCHED}")
    assert main(argv) == 0
    assert store.read(f"{name}/{FETCHED}") == done, "what was fetched is not fetched again"
    assert sum(status == 503 for _, _, status in store.proxy.seen[start:]) > 10
    store.proxy.refuse = lambda number, method, path: False
    assert verify(["--run", f"{store.url}/{name}"]) == 0
    found = contents(store.download(name, tmp_path))
    for part in expected:
        assert found[part] == expected[part], part
    keys = store.keys(f"{name}/")
    assert not [key for key in keys if ".tmp" in key or key.endswith((".blob", "/lock"))]


@pytest.fixture(scope="module")
def run_on_s3(server: s3.Store, local_run: Path) -> str:
    """Copy the local run's published files to the store."""
    for path in local_run.rglob("*"):
        name = path.relative_to(local_run)
        if path.is_file() and name.parts[0] != "work":
            storage.write_bytes(f"{server.url}/run/{name}", path.read_bytes())
    return f"{server.url}/run"


def test_overlap_reads_and_writes_the_store(store: s3.Store, run_on_s3: str, tmp_path: Path) -> None:
    from dedup.cli import main as overlap

    images = {"a/0.jpg": scene(1), "a/1.jpg": scene(2), "b/2.jpg": scene(3)}
    write_folder(tmp_path / "eval", images)
    for name in images:
        storage.write_bytes(f"{store.url}/eval/{name}", (tmp_path / "eval" / name).read_bytes())
    every(61, store.proxy)
    common = ["--planted", "1", "--workers", "1"]
    assert (
        overlap(["--run", run_on_s3, "--eval", f"e={store.url}/eval", "--out", f"{store.url}/o", *common])
        == 0
    )
    here = ["--run", run_on_s3, "--eval", f"e={tmp_path}/eval", "--out", str(tmp_path / "o"), *common]
    assert overlap(here) == 0
    for name in ("clean/e.txt", "overlap/e.txt"):
        assert store.read(f"o/{name}") == (tmp_path / "o" / name).read_bytes()
    assert json.loads(store.read("o/report.json"))["datasets"][0]["examples"] == 3


def test_training_reads_shards_from_the_store(
    store: s3.Store, run_on_s3: str, local_run: Path, tmp_path: Path
) -> None:
    sources = pytest.importorskip("train.shard_sources")
    from train.cache import Cache

    every(9, store.proxy)
    found = sources.resolve([run_on_s3], [], [], [], Cache(tmp_path))[0]
    assert found.count == json.loads((local_run / "manifest.json").read_text())["counts"]["samples"]
    for shard in found.shards:
        local = local_run / "shards" / Path(shard.path).name
        assert Cache(tmp_path).local(shard.path).read_bytes() == local.read_bytes()
    assert sources.resolve([f"{run_on_s3}/shards/*.tar"], [], [], [], Cache(tmp_path))[0].count == found.count


def test_the_query_list_is_built_on_the_store(store: s3.Store, tmp_path: Path) -> None:
    from queries.cli import main as queries

    for path in write_wordnet(tmp_path).iterdir():
        storage.write_bytes(f"{store.url}/wordnet/{path.name}", path.read_bytes())
    views = b"en Mercury 5000 0\nen New_York_City 900 0\n"
    storage.write_bytes(f"{store.url}/views/pageviews-20260101-user", views)
    (tmp_path / "pageviews-20260101-user").write_bytes(views)
    every(13, store.proxy)
    there = ["--wordnet", f"{store.url}/wordnet", "--pageviews", f"{store.url}/views/pageviews-*"]
    here = ["--wordnet", str(tmp_path), "--pageviews", str(tmp_path / "pageviews-*")]
    common = ["--size", "50", "--workers", "1"]
    assert queries([*there, "--out", f"{store.url}/q/queries.parquet", *common]) == 0
    assert queries([*here, "--out", str(tmp_path / "q.parquet"), *common]) == 0
    assert store.read("q/queries.parquet") == (tmp_path / "q.parquet").read_bytes()


# --- the index


def test_an_index_is_shared_by_the_store_and_pictures_are_read_from_it(
    store: s3.Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = tmp_path / "indexed"
    finished_run.build(local, [f"umbrella {n}" for n in range(12)], ["umbrella"])
    for path in filter(Path.is_file, sorted(local.rglob("*"))):
        key = f"indexed/{path.relative_to(local)}"
        store.client.put_object(Bucket=s3.BUCKET, Key=key, Body=path.read_bytes())
    of = place.dataset(f"{store.url}/indexed")
    for machine in ("one", "other"):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / machine))
        seen: list[int] = []
        path, _ = place.renew(of, lambda done, total, rows, seen=seen: seen.append(done))
        assert path.is_relative_to(tmp_path / machine) and "indexed/index/index.sqlite" in store.keys(
            "indexed"
        )
        assert (seen[0] == 0) == (machine == "one"), "the other machine copies what the first one made"
    search = Search(path)
    assert search.page(Filter(text="umbrella"), 0, 5).total == 12
    store.proxy.seen.clear()
    pictures = search.pictures(["000000003", "000010001"])
    with tarfile.open(local / "shards" / "00000.tar") as tar:
        member = tar.extractfile("000000003.jpg")
        assert member is not None and pictures[0] == member.read()
    assert all(status == 206 for method, _, status in store.proxy.seen if method == "GET"), "ranges alone"
    search.close()
    everybodys = place.dataset(f"{store.url}/indexed/shards/*.tar")
    path, refused = place.renew(everybodys, lambda done, total, rows: None)
    search = Search(path)
    assert refused == [] and search.page(Filter(), 0, 20).total == 12
    search.close()
