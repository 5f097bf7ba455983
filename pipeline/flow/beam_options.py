"""Beam's flags: which exist, how a TOML table holds them, and which of them a runner cannot follow."""

import contextlib
import functools
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from pipeline import storage

_ENDLESS: Final = "is for jobs without an end: leave it out"
_REFUSED: Final = {
    "dry_run": "leaves the work undone: leave it out; --check says what a command would do",
    "template_location": "makes a job for others to start, and openwit waits for its jobs: leave it out",
    "no_wait_until_finish": "does not wait, and openwit waits for its jobs: leave it out",
    "streaming": _ENDLESS,
    "update": _ENDLESS,
}
"""The flags that no job of openwit can follow on a cluster, and why."""
_OF_OTHERS: Final = ("Portable", "JobServer", "FlinkRunner", "SparkRunner", "PrismRunner", "Direct")
"""Beam's classes of options that Dataflow passes over without a word."""


@functools.cache
def _actions(*classes: str) -> dict[str, Any]:
    """Return argparse's action of every flag that classes of Beam's options define, of all by default."""
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            from apache_beam.options.pipeline_options import PipelineOptions, _BeamArgumentParser
    except ImportError as error:
        raise ValueError(f"Beam flags need Beam: pip install 'openwit[crawl]' ({error})") from error
    parser = _BeamArgumentParser(add_help=False)
    for options in PipelineOptions.__subclasses__():
        if not classes or options.__name__.removesuffix("Options") in classes:
            with contextlib.suppress(Exception):  # two options classes may define the same flag
                options._add_argparse_args(parser)
    return {flag: action for flag, action in parser._option_string_actions.items() if flag.startswith("--")}


def known() -> list[str]:
    """Return every flag that this version of Beam and its installed runners take."""
    return sorted(_actions())


def of_table(values: Mapping[str, Any]) -> list[str]:
    """Return the flags of a TOML table: true and false switch, a list repeats, a table is one value."""
    return [flag for name, value in values.items() for flag in _of_entry(name, value)]


def _of_entry(name: str, value: Any) -> Iterator[str]:
    match value:
        case True:
            yield f"--{name}"
        case False:
            off = f"--no_{name}"
            if off in known() or f"--{name}" not in known():  # else a missing flag is off
                yield off
        case list():
            for item in value:
                yield from _of_entry(name, item)
        case dict():
            yield f"--{name}={json.dumps(value)}"
        case _:
            yield f"--{name}={value}"


def check(flags: Sequence[str]) -> None:
    """Raise ValueError, of one line, for values that Beam cannot read or that contradict each other.

    For Dataflow also for anything that is missing or without effect: its workers would find it out minutes
    later.
    """
    from apache_beam.options.pipeline_options import TestOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

    options = _read(flags)
    names = {flag.partition("=")[0] for flag in flags} & {*known()}
    given = {_actions()[name].dest: name for name in names}
    runner = None
    if runs_on_dataflow(flags):
        runner = _dataflow_runner()
        _check_dataflow(options, given, runner)
    options.view_as(TestOptions).dry_run = True  # or the validator would ask Google's network
    if faults := PipelineOptionsValidator(options, runner).validate():
        raise ValueError(" ".join(" ".join(str(fault).split()) for fault in faults))


def runs_on_dataflow(flags: Sequence[str]) -> bool:
    """Return whether the flags name Dataflow as the runner."""
    from apache_beam.options.pipeline_options import StandardOptions

    name = str(_read(flags).view_as(StandardOptions).runner or "").lower()
    return name.rpartition(".")[2].removesuffix("runner") == "dataflow"


def require_shared(flags: Sequence[str], paths: Iterable[str]) -> None:
    """Raise ValueError for a path of this machine where Dataflow's workers are to read or write it."""
    if not flags or not runs_on_dataflow(flags) or _is_here(_read(flags)):
        return
    for path in paths:
        if path and storage.is_local(path):
            raise ValueError(
                f"{path} is on this machine, where Dataflow's workers cannot reach it; give a path that "
                "begins with gs:// (`gcloud storage cp -r` copies files there)"
            )


def _is_here(options: Any) -> bool:
    """Return whether a service on this machine stands for Dataflow's."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions

    return "//localhost" in (options.view_as(GoogleCloudOptions).dataflow_endpoint or "")


def _read(flags: Sequence[str]) -> Any:
    """Return Beam's options; ValueError for a value that is not of its option's type."""
    from apache_beam.options.pipeline_options import PipelineOptions

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = PipelineOptions(list(flags))
            options.get_all_options()
    except SystemExit:
        line = said.getvalue().strip().splitlines()[-1]
        raise ValueError(line.partition("error: argument ")[2] or line) from None
    return options


def _dataflow_runner() -> Any:
    try:
        from apache_beam.runners.dataflow.dataflow_runner import DataflowRunner
        from apache_beam.runners.dataflow.internal import apiclient as _  # noqa: F401
    except ImportError as error:
        raise ValueError(
            f"DataflowRunner needs Beam's extra for Google: pip install 'openwit[crawl,gcp]' ({error})"
        ) from None
    return DataflowRunner()


def _check_dataflow(options: Any, given: Mapping[str, str], runner: Any) -> None:
    """given: the flags by the name of their destination."""
    from apache_beam.options.pipeline_options import GoogleCloudOptions, SetupOptions, WorkerOptions
    from apache_beam.options.pipeline_options_validator import PipelineOptionsValidator

    for name, why in _REFUSED.items():
        if name in given:
            raise ValueError(f"{given[name]} {why}")
    if foreign := sorted({*given.values()} & {*_actions(*_OF_OTHERS)}):
        raise ValueError(f"{foreign[0]} is for other runners than Dataflow: leave it out")
    cloud, setup = options.view_as(GoogleCloudOptions), options.view_as(SetupOptions)
    image = options.view_as(WorkerOptions).sdk_container_image
    missing = [
        flag for flag, value in (
            ("--project", cloud.project),
            ("--region", cloud.region or runner.get_default_gcp_region()),
            ("--temp_location", cloud.temp_location or cloud.staging_location),
            ("--sdk_container_image", image or setup.setup_file or setup.extra_packages),
        ) if not value
    ]  # fmt: skip
    if missing:
        is_or_are = "is" if len(missing) == 1 else "are"
        raise ValueError(
            f"{' and '.join(missing)} {is_or_are} missing for DataflowRunner; docs/running.md has a table "
            "[beam] with all of them"
        )
    if _is_here(options):
        return
    validator = PipelineOptionsValidator(options, runner)
    for name in ("temp_location", "staging_location"):  # Beam would make a bucket for such a path
        if name in given and (faults := validator.validate_gcs_path(cloud, name)):
            raise ValueError(f"--{name}: {faults[0]} Give a folder in a bucket, such as gs://my-bucket/temp")
