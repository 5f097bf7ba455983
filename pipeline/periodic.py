"""Do something again and again, in a thread, while other work goes on."""

import contextlib
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def every(
    seconds: float, action: Callable[[], object], failed: Callable[[Exception], None]
) -> Iterator[None]:
    """Call `action` each that many seconds while the block takes, the first time after as many.

    An exception in it goes to `failed` and the calls continue, but StopIteration ends them. A call that has
    begun is waited for.
    """
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(seconds):
            try:
                action()
            except StopIteration:
                return
            except Exception as error:  # noqa: BLE001 - signs of life and displays must not stop the work
                failed(error)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
