"""Politeness: many sites at one request a second each, from several worker processes; read from the server.

    python -m bench.politeness [--sites 200] [--workers 4] [--seconds 30] [--dead 0.2]

Each site has an address of its own (127.x.y.z) and a name, which a name server on loopback answers late, or
for a share of dead names never. As units are cut, each site is one worker's. The web server notes when each
request arrives, so the figures are its own: the most requests to one site in any second and in any ten, the
requests per second in all, with and without dead names.
"""

import argparse
import asyncio
import itertools
import multiprocessing
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from pipeline.http.fetch_thread import FetchLoop
from pipeline.options import FetchOptions
from tests.nameserver import SILENT, Answer, NameServer

PORT = 18_000
BODY = b"\xff\xd8\xff" + bytes(2000)
JITTER = 0.1  # seconds: a request whose connection is yet to be made arrives later than it starts


def address(site: int) -> str:
    """Return the site's own address."""
    return f"127.1.{site // 250}.{site % 250 + 1}"


def answer(name: str) -> Answer:
    """Answer siteN.test with its address, dead names never, others with NXDOMAIN."""
    kind = name.partition(".")[0]
    if kind.startswith("dead"):
        return SILENT
    return [address(int(kind.removeprefix("site")))] if kind.startswith("site") else 3


def serve(sites: int, ready: Any, stop: Any, queue: Any) -> None:
    """Serve all sites from one socket; give back the time of arrival of each request, by site."""
    arrived: dict[str, list[float]] = defaultdict(list)

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                path = head.split(b" ", 2)[1]
                arrived[writer.get_extra_info("sockname")[0]].append(time.monotonic())
                found = path not in (b"/robots.txt", b"/.well-known/tdmrep.json", b"/ai.txt")
                status, body = (b"200 OK", BODY) if found else (b"404 Not Found", b"")
                writer.write(b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
        except (OSError, asyncio.IncompleteReadError):
            writer.close()

    async def run() -> None:
        async with await asyncio.start_server(talk, "0.0.0.0", PORT, backlog=4096):
            ready.set()
            await asyncio.to_thread(stop.wait)

    asyncio.run(run())
    queue.put({site: arrived[address(site)] for site in range(sites)})


def rows(sites: int, dead: float, worker: int, workers: int, seconds: int) -> Iterator[tuple[object, str]]:
    """Yield one worker's sites, and dead names among them."""
    for number in range(seconds):
        for site in range(worker, sites, workers):
            yield None, f"http://site{site}.test:{PORT}/{number}.jpg"
    for number in range(worker, int(sites * seconds * dead), workers):
        yield None, f"http://dead{number}.test:{PORT}/0.jpg"


def work(sites: int, dead: float, worker: int, workers: int, seconds: int, names: str) -> None:
    """Fetch one worker's sites."""
    options = FetchOptions(
        contact="https://example.org/crawl", allow_network=("127.0.0.0/8",), dns_server=(names,),
        host_delay=1.0, max_inflight=256,
    )  # fmt: skip
    with FetchLoop(options) as loop:
        for _, outcome in loop.run(rows(sites, dead, worker, workers, seconds), deadline=seconds):
            if outcome.reason not in ("", "dns_error", "deferred"):
                raise RuntimeError(f"{outcome.url}: {outcome.reason} {outcome.detail}")


def measure(sites: int, workers: int, seconds: int, dead: float) -> tuple[int, int, float]:
    """Return the most requests to a site in any 1 s and in any 10 s, and the requests per second in all."""
    context = multiprocessing.get_context("spawn")
    ready, stop, queue = context.Event(), context.Event(), context.Queue()
    server = context.Process(target=serve, args=(sites, ready, stop, queue))
    server.start()
    ready.wait()
    with NameServer(answer, delay=0.05) as names:
        started = [
            context.Process(target=work, args=(sites, dead, worker, workers, seconds, names.address))
            for worker in range(workers)
        ]
        for process in started:
            process.start()
        for process in started:
            process.join()
            if process.exitcode:
                raise RuntimeError("a worker failed")
    stop.set()
    times = queue.get()
    server.join()
    every = sorted(itertools.chain.from_iterable(times.values()))
    # Workers start in turn: the rate is that of the middle, when all are under way.
    first, last = every[0] + 0.25 * (every[-1] - every[0]), every[0] + 0.75 * (every[-1] - every[0])
    rate = sum(first <= moment < last for moment in every) / (last - first)
    return most(times, 1.0), most(times, 10.0), rate


def most(times: dict[int, list[float]], seconds: float) -> int:
    """Return the most requests to one site in any window of `seconds`, its end not included."""
    found = 0
    for each in times.values():
        ordered, start = sorted(each), 0
        for end, moment in enumerate(ordered):
            while ordered[start] <= moment - seconds + JITTER:
                start += 1
            found = max(found, end - start + 1)
    return found


def main() -> None:
    """Measure with and without dead names, and print both."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sites", type=int, default=200)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--seconds", type=int, default=30)
    parser.add_argument("--dead", type=float, default=0.2)
    args = parser.parse_args()
    print(f"{args.sites} sites at 1 request/s, {args.workers} workers, {args.seconds} s")
    print("dead names | most requests to one site in any 1 s | in any 10 s | requests/s in all")
    for dead in (0.0, args.dead):
        second, ten, rate = measure(args.sites, args.workers, args.seconds, dead)
        share = f"{rate / args.sites:.1%} of {args.sites}"
        print(f"{dead:10.0%} | {second:36} | {ten:11} | {rate:8.1f} ({share})", flush=True)


if __name__ == "__main__":
    main()
