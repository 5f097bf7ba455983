"""Crawls of a small web of our own, from the command to the report: an outage of names, sites that were
deferred, pages that reserve their images, sources in another order, and data that must never be written
down."""

import io
import json
import logging
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

from pipeline.cli import main
from pipeline.http import dns
from pipeline.verify import main as verify
from tests import misbehaving
from tests.crawling import manifest, reasons, rejected, samples
from tests.misbehaving import Peer, Request, Server
from tests.nameserver import SILENT, Answer, NameServer
from tests.scenes import jpeg, scene

pytestmark = pytest.mark.timeout(600)


async def picture(peer: Peer, request: Request) -> bool:
    """Serve a picture of its own for each query string."""
    number = int(request.path.partition("?")[2])
    return await peer.reply(body=jpeg(scene(number, 96, 128)), Content_Type="image/jpeg")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setitem(misbehaving.BEHAVIOURS, "picture", picture)
    with Server() as running:
        yield running


def arguments(folder: Path, source: Path | str, *extra: str) -> list[str]:
    """Return `openwit crawl` arguments for a run in `folder` where only the tested rule cuts anything."""
    (folder / "queries.txt").write_text("boat\n")
    return [
        "--queries", str(folder / "queries.txt"), "--source", str(source), "--out", str(folder / "run"),
        "--lang", "any", "--contact", "https://example.org/crawl", "--allow-network", "127.0.0.0/8",
        "--workers", "1", "--placeholder-captions", "0", "--rounds", "1", *extra,
    ]  # fmt: skip


def url_list(path: Path, urls: list[str]) -> Path:
    """Write a list of images, each with a caption of its own."""
    rows = [f"{url},a boat of number{index}" for index, url in enumerate(urls)]
    path.write_text("\n".join(["url,caption", *rows, ""]))
    return path


def is_whole(run: Path) -> None:
    """The run verifies, and every candidate is in the shards or has its row."""
    assert verify(["--run", str(run)]) == 0
    counts = manifest(run)["counts"]
    assert counts["candidates"] == counts["captions"] + sum(reasons(run).values())


# An outage of the name servers.

NAMES = 60


def named(server: Server, folder: Path) -> Path:
    """Write a list of images on many sites, each with a name."""
    urls = [server.url(f"picture?{i}", f"site{i}.test") for i in range(NAMES)]
    return url_list(folder / "list.csv", urls)


