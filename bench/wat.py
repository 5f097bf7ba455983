"""Measure how fast a Common Crawl WAT file is parsed, beside cc2dataset's published method.

    python -m bench.wat [--wat FILE] [--megabytes 100] [--repeat 3]

Without --wat, a seeded generator writes one as Common Crawl does: three records a page (request, response,
metadata), each a gzip member, with the links, images and metadata of ordinary pages. cc2dataset's method, by
its description, is warcio's iterator, json.loads on every metadata record, and a loop over Links that takes
each IMG@/src with an alt; ours resolves each URL against its page besides. Both must find the same pairs.
Figures are megabytes of WAT, uncompressed, per second of CPU time; the best of --repeat.
"""

import argparse
import gzip
import importlib.metadata
import json
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from warcio.archiveiterator import ArchiveIterator

from bench.tables import show
from pipeline.sources import SourceOptions, plan, read

WORDS = [word for word in __doc__.split() if word.isalpha()] + ["photo", "harbour", "night", "boat"]
NAMES = sorted({word.lower() for word in WORDS})


def main() -> None:
    """Build or take a WAT, time both ways, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wat", type=Path, help="a WAT file, instead of a generated one")
    parser.add_argument("--megabytes", type=int, default=100, help="uncompressed size of the generated file")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way, of which the best counts")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openwit-bench-") as folder:
        path = arguments.wat or generate(Path(folder) / "generated.warc.wat.gz", arguments.megabytes)
        with gzip.open(path) as file:
            size = sum(map(len, iter(lambda: file.read(1 << 20), b"")))
        ways: dict[str, Callable[[Path], list[str]]] = {"cc2dataset's method": published, "openwit": ours}
        best = {name: float("inf") for name in ways}
        found: dict[str, list[str]] = {}
        for _ in range(arguments.repeat):  # in turns, so that both meet the same machine
            for name, way in ways.items():
                start = time.process_time()
                found[name] = way(path)
                best[name] = min(best[name], time.process_time() - start)
        stored = path.stat().st_size
    first, second = found.values()
    assert first == second, "the two ways disagree"  # the same alts in the same order
    report(size, stored, len(first), best)


def ours(path: Path) -> list[str]:
    """Return the alts by `pipeline.sources`: every image is resolved and takes its texts along."""
    options = SourceOptions(source_format="wat", piece_bytes=1 << 40)
    (piece,) = plan([str(path)], options)
    return [text for image in read(piece, options) for kind, text in image.texts if kind == "alt"]


def published(path: Path) -> list[str]:
    """Return the alts as cc2dataset finds them."""
    alts: list[str] = []
    with path.open("rb") as file:
        for record in ArchiveIterator(file):
            if record.rec_type != "metadata":
                continue
            response = json.loads(record.content_stream().read())["Envelope"]["Payload-Metadata"]
            page = response.get("HTTP-Response-Metadata", {}).get("HTML-Metadata", {})
            for link in page.get("Links", []):
                if link.get("path") == "IMG@/src" and link.get("url") and link.get("alt", "").strip():
                    alts.append(link["alt"].strip())
    return alts


def generate(path: Path, megabytes: int) -> Path:
    """Write a WAT of about `megabytes`, the same for the same size."""
    rng = random.Random(0)
    written = 0
    with path.open("wb") as file:
        for number in range(1 << 30):
            for record in page_records(rng, number):
                file.write(gzip.compress(record, 6, mtime=0))
                written += len(record)
            if written >= megabytes * 1_000_000:
                return path
    raise AssertionError


def page_records(rng: random.Random, number: int) -> Iterator[bytes]:
    """Yield the request, response and metadata records of a page.

    Means: 30 KB, 12 images (four in five with alt) and 260 other links, about those of real crawls.
    """
    host = f"https://www.site{rng.randrange(2000)}.example"
    uri = f"{host}/{slug(rng)}/{slug(rng)}.html"
    headers = {"Content-Type": "text/html; charset=UTF-8", "Server": "nginx", "Vary": ["Accept", "Cookie"]}
    links: list[dict[str, str]] = []
    for _ in range(int(rng.expovariate(1 / 260))):
        links.append({"path": "A@/href", "url": f"/{slug(rng)}/{slug(rng)}", "text": phrase(rng, 4)})
    for i in range(int(rng.expovariate(1 / 12))):
        image = {
            "path": "IMG@/src",
            "url": f"/wp-content/uploads/2023/{i % 12 + 1:02}/{slug(rng)}-300x200.jpg",
        }
        if rng.random() < 0.8:
            image["alt"] = phrase(rng, 6)
        if rng.random() < 0.1:
            image["title"] = phrase(rng, 4)
        links.insert(rng.randint(0, len(links)), image)
    metas = [{"name": slug(rng), "content": phrase(rng, 12)} for _ in range(rng.randint(2, 12))]
    if rng.random() < 0.5:
        metas.append({"property": "og:title", "content": phrase(rng, 6)})
        metas.append({"property": "og:image", "content": f"{host}/{slug(rng)}.jpg"})
    head: dict[str, object] = {"Base": "/"} if rng.random() < 0.03 else {}
    head |= {"Metas": metas, "Title": phrase(rng, 8)}
    head["Link"] = [
        {"path": "LINK@/href", "url": f"/css/{slug(rng)}.css", "rel": "stylesheet"} for _ in range(12)
    ]
    head["Scripts"] = [{"path": "SCRIPT@/src", "url": f"/js/{slug(rng)}.js"} for _ in range(12)]
    response = {
        "Response-Message": {"Status": "200", "Version": "HTTP/1.1", "Reason": "OK"},
        "Headers": headers,
        "HTML-Metadata": {"Head": head, "Links": links},
    }
    for kind, metadata in (
        ("request", {"HTTP-Request-Metadata": {"Request-Message": {"Method": "GET"}, "Headers": headers}}),
        ("response", {"HTTP-Response-Metadata": response}),
        (
            "metadata",
            {"WARC-Metadata-Metadata": {"Metadata-Records": [{"Name": "fetchTimeMs", "Value": "312"}]}},
        ),
    ):
        container = {"Filename": "CC-MAIN-generated.warc.gz", "Compressed": True, "Offset": str(number)}
        warc = {"WARC-Type": kind, "WARC-Date": "2024-01-01T00:00:00Z", "WARC-Target-URI": uri}
        envelope = {"Payload-Metadata": metadata, "Format": "WARC/1.0", "WARC-Header-Metadata": warc}
        value = {"Container": container, "Envelope": envelope}
        body = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        lines = (
            "WARC/1.0",
            "WARC-Type: metadata",
            f"WARC-Target-URI: {uri}",
            "WARC-Date: 2024-01-01T00:00:00Z",
        )
        ident = f"WARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012}>"
        rest = (ident, "Content-Type: application/json", f"Content-Length: {len(body)}", "", "")
        yield "\r\n".join((*lines, *rest)).encode() + body + b"\r\n\r\n"


def phrase(rng: random.Random, mean: int) -> str:
    """Return some words, with the quotes, escapes and accents that texts have."""
    return " ".join(rng.choices(WORDS, k=rng.randint(1, 2 * mean))) + rng.choice(
        ("", "", "", ' "quoted"', " café {x}")
    )


def slug(rng: random.Random) -> str:
    """Return a part of a path."""
    return "-".join(rng.choices(NAMES, k=rng.randint(1, 4)))


def report(size: int, stored: int, pairs: int, best: dict[str, float]) -> None:
    """Print the table and the JSON."""
    peer = best["cc2dataset's method"]
    show(
        f"WAT parsing: {size / 1e6:.0f} MB ({stored / 1e6:.0f} MB stored), {pairs:,} pairs with alt",
        ("way", "CPU s", "MB/s", "pairs/s", "ratio"),
        [
            (name, f"{seconds:.2f}", f"{size / 1e6 / seconds:.0f}", f"{pairs / seconds:,.0f}",
             f"{peer / seconds:.2f}")
            for name, seconds in best.items()
        ],
    )  # fmt: skip
    packages = ("fastwarc", "orjson", "warcio", "can_ada", "isal")
    found = {
        one.metadata["Name"].lower().replace("-", "_"): one.version
        for one in importlib.metadata.distributions()
    }
    versions = {name: found.get(name) for name in packages}
    rates = {name: round(size / 1e6 / seconds, 1) for name, seconds in best.items()}
    result = {"bytes": size, "pairs": pairs, "mb_per_s": rates, "python": platform.python_version()}
    print(json.dumps(result | {"versions": versions}))


if __name__ == "__main__":
    main()
