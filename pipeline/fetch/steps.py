"""Drive the fetching: rounds of work units, until no query is short of anything that is still to be tried."""

from pipeline import storage
from pipeline.crawl import Crawl, add_counts, require_contact
from pipeline.fetch.parts import Merged, Round
from pipeline.fetch.retry_failed import forget_restored, retries
from pipeline.fetch.rounds import cut_units, fetched_in, steps_of, units_of
from pipeline.flow import kept
from pipeline.flow.runner import Runner
from pipeline.flow.steps import results_in
from pipeline.run_folder import Layout
from pipeline.stages import Rounds


def fetch(crawl: Crawl, runner: Runner) -> Rounds:
    """Fetch in rounds, one job each, until no query is short of anything that is still to be tried."""
    again = retries(crawl.layout)  # rounds after the last that --rounds allowed or needed
    most = again[-1] + 1 if again else crawl.config.rounds
    runner.run([cut_units(crawl, 0)])  # unless it was the end of another job
    rounds: list[Round] = []
    while len(rounds) < most:
        number = len(rounds)
        units = units_of(crawl, number)
        if not units and number:
            break
        require_contact(crawl.config.fetch, [unit.path for unit in units])
        runner.run(steps_of(crawl, number, is_last=number + 1 == most))
        kept.remove(crawl.layout.round(number))
        rounds.append(_round(crawl, number))
    return Rounds(rounds=tuple(rounds))


def _round(crawl: Crawl, number: int) -> Round:
    units = fetched_in(crawl, number)
    return Round(
        name=f"{number}", units=tuple(units), merged=tuple(results_in(crawl.layout.merged(number), Merged)),
        images=sum(unit.images for unit in units), bytes=sum(unit.bytes for unit in units),
        reasons=add_counts(unit.reasons for unit in units),
    )  # fmt: skip


def remove_staging(layout: Layout, fetched: Rounds) -> None:
    """Remove the staged images of a verified run; their rows stay, and a note that the images went."""
    storage.write_bytes(layout.stage("fetch", "removed.stage"), b"true")
    for number in range(len(fetched.rounds)):
        for path in storage.list_files(layout.round(number), ".blob"):  # of all attempts
            storage.remove_tree(path)
    forget_restored(layout)