def test_an_outage_of_names_stops_the_run_and_the_same_command_completes_it(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """The resolver answers nothing, not even for example.com: loud, nothing burned, and it goes on."""
    handler = logging.StreamHandler(sys.stderr)  # as the real command has
    monkeypatch.setattr(logging.root, "handlers", [handler])
    monkeypatch.setattr(dns, "CONTROL_SECONDS", 0.01)
    monkeypatch.setattr("pipeline.http.dns_client.TRIES", (0.1, 0.1))
    answers: list[Answer] = [SILENT]
    with NameServer(lambda _: answers[0]) as names:
        argv = arguments(
            tmp_path, named(server, tmp_path), "--dns-server", names.address, "--host-delay", "0"
        )
        assert main(argv) == 1
        said = capfd.readouterr().err
        assert re.search(r"100% of the last \d+ names got no answer, nor did example.com for a minute", said)
        assert "--dns-server" in said and "the same command" in said and "Traceback" not in said
        assert not list((tmp_path / "run/work/fetch/round-0").glob("*.json")), "no image is written off"
        assert not (tmp_path / "run/manifest.json").exists() and server.requests == []
        answers[0] = ["127.0.0.2"]
        assert main(argv) == 0
    assert len(samples(tmp_path / "run")) == NAMES and not reasons(tmp_path / "run")
    is_whole(tmp_path / "run")


@pytest.mark.parametrize(("threshold", "code"), [("0.5", 0), ("0.2", 1)])
def test_dead_names_below_the_threshold_are_rows(
    server: Server, tmp_path: Path, threshold: str, code: int, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    """A third of the names is not answered: that is an old list, unless --max-dns-failures says otherwise."""
    monkeypatch.setattr(dns, "CONTROL_SECONDS", 0.01)

    def answer(name: str) -> Answer:
        is_dead = name == dns.CONTROL or int(name.removeprefix("site").removesuffix(".test")) % 3 == 0
        return 2 if is_dead else ["127.0.0.2"]

    with NameServer(answer) as names:
        argv = arguments(tmp_path, named(server, tmp_path), "--dns-server", names.address)
        assert main([*argv, "--host-delay", "0", "--max-dns-failures", threshold]) == code
    if code:
        assert "--dns-server" in capfd.readouterr().err
        return
    assert reasons(tmp_path / "run") == {"dns_error": NAMES // 3}
    assert len(samples(tmp_path / "run")) == NAMES * 2 // 3
    is_whole(tmp_path / "run")


# Pages that reserve their images, and sites that are deferred.


def page(server: Server, numbers: range, host: str, head: str = "") -> bytes:
    """Return a page of pictures."""
    urls = [server.url(f"picture?{n}", host) for n in numbers]
    images = "".join(f'<img src="{url}" alt="a boat of {url[-10:]}">' for url in urls)
    return f"<html><head>{head}</head><body>{images}</body></html>".encode()


def write_warc(path: Path, pages: list[tuple[bytes, dict[str, str]]]) -> Path:
    """Write pages, each with the headers that it was served with."""
    with path.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for number, (body, headers) in enumerate(pages):
            lines = [("Content-Type", "text/html"), *headers.items()]
            said = StatusAndHeaders("200 OK", lines, protocol="HTTP/1.1")
            record = writer.create_warc_record(
                f"http://pages.test/{number}", "response", payload=io.BytesIO(body), http_headers=said
            )
            writer.write_record(record)
    return path


def test_reserved_pages_and_put_off_sites_end_in_rows_the_report_and_the_accounting(
    server: Server, tmp_path: Path, capfd: Any
) -> None:
    """Ten pictures of a site that may give two a round, and pages that say noai in four ways."""
    noai = '<meta name="robots" content="noai">'
    source = write_warc(
        tmp_path / "pages.warc.gz",
        [
            (page(server, range(10), "slow.test"), {}),
            (page(server, range(10, 13), "slow.test", noai), {}),
            (page(server, range(13, 15), "slow.test", '<meta name="tdm-reservation" content="1">'), {}),
            (page(server, range(15, 16), "slow.test"), {"X-Robots-Tag": "noimageai"}),
        ],
    )
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_bytes(page(server, range(16, 18), "slow.test", noai))
    with NameServer(lambda _: ["127.0.0.2"]) as names:
        argv = arguments(
            tmp_path, source, "--source", str(tmp_path / "site"), "--base-url", "http://pages.test/"
        )
        argv += ["--dns-server", names.address, "--host-delay", "0.05"]
        run = tmp_path / "run"
        assert main([*argv, "--unit-seconds", "0.1"]) == 0
        assert reasons(run) == {"deferred": 8, "opt_out_page": 8}
        assert "8 captions stand at images of sites that were slower" in capfd.readouterr().out
        shown = {row["detail"] for row in rejected(run) if row["reason"] == "opt_out_page"}
        assert shown == {
            "meta robots: noai",
            "meta tdm-reservation: 1",
            "X-Robots-Tag of the page: noimageai",
        }
        told = (run / "report/index.html").read_text()
        assert "opt_out_page" in told and "deferred" in told
        by_stage = json.loads((run / "report/report.json").read_text())["counts"]["rejected_by_stage"]
        assert by_stage == {"candidates": {"opt_out_page": 8}, "fetch": {"deferred": 8}}
        is_whole(run)
        assert len(server.asked("picture")) == len(samples(run)) == 2
        assert main([*argv, "--unit-seconds", "60", "--retry-failed"]) == 0
    assert reasons(run) == {"opt_out_page": 8} and len(samples(run)) == 10
    asked = [request.path for request in server.asked("picture")]
    assert sorted(asked) == [f"/picture?{n}" for n in range(10)], "each once, and none that is reserved"
    is_whole(run)


# Results that the order of the input, or repeating it, must not change.


def test_shuffled_and_repeated_input_gives_the_same_set(server: Server, tmp_path: Path) -> None:
    captions = {server.url(f"picture?{i}"): f"a boat of number{i}" for i in range(40)}
    urls = list(captions)
    shuffled = random.Random(0).sample(urls, len(urls))
    found = []
    for name, listed in (("plain", urls), ("shuffled", shuffled), ("twice", urls * 2)):
        folder = tmp_path / name
        folder.mkdir()
        lines = ["url,caption", *(f"{url},{captions[url]}" for url in listed), ""]
        (folder / "list.csv").write_text("\n".join(lines))
        assert main(arguments(folder, folder / "list.csv", "--per-query", "20")) == 0
        found.append({shard["name"]: shard["sha256"] for shard in manifest(folder / "run")["shards"]})
        assert len(samples(folder / "run")) == 20
    assert found[0] == found[1] == found[2]


# Data that must never be written down.


def test_no_password_of_a_url_gets_into_a_file(server: Server, tmp_path: Path, capfd: Any) -> None:
    """In references and page addresses; a source with such an address is refused."""
    open_one = server.url("picture?1", "a.test")
    secret = open_one.replace("//", "//user:pa55word@")
    urls = [open_one, secret, secret.removeprefix("http:"), "http:user:pa55word@a.test/"]
    images = "".join(f'<img src="{url}" alt="a boat of number{n}">' for n, url in enumerate(urls))
    (tmp_path / "list.csv").write_text(f"url,caption\n{secret},a boat\nhttp://u:pa55word@[x/,a boat\n")
    source = tmp_path / "pages.warc.gz"
    with source.open("wb") as file:
        writer = WARCWriter(file, gzip=False)
        said = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
        body = io.BytesIO(images.encode())
        record = writer.create_warc_record(
            "http://user:pa55word@pages.test/", "response", payload=body, http_headers=said
        )
        writer.write_record(record)
    with NameServer(lambda _: ["127.0.0.2"]) as names:
        argv = arguments(tmp_path, source, "--source", str(tmp_path / "list.csv"), "--keep-staging")
        assert main([*argv, "--dns-server", names.address, "--log-json", str(tmp_path / "run.jsonl")]) == 0
    assert reasons(tmp_path / "run") == {"bad_url": 5} and len(samples(tmp_path / "run")) == 1
    told = capfd.readouterr()
    assert "pa55word" not in told.out + told.err + (tmp_path / "run.jsonl").read_text()
    import pyarrow.parquet as pq

    for path in (tmp_path / "run").rglob("*.*"):
        if path.suffix == ".parquet":
            assert "pa55word" not in str(pq.read_table(path).to_pylist()), path
        elif path.is_file():
            assert b"pa55word" not in path.read_bytes(), path
    with pytest.raises(SystemExit):
        main(arguments(tmp_path, "https://user:pa55word@example.org/list.csv"))
    told = capfd.readouterr()
    assert "user name or password" in told.err and "pa55word" not in told.err
