"""The cost of a small crawl beside loading Beam: CPU and wall time of 40, 400 and 2,000 images.

    python -m bench.small_crawl
    python -m bench.small_crawl --images 40 --rounds 3

The same crawl twice, by openwit itself and with `--runner FnApiRunner`, over http from one loopback server;
`import apache_beam` alone is the measure. CPU time is that of all processes but the server's. The number of
Beam jobs is that of the pipelines that Beam is asked to run. Both runs must write the same shards.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from bench.tables import show
from bench.usage import Usage, measure
from pipeline.demo.server import serve
from pipeline.demo.web import build

HERE = ("--runner", "FnApiRunner")
COUNTED = """
import sys
from beam_job import main
path, arguments = sys.argv[1], sys.argv[2:]
if "--runner" in arguments:
    from pipeline.flow.beam_runner import BeamRunner
    wait = BeamRunner._wait
    def counted(self, pipeline):
        with open(path, "ab") as file:
            file.write(b"1")
        wait(self, pipeline)
    BeamRunner._wait = counted
sys.exit(main(arguments))
"""


def crawl(root: Path, urls: Path, out: Path, rounds: int, *flags: str) -> Usage:
    """Crawl a list by a command of its own."""
    log = root / f"{out.name}.log"
    arguments = [
        "crawl", "--queries", "all", "--source", str(urls), "--out", str(out), "--lang", "any",
        "--rounds", str(rounds), "--host-delay", "0", "--allow-network", "127.0.0.0/8", *flags,
    ]  # fmt: skip
    return measure([sys.executable, "-c", COUNTED, str(root / f"{out.name}.jobs"), *arguments], log=log)


def shards(out: Path) -> list[bytes]:
    """Return a run's tars."""
    return [path.read_bytes() for path in sorted((out / "shards").glob("*.tar"))]


def jobs(root: Path, out: Path) -> int:
    """Return how many Beam jobs a run took."""
    path = root / f"{out.name}.jobs"
    return path.stat().st_size if path.exists() else 0


def main() -> int:
    """Print the table; return 1 if the two ways differ."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[40, 400, 2000])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    differ = False
    with tempfile.TemporaryDirectory(prefix="openwit-small-crawl-") as folder:
        root = Path(folder)
        most = max(*given.images, 48)
        web = build(root / "web", seed=1, n_images=most, n_sites=most // 4)
        load = measure([sys.executable, "-c", "import apache_beam"])
        rows = [("import apache_beam", "", f"{load.cpu_s:.1f}", f"{load.wall_s:.1f}", "1", "")]
        whole = pq.read_table(web.folder / "urls.parquet")
        for images in given.images:
            urls = root / f"{images}.parquet"
            pq.write_table(whole.slice(0, images), urls)
            outs = [root / f"{images}-{name}" for name in ("openwit", "beam")]
            for out, flags in zip(outs, ((), HERE), strict=True):
                with serve(web):  # anew: of one picture it refuses the first request
                    usage = crawl(root, urls, out, given.rounds, *flags)
                rows.append(
                    (
                        f"{images} images", "FnApiRunner" if flags else "no runner",
                        f"{usage.cpu_s:.1f}", f"{usage.wall_s:.1f}", f"{usage.cpu_s / load.cpu_s:.1f}",
                        str(jobs(root, out)),
                    )
                )  # fmt: skip
            differ |= shards(outs[0]) != shards(outs[1])
    columns = ("crawl of", "by", "CPU s", "wall s", "times the import", "Beam jobs")
    show("A small crawl", columns, rows, texts=2)
    print("the shards differ" if differ else "the shards are the same, byte for byte")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
