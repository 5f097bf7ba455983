"""The records that a running unit keeps: parts that survive damage, attempts beside each other, takedowns."""

import io
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import processes, storage
from pipeline.fetch.parts import Round
from pipeline.fetch.steps import remove_staging
from pipeline.flow import kept
from pipeline.flow.markers import commit, finished, read_marker
from pipeline.flow.parts import Part
from pipeline.run_folder import Layout
from pipeline.stages import Rounds

RECORDS = [({"key": f"{n:032x}", "detail": "é\ud800" * n}, bytes([n]) * (n * 50)) for n in range(6)]


@dataclass(frozen=True, kw_only=True)
class By(Part):
    """The attempt that did a unit."""

    by: str


def fill(folder: Path | str, unit: str = "7", attempt: str = "a", records: Any = RECORDS) -> None:
    """Leave the files of an attempt that is killed."""
    with kept.Kept(str(folder), unit, attempt) as store:
        for number, (header, body) in enumerate(records):
            store.add(header, body, requests=number + 1)
        store.flush()


def read(folder: Path | str, unit: str = "7", attempt: str = "reader") -> list[tuple[str, bytes]]:
    with kept.Kept(str(folder), unit, attempt) as store:
        return [(record.header["key"], store.body(record.place)) for record in store.records]


EXPECTED: list[tuple[str, bytes]] = [(str(header["key"]), body) for header, body in RECORDS]


def test_the_next_attempt_begins_with_all_that_was_added(tmp_path: Path) -> None:
    fill(tmp_path)
    with kept.Kept(str(tmp_path), "7", "b") as store:
        assert [(r.header["key"], store.body(r.place)) for r in store.records] == EXPECTED
        assert store.records[5].header["detail"] == RECORDS[5][0]["detail"]
        assert store.requests == 6 and 0 <= store.spent < 60
        place = store.add({"key": "new"}, b"body", requests=2)
        assert store.body(place) == b"body"
    with kept.Kept(str(tmp_path), "7", "c") as store:
        assert {r.header["key"] for r in store.records} == {key for key, _ in EXPECTED} | {"new"}
        assert store.requests == 8, "of all attempts together"
    assert read(tmp_path, "8") == [], "another unit has parts of its own"
    assert kept.count(str(tmp_path)) == 7
    assert finished(str(tmp_path)) == {}, "a part is no marker"


