"""Calls repeated beside other work: errors end nothing, the end of the block does."""

import threading

from pipeline.periodic import every


def fail(error: Exception) -> None:
    raise AssertionError from error


def test_it_goes_on_after_errors_and_ends_with_the_block() -> None:
    calls: list[int] = []
    errors: list[Exception] = []
    enough = threading.Event()

    def action() -> None:
        calls.append(len(calls))
        if len(calls) % 2:
            raise OSError(f"call {len(calls)}")
        if len(calls) >= 4:
            enough.set()

    with every(0.001, action, errors.append):
        assert enough.wait(60)
    count = len(calls)
    assert count >= 4 and [str(error) for error in errors[:2]] == ["call 1", "call 3"]


def test_stop_iteration_ends_it() -> None:
    calls: list[int] = []
    ended = threading.Event()

    def action() -> None:
        calls.append(1)
        if len(calls) == 3:
            ended.set()
            raise StopIteration

    with every(0.001, action, fail):
        assert ended.wait(60)
        threading.Event().wait(0.05)
    assert len(calls) == 3


def test_a_call_that_has_begun_is_waited_for() -> None:
    begun, done = threading.Event(), threading.Event()

    def action() -> None:
        begun.set()
        threading.Event().wait(0.02)
        done.set()

    with every(0.001, action, fail):
        assert begun.wait(60)
    assert done.is_set()


def test_a_long_wait_does_not_delay_the_end() -> None:
    with every(3600, lambda: fail(AssertionError()), fail):
        pass
