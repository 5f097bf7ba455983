"""Measure the crawl's rates on this machine for `openwit plan --rates FILE`.

    python -m bench.plan_rates --out rates.toml

Each stage runs by itself at two sizes against a loopback server (bench.loopback); the slope is its rate and
what is left its start-up. CPU time of all processes. Rates of WAT and WARC parsing, of select at many rows
and of GPUs stay those of the package: bench.wat, bench.select_rows and bench/gpu.sh measure them.
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

STAGES = ("candidates", "select", "fetch", "finish")


def stage_seconds(
    scheme: str, sizes: tuple[int, int], pictures: list[bytes], folder: Path
) -> dict[str, list[float]]:
    """Return the CPU seconds of each stage at both sizes."""
    found: dict[str, list[float]] = {stage: [] for stage in STAGES}
    certificates = {"SSL_CERT_FILE": str(folder / "ca.pem")} if scheme == "https" else {}
    with loopback.serve(pictures, folder, -(-sizes[1] // loopback.SITE_IMAGES), scheme) as port:
        for size in sizes:
            source = folder / f"{scheme}-{size}.parquet"
            write_list(source, loopback.urls(size, port, scheme))
            for stage in STAGES:
                out = folder / f"{scheme}-{size}"
                usage = run_ours(source, out, Path(f"{out}.log"), certificates, stage)
                found[stage].append(usage.cpu_s)
    return found


def line(seconds: list[float], sizes: tuple[int, int]) -> tuple[float, float]:
    """Return (seconds of start-up, seconds an image)."""
    slope = (seconds[1] - seconds[0]) / (sizes[1] - sizes[0])
    return max(0.0, seconds[0] - slope * sizes[0]), slope


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sizes", type=int, nargs=2, default=[500, 2500])
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    sizes = (arguments.sizes[0], arguments.sizes[1])
    pictures = synthetic(640, 480, PICTURES)
    with tempfile.TemporaryDirectory() as scratch:
        http, https = (stage_seconds(scheme, sizes, pictures, Path(scratch)) for scheme in ("http", "https"))
    values = {
        ("candidates", "start_s"): line(http["candidates"], sizes)[0],
        ("candidates", "caption_us"): line(http["candidates"], sizes)[1] * 1e6,
        ("select", "start_s"): line(http["select"], sizes)[0],
        ("fetch", "start_s"): line(http["fetch"], sizes)[0],
        ("fetch", "http_image_ms"): line(http["fetch"], sizes)[1] * 1e3,
        ("fetch", "https_image_ms"): line(https["fetch"], sizes)[1] * 1e3,
        ("finish", "start_s"): line(http["finish"], sizes)[0],
        ("finish", "image_ms"): line(http["finish"], sizes)[1] * 1e3,
    }
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