@given(st.data())
def test_of_a_damaged_part_the_records_before_the_damage_count(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    fill(folder)
    (part,) = folder.glob("kept/7/*.part")
    whole = part.read_bytes()
    ends = [offset + length for _, offset, length in kept.scan(io.BytesIO(whole))]
    at = data.draw(st.integers(0, 9999)) * len(whole) // 10_000  # the times in it make lengths vary
    if data.draw(st.booleans()):
        part.write_bytes(whole[:at])
    else:
        part.write_bytes(whole[:at] + bytes([whole[at] ^ data.draw(st.integers(1, 255))]) + whole[at + 1 :])
    assert read(folder) == EXPECTED[: sum(end <= at for end in ends)]


@given(st.binary(max_size=200))
def test_what_is_no_part_holds_nothing(junk: bytes) -> None:
    assert list(kept.scan(io.BytesIO(junk))) == []
    assert list(kept.scan(io.BytesIO(b"openwit part 1\n" + b"\xff" * 12 + junk))) == []


def test_attempts_at_work_beside_each_other(tmp_path: Path) -> None:
    """The second reads the records of the first so far; when one is done, the other can still end its own."""
    folder = str(tmp_path)
    with kept.Kept(folder, "7", "a") as first:
        first.add(*RECORDS[1])
        with kept.Kept(folder, "7", "b") as second:
            assert [r.header["key"] for r in second.records] == [EXPECTED[1][0]]
            second.add(*RECORDS[2])
            assert commit(folder, By(name="7", by="a")).by == "a"
            first.remove()
            assert second.body(second.records[0].place) == EXPECTED[1][1]
            assert second.body(second.add(*RECORDS[3])) == EXPECTED[3][1]
            assert commit(folder, By(name="7", by="b")).by == "a", "the first marker counts"
            second.remove()
    assert not list(tmp_path.rglob("*.part")) and kept.count(folder) == 0


def test_an_attempt_that_came_too_late_counts_for_nothing(tmp_path: Path) -> None:
    commit(str(tmp_path), By(name="7", by="a"))
    fill(tmp_path)
    assert kept.count(str(tmp_path)) == 0
    kept.remove(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["7.json"]


def test_headers_are_changed_and_records_removed(tmp_path: Path) -> None:
    fill(tmp_path)
    (part,) = tmp_path.glob("kept/7/*.part")
    headers = kept.headers(str(part))
    changed = [None if n % 2 else {**header, "detail": "x"} for n, header in enumerate(headers)]
    kept.rewrite(str(part), changed)
    assert read(tmp_path) == EXPECTED[::2]
    assert {header["detail"] for header in kept.headers(str(part))} == {"x"}
    assert not kept.is_finished(str(part))
    commit(str(tmp_path), By(name="7", by="a"))
    assert kept.is_finished(str(part))


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import s3fs

    from tests import s3

    s3fs.S3FileSystem.clear_instance_cache()  # of a server of another module
    with s3.serve():
        yield f"s3://{s3.BUCKET}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture
def bucket(store: str, request: pytest.FixtureRequest) -> str:
    return f"{store}/{request.node.name}/round-0"


def test_an_object_store_gets_parts_in_time_and_when_an_attempt_is_stopped(bucket: str) -> None:
    with pytest.raises(KeyboardInterrupt), kept.Kept(bucket, "7", "a") as store:
        for record in RECORDS[:2]:
            store.add(*record)
        store.flush()  # as it comes twice a minute
        store.flush()
        for record in RECORDS[2:4]:
            store.add(*record)
        raise KeyboardInterrupt
    parts = storage.list_files(f"{bucket}/kept/7", kept.SUFFIX)
    assert [path.rpartition("/")[2] for path in parts] == ["a-000000.part", "a-000001.part"]
    storage.write_bytes(f"{bucket}/kept/7/b-000000.part", b"damaged")
    with kept.Kept(bucket, "7", "c") as store:
        assert [(r.header["key"], store.body(r.place)) for r in store.records] == EXPECTED[:4]
        store.add(*RECORDS[4])
        commit(bucket, By(name="7", by="c"))
        store.remove()
    assert storage.list_files(f"{bucket}/kept/7") == []
    assert read_marker(bucket, "7") == By(name="7", by="c")


def test_a_worker_of_an_object_store_keeps_what_it_has_when_its_launcher_is_stopped(bucket: str) -> None:
    script = (
        "import sys, time\n"
        "from pipeline.flow import kept\n"
        "with kept.Kept(sys.argv[1], '7', 'a') as store:\n"
        "    store.add({'key': 'x'}, b'body')\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(300)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", script, bucket], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline() == b"ready\n"
    assert storage.list_files(f"{bucket}/kept/7") == []
    assert processes._handles_term(child.pid)
    processes._ask_to_end([child.pid])  # as `kill` does, which would end the store as well
    assert child.wait() == 143
    assert read(bucket) == [("x", b"body")]


def test_the_staged_images_of_all_attempts_go(tmp_path: Path) -> None:
    """Of two attempts at a unit the first marker counts; the other attempt's blob is no result's file."""
    layout = Layout(str(tmp_path))
    for name in ("0@first", "0@second"):
        storage.write_bytes(storage.join(layout.round(0), f"{name}.blob"), b"jpeg")
        storage.write_bytes(storage.join(layout.round(0), f"{name}.parquet"), b"rows")
    one = Round(name="0", units=(), merged=(), images=0, bytes=0, reasons={})
    remove_staging(layout, Rounds(rounds=(one,)))
    left = storage.list_files(layout.round(0))
    assert [path.rpartition("/")[2] for path in left] == ["0@first.parquet", "0@second.parquet"]
