"""`openwit plan`: predict, and end with a table."""

import json
import sys
import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from pipeline import config as parser
from pipeline import storage
from pipeline.cli_runtime import guarded
from pipeline.formats import size
from pipeline.plan import prediction
from pipeline.plan.options import PlanConfig
from pipeline.plan.training import Training, check, training
from pipeline.plan.yields import Yields, of_run
from pipeline.terminal import output, terminal

_OPEN: Final = ("gpu", "job_start_s")  # tables of rates.toml to which devices and runners may be added


def main(argv: Sequence[str], prog: str = "openwit plan") -> int:
    """Run `openwit plan`; return the exit code."""
    options, _ = parser.parse(PlanConfig, argv, prog=prog)
    console = terminal()
    return guarded(prog, console, "", lambda: plan(options, console))


def plan(options: PlanConfig, console: Console) -> int:
    """Predict and print; return 0."""
    rates = read_toml(options.rates, "rates.toml")
    prices = read_toml(options.prices, "prices.toml")
    if options.check:
        sys.stdout.write(parser.to_toml(parser.effective(options)))
        console.print_json(data={"rates": rates, "prices": prices})
        return 0
    waits = sum(prediction.starts(options, rates).values())  # unknown names are reported first
    if options.model:
        check(options.model, options.gpu, rates["gpu"])
    found = yields_of(options)
    scale = prediction.scale_of(found, options)
    done = prediction.stages(scale, found.format, options, rates)
    taught = None
    if options.model:
        taught = training(
            options.model, scale.samples, options.epochs, options.gpu, options.mfu, rates["gpu"]
        )
    cost = prediction.money(scale, done, taught.gpu_days if taught else 0.0, options, prices)
    result = {**summary(scale, done, taught, cost, options, waits), "currency": prices["currency"]}
    show(output(), options, result)
    if options.out:
        storage.write_bytes(options.out, (json.dumps(result, indent=1) + "\n").encode())
    return 0


def read_toml(path: str, default: str) -> dict[str, Any]:
    """Return a TOML file's tables, or those of the package; ValueError for a table or key that is unknown."""
    known = tomllib.loads(resources.files("pipeline.plan").joinpath(default).read_text())
    if not path:
        return known
    given = tomllib.loads(storage.read_bytes(path).decode())
    for name, value in given.items():
        if name not in known:
            raise ValueError(f"{path}: unknown name {name}{parser.nearest(name, list(known))}")
        if isinstance(value, dict) and name not in _OPEN:
            for key in value:
                if key not in known[name]:
                    raise ValueError(f"{path}: unknown {name}.{key}{parser.nearest(key, list(known[name]))}")
    return {
        name: {**value, **given.get(name, {})} if isinstance(value, dict) else given.get(name, value)
        for name, value in known.items()
    }


def yields_of(options: PlanConfig) -> Yields:
    """Return a pilot's yields, or those of published figures."""
    if options.run:
        return of_run(options.run)
    from pipeline.plan.published_yields import common_crawl

    return common_crawl(options.queries)


def summary(
    scale: prediction.Scale, done: list[prediction.PlannedStage], taught: Training | None,
    cost: dict[str, float], options: PlanConfig, waits: float,
) -> dict[str, Any]:  # fmt: skip
    """Return the prediction as JSON; `waits`: seconds that all jobs of a runner take to start."""
    from pipeline.plan.expected import politeness

    amounts = {name: getattr(scale, name) for name in scale.__dataclass_fields__ if name != "sites"}
    return {
        "pilot": options.run or "published figures of Common Crawl",
        "scale": {name: round(value) for name, value in amounts.items() if name != "reached"},
        "reached": scale.reached,
        "stages": {
            stage.name: {"core_hours": stage.core_hours, "wall_hours": stage.wall_hours, "bound": stage.bound}
            for stage in done
        },
        "jobs": {"starts": sum(prediction.jobs(options).values()), "hours": waits / prediction.HOUR},
        "politeness_hours": {
            share: seconds / prediction.HOUR
            for share, seconds in politeness(scale.sites, options.host_delay).items()
        },
        "training": None if taught is None else {
            "model": options.model, "gpu": options.gpu, "gpu_days": taught.gpu_days,
            "days": taught.gpu_days / options.gpus, "flops": taught.flops, "mfu": taught.mfu,
        },
        "cost": cost,
    }  # fmt: skip


def show(console: Console, options: PlanConfig, result: dict[str, Any]) -> None:
    """Print the prediction."""
    scale = result["scale"]
    table = Table(title=f"by {result['pilot']}", title_justify="left")
    for name, justify in (("what", "left"), ("amount", "right"), ("", "left")):
        table.add_column(name, justify=justify)  # type: ignore[arg-type]
    rows = [
        ("source pieces to read", f"{scale['pieces']:,}", size(scale["source_bytes"])),
        ("captions found", f"{scale['candidates']:,}", ""),
        ("matched, each URL once", f"{scale['distinct']:,}", ""),
        ("images asked for", f"{scale['tried']:,}", f"{size(scale['fetched_bytes'])} fetched"),
        ("samples", f"{scale['samples']:,}", f"{size(scale['stored_bytes'])} stored"),
        ("shuffled", "", size(scale["shuffled_bytes"])),
    ]
    for row in rows:
        table.add_row(*row)
    table.add_section()
    for name, stage in result["stages"].items():
        hours = f"{stage['core_hours']:,.1f} core-hours"
        table.add_row(name, hours, f"{stage['wall_hours']:,.1f} h, bound by {stage['bound']}")
    if options.runner:
        waiting = f"{result['jobs']['hours'] * 60:,.0f} minutes of waiting for {options.runner} in all"
        table.add_row("job starts", f"{result['jobs']['starts']}", waiting)
    polite = ", ".join(f"{share} after {hours:,.1f} h" for share, hours in result["politeness_hours"].items())
    table.add_row("rates of the sites", "", polite)
    in_time = f"in {options.rounds} rounds of {options.unit_seconds:,.0f} s a site"
    table.add_row("reached in time", f"{result['reached']:.1%}", in_time)
    table.add_section()
    if result["training"]:
        taught = result["training"]
        table.add_row(
            f"train {taught['model']}", f"{taught['gpu_days']:,.1f} GPU-days",
            f"{taught['days']:,.1f} days on {options.gpus} {taught['gpu']} at {taught['mfu']:.0%} of peak",
        )  # fmt: skip
    for name, value in result["cost"].items():
        table.add_row(f"cost of {name}", f"{value:,.0f} {result['currency']}", "")
    console.print(table)
