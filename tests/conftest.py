"""Fixtures of all tests: a small web, drawn and served once per session; the sample data; a single thread."""

import contextlib
import gc
import os
import signal
import socket
import sys
from argparse import Namespace
from collections.abc import Generator, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says how busy the machine is, not whether the code is right.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# A shell lets its background jobs, and xdist its workers, ignore Ctrl-C; the tests' processes would inherit
# that.
signal.signal(signal.SIGINT, signal.default_int_handler)


ON_THE_WEB = {
    "test_attestation", "test_card", "test_crawl", "test_eu_summary", "test_object_store", "test_report",
    "test_source_pages", "test_transforms",
}  # fmt: skip
"""Files whose tests look at the fixtures `web` and `whole`, which are made once for a process."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Keep imported objects from being searched for garbage: a fifth of collecting, a twentieth of a run."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run one process more than there are cores: a fifth of the time tests wait for servers and processes."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Give each process whole files, and one process all files that look at the same web."""
    from xdist.scheduler import LoadFileScheduling

    class Scheduling(LoadFileScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            file = str(super()._split_scope(nodeid))
            return "web" if Path(file).stem in ON_THE_WEB else file

    return Scheduling(config, log)


def pytest_unconfigure() -> None:
    """Leave the rest to the end of Python, of which can_ada would complain."""
    gc.unfreeze()


@pytest.fixture(scope="session", autouse=True)
def _power_stays_on() -> Iterator[None]:
    """Wait for no disk: a crawl of 160 pictures asks for that 190 times, and no test cuts the power."""
    with mock.patch.object(os, "fsync"):
        yield


@pytest.fixture(scope="session", autouse=True)
def _beam_looks_once() -> Iterator[None]:
    """Let Beam remember signatures and parsed options: it reads both anew dozens of times for each step of a
    graph, which takes two thirds of the time of a job as small as the tests'.
    """  # fmt: skip
    if (core := sys.modules.get("apache_beam.transforms.core")) is None:
        yield
        return
    from apache_beam.options.pipeline_options import PipelineOptions

    read, parse = core.get_function_args_defaults, PipelineOptions.__init__
    known: dict[object, tuple[list[str], list[object]]] = {}
    parsed: dict[object, Namespace] = {}

    def arguments(function: object) -> tuple[list[str], list[object]]:
        # A bound method's arguments are its function's without the first, whatever it is bound to.
        key = (getattr(function, "__func__", function), hasattr(function, "__self__"))
        if key not in known:
            known[key] = read(function)
        names, defaults = known[key]
        return list(names), list(defaults)

    def options(self: Any, flags: Sequence[str] | None = None, **given: object) -> None:
        if flags is None:  # those of the command line
            parse(self, flags, **given)
            return
        key = (type(self), tuple(flags))
        if key not in parsed:
            parse(self, flags)
            parsed[key] = deepcopy(self._visible_options)
        self._flags, self._visible_options, self._all_options = flags, deepcopy(parsed[key]), given
        for name in self._visible_option_list():
            given.setdefault(name, getattr(self._visible_options, name))

    with (
        mock.patch.object(core, "get_function_args_defaults", arguments),
        mock.patch.object(PipelineOptions, "__init__", options),
    ):
        yield


@pytest.fixture(scope="session")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator["object"]:
    """Serve 80 sites with 320 pictures on loopback; yields pipeline.demo.server.Server."""
    from pipeline.demo.server import serve
    from pipeline.demo.web import build

    folder = tmp_path_factory.mktemp("web") / "web"
    sizes = {"n_images": 320, "n_sites": 80}
    with serve(build(folder, seed=1, **sizes, port=_steady_port(), evaluation_sets=False)) as server:
        yield server


def _steady_port() -> int:
    """Return a port that is the same in every session if it is free, and no other xdist worker's.

    The web's URLs hold the port, and their hashes decide which samples are drawn: a test that passes once
    must pass again.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in range(20_000 + 100 * worker, 20_100 + 100 * worker):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))  # of all addresses: each site has its own
            return port
    raise OSError("no port is free for the tests' web")


@pytest.fixture(scope="session")
def small_web(tmp_path_factory: pytest.TempPathFactory) -> Iterator["object"]:
    """Serve 25 sites with 100 pictures: for runs that are made again and again, to be stopped or changed."""
    from pipeline.demo.server import serve
    from pipeline.demo.web import build

    folder = tmp_path_factory.mktemp("web") / "web"
    sizes = {"n_images": 100, "n_sites": 25}
    with serve(build(folder, seed=1, **sizes, port=_steady_port(), evaluation_sets=False)) as server:
        yield server


@pytest.fixture(scope="session")
def whole(web: "object", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Crawl that web once for all tests that only look: a run in which no cap bites."""
    from pipeline.cli import main
    from tests.crawling import arguments

    out = tmp_path_factory.mktemp("whole") / "run"
    assert main(arguments(web.web, out, "--workers", "2", "--keep-staging")) == 0  # type: ignore[attr-defined]
    return out


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Keep thousands of small products from waiting for threads on a busy machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.importorskip("threadpoolctl").threadpool_limits(1):
        yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def sample_data() -> Path:
    """Return the sample data beside the checkout, or skip."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.exists():
        pytest.skip("no sample data beside the checkout")
    return folder
