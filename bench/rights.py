"""The cost of everything that asks about rights: a crawl with all of it off, honoured, and all of it on.

    python -m bench.rights
    python -m bench.rights --images 500 --rounds 1

The same list is crawled over http from one loopback server, 50 images to a site, by turns in each way, and
the CPU time of all processes but the server's counts; that of a list of one site is taken off, as the cost of
the command itself. Half of the pictures have XMP with a licence, a fifth a
C2PA manifest. `off` asks for robots.txt alone and judges no signal; the pictures' statements of their terms
are read in every way, and timed by themselves below the table. `honoured` is the default. `everything` signs
each request and the manifest as well, drops synthetic pictures, masks contacts in captions and adds each
picture's ISCC. The cost of finding faces is in bench.faces.
"""

import argparse
import io
import statistics
import sys
import tempfile
import time
from pathlib import Path

from PIL import Image
from sklearn.datasets import load_sample_images

from bench.loopback import SITE_IMAGES, serve, urls
from bench.tables import show
from bench.usage import Usage, measure
from pipeline import keys
from pipeline.images import said

MANIFEST = Path(__file__).parents[1] / "tests" / "rights" / "c2pa_allowed.webp"
XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    '<rdf:Description xmlns:cc="http://creativecommons.org/ns#" xmlns:dc="http://purl.org/dc/elements/1.1/" '
    'cc:license="https://creativecommons.org/licenses/by/4.0/" dc:rights="(c) Ann Li"/></rdf:RDF></x:xmpmeta>'
)


def pictures() -> list[bytes]:
    """Return ten JPEGs of 640 x 427 pixels from scikit-learn's two photographs."""
    found = []
    for number in range(10):
        photo = Image.fromarray(load_sample_images().images[number % 2])
        photo = photo.rotate(number).resize((640, 427))
        buffer = io.BytesIO()
        photo.save(buffer, "JPEG", quality=90, xmp=XMP.encode() if number < 5 else b"")
        data = buffer.getvalue()
        found.append(data if number % 5 else _with_manifest(data))
    return found


def _with_manifest(data: bytes) -> bytes:
    """Return a JPEG with the manifest store of a fixture, in segments APP11 (ISO/IEC 19566-5)."""
    from pipeline.images.embedded import find

    store = find(MANIFEST.read_bytes()).jumbf
    head = b"JP\0\1\0\0\0\1"
    return data[:2] + b"\xff\xeb" + (2 + len(head) + len(store)).to_bytes(2, "big") + head + store + data[2:]


def crawl(folder: Path, name: str, source: str, *flags: str) -> Usage:
    """Crawl a list by a command of its own."""
    line = [
        "crawl", "--preset", "img2dataset", "--source", str(folder / source), "--out",
        str(folder / name), "--workers", "1", "--host-delay", "0", "--allow-network", "127.0.0.0/8", *flags,
    ]  # fmt: skip
    return measure([sys.executable, "-m", "beam_job", *line], log=folder / f"{name}.log")


def main() -> int:
    """Print CPU milliseconds an image in each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="openwit-rights-") as name:
        folder = Path(name)
        requests, manifest = folder / "requests.jwk", folder / "manifest.jwk"
        for key in (requests, manifest):
            keys.generate(key, "https://bot.example.org")
        everything = [
            "--sign-with", str(requests), "--sign-manifest", str(manifest), "--iscc", "--mask-contacts",
            "--drop-synthetic",
        ]  # fmt: skip
        ways = {"off": ["--opt-out"], "honoured": [], "everything": everything}
        own = pictures()
        cpu: dict[str, list[float]] = {way: [] for way in ways}
        with serve(own, folder, -(-given.images // SITE_IMAGES), "http") as port:
            listed = urls(given.images, port, "http")
            (folder / "all.txt").write_text("\n".join(listed) + "\n")
            (folder / "few.txt").write_text("\n".join(listed[:SITE_IMAGES]) + "\n")
            for turn in range(given.rounds):
                for way, flags in ways.items():
                    start = crawl(folder, f"{way}-{turn}-few", "few.txt", *flags)
                    used = crawl(folder, f"{way}-{turn}", "all.txt", *flags)
                    cpu[way].append(1e3 * (used.cpu_s - start.cpu_s) / (given.images - SITE_IMAGES))
        off = statistics.median(cpu["off"])
        rows = [
            (way, f"{statistics.median(found):.2f}", f"{min(found):.2f} to {max(found):.2f}",
             f"{statistics.median(found) / off:.2f}")
            for way, found in cpu.items()
        ]  # fmt: skip
        columns = ("way", "CPU ms an image", "range", "beside off")
        show(f"{given.images:,} images of 640 x 427, {SITE_IMAGES} to a site", columns, rows)
    started, turns = time.process_time(), 200
    for _ in range(turns):
        for data in own:
            said.read(data)
    each = 1e6 * (time.process_time() - started) / (turns * len(own))
    print(f"\nreading a picture's statements: {each:.0f} us")
    return 0


if __name__ == "__main__":
    sys.exit(main())
