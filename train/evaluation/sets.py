"""Read evaluation sets for a model: a fair sample where a limit is set, pictures decoded ahead by threads."""

import contextlib
import hashlib
import heapq
import itertools
import posixpath
import queue
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from pipeline import storage
from pipeline.data import evalsets
from pipeline.data.evalsets import Example
from pipeline.images.decode import BadImage, Pixels
from pipeline.images.pixels import PixelDecoder, Wanted

T = TypeVar("T")
Change = Callable[[Pixels, str], Pixels]
"""Maps uint8 [N, N, 3] and the example's id to another picture of the same size."""


def examples(path: str, limit: int = 0) -> Iterator[Example]:
    """Yield a set's examples in order; with a limit those of smallest hash of their id, always the same."""
    if not limit:
        yield from evalsets.read(path)
    elif evalsets.form_of(path) == "folder":
        # Their names are known without reading them.
        files = evalsets.files_of(path)
        for file in _smallest(((evalsets.example_id_in(path, file), file) for file in files), limit):
            yield from evalsets.read_file(path, "folder", file)
    else:
        yield from _smallest(((one.example_id, one) for one in evalsets.read(path)), limit)


def _smallest(pairs: Iterable[tuple[str, T]], limit: int) -> list[T]:
    """Return the items whose ids have the smallest hashes, in the order given; at most `limit` are held."""
    heap: list[tuple[int, int, T]] = []
    for index, (example_id, item) in enumerate(pairs):
        digest = hashlib.blake2b(example_id.encode(), digest_size=8).digest()
        entry = (-int.from_bytes(digest), index, item)
        if len(heap) < limit:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)
    return [item for _, _, item in sorted(heap, key=lambda entry: entry[1])]


@contextlib.contextmanager
def decoders(size: int, workers: int) -> Iterator[list[PixelDecoder]]:
    """Yield decoders of N x N pixels, each with a child process, for as many sets as they are wanted for."""
    started = [PixelDecoder(Wanted(form="centre", side=size)) for _ in range(workers)]
    try:
        yield started
    finally:
        for decoder in started:
            decoder.close()


def pictures(
    found: Iterator[Example], decoders: Sequence[PixelDecoder], change: Change | None = None
) -> Iterator[tuple[Example, Pixels | BadImage]]:
    """Yield examples without their files, and uint8 [N, N, 3] or why there is none.

    Each thread has a child process that decodes, so that no file takes longer or more than it may.
    """
    workers = len(decoders)
    idle: queue.LifoQueue[PixelDecoder] = queue.LifoQueue()  # the last first: a small set needs few
    for decoder in decoders:
        idle.put(decoder)

    def work(example: Example) -> Pixels | BadImage:
        decoder = idle.get()
        try:
            pixels = decoder.decode(example.image)
        except BadImage as bad:
            return bad
        finally:
            idle.put(decoder)
        return pixels if change is None else change(pixels, example.example_id)

    with ThreadPoolExecutor(workers) as pool:
        waiting: deque[tuple[Example, Future[Pixels | BadImage]]] = deque()
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


def fingerprint(files: list[str]) -> str:
    """Return a digest that changes when a set's files change."""
    digest = hashlib.sha256()
    for file in files:
        # A remote store would be asked once for each of a folder's files: there the names must do.
        known = storage.file_info(file) if storage.is_local(file) else file
        digest.update(repr(known).encode())
    return digest.hexdigest()
