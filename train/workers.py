"""What a DataLoader's worker process does first."""

import multiprocessing
import os
import threading
from multiprocessing.connection import wait


def end_with_parent(worker: int = 0) -> None:
    """Let this process end when the one that started it is gone, however that ended: a `worker_init_fn`.

    PyTorch's own watch compares the parent's process id, which under forkserver is that of the server; and
    the server lives as long as a worker does.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None, "a DataLoader starts it"

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end_with_parent", daemon=True).start()
