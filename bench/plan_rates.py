"""Measure the crawl's rates on this machine for `openwit plan --rates FILE`.

    python -m bench.plan_rates --out rates.toml

Each stage runs by itself at two sizes against a loopback server (bench.loopback), both large enough that both
worker processes have work; the slope is its rate and the remainder its start-up. CPU time of all processes.
Rates of captions, of WAT and WARC parsing, of select at many rows and of GPUs stay those of the package:
bench.candidates_rows, bench.wat, bench.select_rows and bench/gpu.sh measure them.
"""

import argparse
import re
import tempfile
import tomllib
from importlib import resources
from pathlib import Path

from bench import loopback
from bench.img2dataset import PICTURES, run_ours, write_list
from bench.resize import synthetic
from bench.usage import Usage

PIECES, PROCESSES = 10, 2
STAGES = ("candidates", "select", "fetch", "finish")

Rates = dict[tuple[str, str], float]


def stage_usage(
    scheme: str, sizes: tuple[int, int], pictures: list[bytes], folder: Path
) -> dict[str, list[Usage]]:
    """Return the cost of each stage at both sizes."""
    found: dict[str, list[Usage]] = {stage: [] for stage in STAGES}
    certificates = {"SSL_CERT_FILE": str(folder / "ca.pem")} if scheme == "https" else {}
    with loopback.serve(pictures, folder, -(-sizes[1] // loopback.SITE_IMAGES), scheme) as port:
        for size in sizes:
            out = folder / f"{scheme}-{size}"
            source = folder / f"{scheme}-{size}-list"
            source.mkdir()
            addresses = loopback.urls(size, port, scheme)
            for piece in range(PIECES):
                write_list(source / f"{piece}.parquet", addresses[piece::PIECES])
            for stage in STAGES:
                usage = run_ours(source / "*.parquet", out, Path(f"{out}.log"), certificates, stage)
                found[stage].append(usage)
    return found


def round_usage(size: int, pictures: list[bytes], folder: Path) -> tuple[float, float]:
    """Return the CPU and wall seconds that a further round adds, where every fifth image is gone."""
    found = []
    with loopback.serve(pictures, folder, -(-size // loopback.SITE_IMAGES), "http") as port:
        addresses = loopback.urls(size, port, "http")
        gone = [url.replace(".jpg", ".gone") if n % 5 == 0 else url for n, url in enumerate(addresses)]
        write_list(folder / "gone.parquet", gone)
        for rounds in (1, 2):
            out = folder / f"rounds-{rounds}"
            for stage in STAGES[:3]:
                usage = run_ours(
                    folder / "gone.parquet", out, Path(f"{out}.log"), {}, stage, rounds, size // 10
                )
            found.append(usage)
        assert (folder / "rounds-2" / "work/fetch/round-1").is_dir(), "the second round had nothing to do"
    return found[1].cpu_s - found[0].cpu_s, found[1].wall_s - found[0].wall_s


def line(values: list[float], sizes: tuple[int, int]) -> tuple[float, float]:
    """Return (cost before the first image, cost per image)."""
    slope = max(0.0, (values[1] - values[0]) / (sizes[1] - sizes[0]))
    return max(0.0, values[0] - slope * sizes[0]), slope


def rates(http: dict[str, list[Usage]], https: dict[str, list[Usage]], sizes: tuple[int, int]) -> Rates:
    """Return the measured entries of a rates file."""
    found: Rates = {}
    for stage in STAGES:
        cpu, wall = ([getattr(usage, what) for usage in http[stage]] for what in ("cpu_s", "wall_s"))
        start, slope = line(cpu, sizes)
        found[stage, "start_s"] = start / PROCESSES
        found[stage, "start_wall_s"] = line(wall, sizes)[0]
        if stage == "fetch":
            found[stage, "http_image_ms"] = slope * 1e3
            found[stage, "https_image_ms"] = line([usage.cpu_s for usage in https[stage]], sizes)[1] * 1e3
        elif stage == "finish":
            found[stage, "image_ms"] = slope * 1e3
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs=2, default=[2500, 7500])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    sizes = (arguments.sizes[0], arguments.sizes[1])
    pictures = synthetic(640, 480, PICTURES)
    with tempfile.TemporaryDirectory() as scratch:
        http, https = (stage_usage(scheme, sizes, pictures, Path(scratch)) for scheme in ("http", "https"))
        cpu_s, wall_s = round_usage(sizes[0], pictures, Path(scratch))
    values = rates(http, https, sizes)
    values["fetch", "round_s"], values["fetch", "round_wall_s"] = cpu_s / PROCESSES, wall_s
    text = resources.files("pipeline.plan").joinpath("rates.toml").read_text()
    table = ""
    lines = []
    for old in text.splitlines():
        table = old.strip("[]") if old.startswith("[") else table
        value = values.get((table, old.partition(" =")[0]))
        lines.append(old if value is None else re.sub(r"= [\d.]+", f"= {value:.3g}", old))
    arguments.out.write_text("\n".join(lines) + "\n")
    tomllib.loads(arguments.out.read_text())
    print(arguments.out.read_text())


if __name__ == "__main__":
    main()
