"""Drive the fetching: rounds of work units, until no query is short of anything that is still to be tried."""

from pipeline import storage
from pipeline.crawl import Crawl, add_counts, require_contact
from pipeline.fetch.retry import RESTORED, retries
from pipeline.fetch.rounds import (
    cut_units,
    fetched_in,
    merged_folder,
    round_folder,
    steps_of,
    units_of,
)
from pipeline.flow import kept
from pipeline.flow.markers import Result
from pipeline.flow.runner import Runner
from pipeline.flow.steps import results_in
from pipeline.run import Layout


def fetch(crawl: Crawl, runner: Runner) -> Result:
    """Fetch in rounds, one job each, until no query is short of anything that is still to be tried."""
    again = retries(crawl.layout)  # rounds after the last one that --rounds allowed or needed
    most = again[-1] + 1 if again else crawl.config.rounds
    runner.run([cut_units(crawl, 0)])  # unless it was the end of another job
    rounds: list[Result] = []
    while len(rounds) < most:
        number = len(rounds)
        units = units_of(crawl, number)
        if not units and number:
            break
        require_contact(crawl.config.fetch, [unit["path"] for unit in units])
        runner.run(steps_of(crawl, number, is_last=number + 1 == most))
        kept.remove(round_folder(crawl, number))
        rounds.append(_round(crawl, number))
    units = [unit for number in range(len(rounds)) for unit in fetched_in(crawl, number)]
    return {"units": units, "rounds": rounds, "last": len(rounds) - 1}


def _round(crawl: Crawl, number: int) -> Result:
    results = results_in(round_folder(crawl, number))
    return {
        "images": sum(r["images"] for r in results), "bytes": sum(r["bytes"] for r in results),
        "reasons": add_counts(r["reasons"] for r in results),
        "merged": results_in(merged_folder(crawl, number)),
    }  # fmt: skip


def remove_staging(layout: Layout, fetched: Result) -> None:
    """Remove the staged images of a verified run; their rows stay, and a note that the images went."""
    storage.write_bytes(layout.stage("fetch", "removed.stage"), b"true")
    for number in range(fetched["last"] + 1):
        for path in storage.list_files(layout.stage("fetch", f"round-{number}"), ".blob"):
            storage.remove_tree(path)
    storage.remove_tree(layout.stage("fetch", RESTORED))
