"""Run crawls in tests, and read their files."""

import contextlib
import json
import urllib.error
import urllib.request
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.demo.web import Web
from pipeline.reasons import REASONS


def arguments(web: Web, out: Path, *extra: str) -> list[str]:
    """Return `openwit crawl` arguments for a served web; later arguments win.

    The times are long, so that a busy machine does not change which images arrive.
    """
    return [
        "--queries", str(web.queries), "--source", str(web.warc), "--out", str(out), "--timeout", "90",
        "--connect-timeout", "60", "--read-timeout", "60", "--min-rate", "0",
        "--allow-network", "127.0.0.0/8", "--samples-per-shard", "100", *extra,
    ]  # fmt: skip


def settle(web: Web) -> None:
    """Ask for the URLs that the server refuses the first time, so that all later runs are alike."""
    for (site, path), answer in web.answers.items():
        for _ in range(answer.fail_first):
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(web.url_of(site) + path.lstrip("/"), timeout=10).close()


def crawl(web: Web, out: Path, *extra: str) -> Path:
    """Crawl in this process; the run must be complete."""
    settle(web)
    assert main(arguments(web, out, *extra)) == 0
    return out


def refused(capfd: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """Return the message of a command that ends with 2."""
    capfd.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(argv)
    assert stop.value.code == 2
    return capfd.readouterr().err


def samples(run: Path) -> list[dict[str, Any]]:
    """Return the rows of all shards, in order."""
    paths = sorted((run / "shards").glob("*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def rejected(run: Path) -> list[dict[str, Any]]:
    """Return all rejected rows."""
    tables = [pq.read_table(path) for path in sorted((run / "rejected").glob("*.parquet"))]
    return pa.concat_tables(tables).to_pylist()  # type: ignore[no-any-return]


def manifest(run: Path) -> dict[str, Any]:
    """Return the manifest, whose reasons are those of docs/reasons.md, of the stages that stand there."""
    found: dict[str, Any] = json.loads((run / "manifest.json").read_text())
    for stage, reasons in found["counts"]["rejected_by_stage"].items():
        assert {reason for reason in reasons if stage not in REASONS[reason].stages} == set(), stage
    return found


def contents(run: Path) -> dict[str, Any]:
    """Return the files and rows that must be equal from run to run, whatever the runner and the workers."""
    rows = sorted(json.dumps(row, sort_keys=True) for row in rejected(run))
    parquet = [{name: value for name, value in row.items() if name != "fetched_at"} for row in samples(run)]
    return {
        "tars": {shard["name"]: shard["sha256"] for shard in manifest(run)["shards"]},
        "rows": parquet,
        "rejected": rows,
        "queries": pq.read_table(run / "query_counts.parquet").to_pylist(),
        "counts": manifest(run)["counts"],
    }


def reasons(run: Path) -> Counter[str]:
    """Return the number of rejected candidates by reason."""
    found: Counter[str] = Counter()
    for row in rejected(run):
        found[row["reason"]] += row["candidates"]
    return found
