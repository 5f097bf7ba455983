"""Read evaluation sets for a model: a fair sample where a limit is set, pictures decoded ahead by threads."""

import hashlib
import heapq
import itertools
import posixpath
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from dedup import evalsets
from dedup.evalsets import Example
from pipeline import storage
from train.images import BadImage, Pixels, evaluation_image

Change = Callable[[Pixels, str], Pixels]
"""Maps uint8 [N, N, 3] and the example's id to another picture of the same size."""


def examples(path: str, limit: int = 0) -> Iterator[Example]:
    """Yield a set's examples in order; with a limit those of smallest hash of their id, always the same."""
    if not limit:
        yield from evalsets.read(path)
        return
    heap: list[tuple[int, int, Example]] = []
    for index, example in enumerate(evalsets.read(path)):
        digest = hashlib.blake2b(example.example_id.encode(), digest_size=8).digest()
        entry = (-int.from_bytes(digest), index, example)
        if len(heap) < limit:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    for _, _, example in sorted(heap, key=lambda entry: entry[1]):
        yield example


def pictures(
    found: Iterator[Example], size: int, workers: int, change: Change | None = None
) -> Iterator[tuple[Example, Pixels | None]]:
    """Yield examples without their files, and uint8 [N, N, 3], None where the file is not a picture."""

    def work(example: Example) -> Pixels | None:
        try:
            pixels = evaluation_image(example.image, size)
        except BadImage:
            return None
        return pixels if change is None else change(pixels, example.example_id)

    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Example, Future[Pixels | None]]] = deque()
        for example in found:
            waiting.append((example._replace(image=b""), pool.submit(work, example)))
            if len(waiting) > 8 * workers:  # enough to keep every thread busy, little enough to hold
                first, future = waiting.popleft()
                yield first, future.result()
        for first, future in waiting:
            yield first, future.result()


def files_of_examples(path: str, wanted: list[str]) -> dict[str, bytes]:
    """Return the files of some examples by id; the whole set is read only where it is in archives."""
    if evalsets.form_of(path) == "folder":
        return {one: storage.read_bytes(posixpath.join(path.rstrip("/"), one)) for one in wanted}
    names = set(wanted)
    hits = (example for example in evalsets.read(path) if example.example_id in names)
    return {example.example_id: example.image for example in itertools.islice(hits, len(names))}


def fingerprint(path: str, limit: int) -> str:
    """Return a digest that changes when a set's files, or the sample taken of them, change."""
    digest = hashlib.sha256(str(limit).encode())
    for file in evalsets.files_of(path):
        # A remote store would be asked once for each of a folder's files: there the names must do.
        known = storage.file_info(file) if storage.is_local(file) else file
        digest.update(repr(known).encode())
    return digest.hexdigest()
