"""Pictures per second and exactness of the search, beside faiss, on one core.

    python -m bench.overlap_search [--references 10000 100000 1000000 20000000] [--avx2] [--photos GLOB ...]

A picture is searched for as it is and mirrored. Hashes are random with planted copies, the mirrored ones
differ by the odd bits and six more, as those of photographs; references are memory-mapped from a file, as in
the job. "Scan" is the search by hashes at radius 100, for which faiss is called once for each of both.
"Second look" is the cost of the similarity of a pair within the radius, at radius 103: as many random pairs
lie within that as photographs' within 100; one in 30 stays, as of photographs. "Plain" is the route without
the C kernel. --device cuda measures the search by torch there instead, and compares its hits with the
kernel's; it needs no faiss. --avx2 takes AVX-512 from the kernel, not from faiss. Of globs of photographs the
hits are compared with those of the plain route, each photograph against all views of all. faiss's
IndexBinaryMultiHash is exact up to radius 31 with 16 bits a hash and one flip.

--learned EXAMPLES measures the search of `--detector lite` instead, 128 numbers of a picture against three
views of each example, beside faiss's IndexFlatIP of all views and the products alone.
"""

import argparse
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np

from bench.tables import show
from dedup import search
from dedup.search import References, Whitening, quantised
from pipeline.data import views
from pipeline.data.descriptors import Descriptors, describe, mirrored_descriptors, take

SEARCH_LIMIT = 1_000_000  # references for which colours are made as well: 256 bytes each
MULTIHASH_LIMIT = 1_000_000  # its tables take some 400 bytes a reference
SECONDS = 2.0


def rate(function: Callable[[int], Any], least: int = 8) -> float:
    """Return queries per second of CPU time, of the fastest of some rounds of so many queries or more."""
    count, best = least, 0.0
    began = time.process_time()
    while time.process_time() - began < SECONDS:
        start = time.process_time()
        function(count)
        spent = time.process_time() - start
        best = max(best, count / max(spent, 1e-9))
        count = min(512, max(least, int(count * min(4.0, SECONDS / 4 / max(spent, 1e-3)))))
    return best


def planted(references: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return queries: copies with up to 40 flipped bits, and random ones."""
    bits = np.unpackbits(references[rng.integers(0, len(references), count)], axis=1)
    for row in bits:
        row[rng.integers(0, 256, rng.integers(0, 41))] ^= 1
    queries = np.packbits(bits, axis=1)
    queries[1::2] = rng.integers(0, 256, queries[1::2].shape, dtype=np.uint8)
    return queries


def of_faiss(answer: tuple[Any, Any, Any]) -> set[tuple[int, int]]:
    limits, _, labels = answer
    return set(
        zip(
            np.repeat(np.arange(len(limits) - 1), np.diff(limits.astype(np.int64))).tolist(),
            labels.tolist(),
            strict=True,
        )
    )


def mirror_images(hashes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the hashes with their odd bits turned and six more, the mean of 4,281 photographs."""
    bits = np.unpackbits(hashes ^ 0x55, axis=1)
    for row in bits:
        row[rng.integers(0, 256, 6)] ^= 1
    return np.packbits(bits, axis=1)


@contextmanager
def plain() -> Iterator[None]:
    """Search without the C kernel."""
    kernels, search._kernels = search._kernels, None
    try:
        yield
    finally:
        search._kernels = kernels


def hashes(count: int) -> Iterator[tuple[str, ...]]:
    """Measure one size; yield the table's rows."""
    rng = np.random.default_rng(count)
    with tempfile.TemporaryDirectory() as folder:
        references = made(Path(folder) / "hashes.npy", count, rng)
        queries = planted(references, 512, rng)
        whitening, centres = Whitening(np.zeros(256, np.float32), np.ones(256, np.float32)), centred(rng)
        described = Descriptors(
            queries, mirror_images(queries, rng), centres(len(queries)), np.full(len(queries), 100, np.uint8)
        )
        colours = centres(count if count <= SEARCH_LIMIT else 0).astype(np.int8)
        both = np.stack([described.hashes, described.mirrored_hashes])
        import faiss

        flat = faiss.IndexBinaryFlat(256)
        flat.add(references)

        def scan(n: int) -> search.Pairs:
            some = References(references, colours, 1)
            return search.candidates(take(described, slice(0, n)), some, None, 0.0, search.RADIUS)

        def peer(n: int) -> list[Any]:
            return [flat.range_search(one[:n], search.RADIUS + 1) for one in both]

        found, few = scan(8), peer(8)
        exact = all(
            set(zip(found.query[mine].tolist(), found.reference[mine].tolist(), strict=True)) == of_faiss(one)
            for mine, one in zip((~found.mirrored, found.mirrored), few, strict=True)
        )
        looks = [math.nan, math.nan]
        if count <= SEARCH_LIMIT:
            exact &= same_hits(described, References(references, colours, 1), whitening)
            looks = second_looks(
                take(described, slice(0, 256)), References(references, colours, 1), whitening
            )
        ours, theirs = rate(scan, search.BATCH), rate(peer)
        yield (
            f"{count:,}", f"{ours:,.1f}", f"{theirs:,.1f}", f"{ours / theirs:.1f}",
            f"{2 * count * ours / 1e6:,.0f}",
            *("–" if math.isnan(look) else f"{look:,.0f}" for look in looks),
            "–" if count > MULTIHASH_LIMIT else f"{multi_hash(references, queries):,.1f}",
            "yes" if exact else "NO",
        )  # fmt: skip


def same_hits(described: Descriptors, references: References, whitening: Whitening) -> bool:
    """Search with and without the kernel."""
    fast = search.search(described, references, whitening)
    with plain():
        slow = search.search(described, references, whitening)
    return all(np.array_equal(one, other) for one, other in zip(fast, slow, strict=True))


def second_looks(described: Descriptors, references: References, whitening: Whitening) -> list[float]:
    """Return nanoseconds a pair with and without the kernel, of the fastest of five rounds."""
    radius, floor = 103, search.FLOOR
    vectors = np.stack([whitening.apply(one.colours) for one in (described, mirrored_descriptors(described))])
    pairs = search.candidates(described, references, None, 0.0, radius)

    def second() -> None:
        left = search.candidates(described, references, vectors, floor, radius)
        search._similarity(left, vectors, references.colours)

    spent = {"first": math.inf, "both": math.inf, "plain": math.inf}
    for _ in range(5):
        for name, function in (
            ("first", lambda: search.candidates(described, references, None, 0.0, radius)),
            ("both", second),
            ("plain", lambda: search._similarity(pairs, vectors, references.colours)),
        ):
            start = time.process_time()
            function()
            spent[name] = min(spent[name], time.process_time() - start)
    count = max(1, len(pairs.query))
    return [1e9 * (spent["both"] - spent["first"]) / count, 1e9 * spent["plain"] / count]


def made(path: Path, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return random hashes, mapped from a file."""
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(count, 32))
    for start in range(0, count, 1 << 20):
        part = written[start : start + (1 << 20)]
        part[:] = rng.integers(0, 256, part.shape, dtype=np.uint8)
    written.flush()
    return np.load(path, mmap_mode="r")


def centred(rng: np.random.Generator) -> Callable[[int], np.ndarray]:
    """Return a maker of colours around one of 30 centres."""
    centres = rng.normal(0, 15, (30, 256))

    def make(count: int) -> np.ndarray:
        colours = np.empty((count, 256), np.int16)
        for start in range(0, count, 1 << 16):
            part = colours[start : start + (1 << 16)]
            part[:] = np.clip(
                centres[rng.integers(0, 30, len(part))] + rng.normal(0, 5, part.shape), -127, 127
            )
        return colours

    return make


def multi_hash(references: np.ndarray, queries: np.ndarray) -> float:
    import faiss

    index = faiss.IndexBinaryMultiHash(256, 16, 16)
    index.nflip = 1
    index.add(references)
    return rate(lambda n: index.range_search(queries[:n], 32))


def photographs(patterns: list[str]) -> None:
    """Compare hits, and time, with and without the kernel."""
    pictures = [
        views.inner(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB))
        for pattern in patterns
        for path in sorted(Path().glob(pattern))
    ]
    queries = describe(np.stack([views.thumbnail(rgb) for rgb in pictures]))
    whitening = Whitening.fit(queries.colours)
    shown = [describe(views.thumbnails(rgb)) for rgb in pictures]
    references = References(
        np.concatenate([one.hashes for one in shown]),
        np.ascontiguousarray(quantised(whitening.apply(np.concatenate([one.colours for one in shown])))),
        len(views.VIEWS),
    )
    compared = 2 * len(queries.hashes) * len(references.hashes)
    pairs = len(search.candidates(queries, references, None, 0.0, search.RADIUS).query)
    spent = []
    for route in (nullcontext, plain):
        with route():
            start = time.process_time()
            hits = search.search(queries, references, whitening)
            spent.append((time.process_time() - start, hits))
    (fast, hits), (slow, expected) = spent
    same = all(np.array_equal(a, b) for a, b in zip(hits, expected, strict=True))
    print(
        f"{len(pictures):,} photographs: {compared:,} pairs, {pairs:,} within the radius, "
        f"{pairs / compared:.2e} of them; {len(hits.query):,} hits, "
        f"{'the same' if same else 'OTHERS'} without the kernel; {fast:.2f} CPU s, without {slow:.2f}"
    )


def learned(examples: int, folder: Path) -> tuple[str, ...]:
    """Measure the search by a detector's vectors among some examples; return the table's row."""
    import faiss

    from dedup.detector import neighbours  # imports torch
    from dedup.detector.neighbours import Described

    views, dims, asked, floor = 3, 128, 256, 0.5
    rng = np.random.default_rng(examples)
    path = folder / "vectors.npy"
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(examples * views, dims))
    for start in range(0, len(written), 1 << 18):
        part = rng.standard_normal(written[start : start + (1 << 18)].shape, np.float32)
        written[start : start + (1 << 18)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    written.flush()
    shown = Described(np.load(path, mmap_mode="r"), np.zeros(len(written), np.float32))
    near = np.array(shown.vectors[: asked * views : views])
    near[1::2] = np.roll(near[1::2], 1, axis=1)  # of no picture
    queries, floors = Described(near, np.zeros(asked, np.float32)), np.full(examples, floor, np.float32)
    index = faiss.IndexFlatIP(dims)
    index.add(shown.vectors)
    found = neighbours.within(queries, shown, views, floors)
    limits, products_of, labels = index.range_search(near, floor)
    expected = of_faiss((limits, products_of, labels // views))
    same = set(zip(found.query.tolist(), found.example.tolist(), strict=True)) == expected
    columns = np.ascontiguousarray(near.T)

    def products() -> None:
        for start in range(0, len(shown.vectors), 1024):
            shown.vectors[start : start + 1024] @ columns

    ours, theirs, least = (
        asked / best_of(function)
        for function in (
            lambda: neighbours.within(queries, shown, views, floors),
            lambda: index.range_search(near, floor),
            products,
        )
    )
    hours = 400e6 * 600_000 / examples / ours / 3600
    return (
        f"{examples:,}", f"{ours:,.1f}", f"{theirs:,.1f}", f"{ours / theirs:.1f}", f"{least:,.1f}",
        f"{hours:,.0f}", "yes" if same else "NO",
    )  # fmt: skip


def best_of(function: Callable[[], Any], rounds: int = 3) -> float:
    """Return the CPU seconds of the fastest of some rounds."""
    spent = []
    for _ in range(rounds):
        start = time.process_time()
        function()
        spent.append(time.process_time() - start)
    return min(spent)


def on_device(device: str, count: int) -> None:
    """Print how many pictures per second torch searches for, and whether it finds the kernel's hits."""
    from dedup.gpu_search import DeviceReferences

    rng = np.random.default_rng(count)
    hashes = rng.integers(0, 256, (count, 32), np.uint8)
    centres, shown = centred(rng), 1_024
    colours, queries = np.resize(centres(1 << 16).astype(np.int8), (count, 256)), planted(hashes, shown, rng)
    described = Descriptors(
        queries, mirror_images(queries, rng), centres(shown), np.full(shown, 100, np.uint8)
    )
    whitening = Whitening(np.zeros(256, np.float32), np.ones(256, np.float32))
    references = References(hashes, colours, 1, DeviceReferences(hashes, colours, device))
    import torch

    name = torch.cuda.get_device_name() if device == "cuda" else device
    spent = []
    for _ in range(3):
        start = time.perf_counter()
        search.search(described, references, whitening)
        spent.append(time.perf_counter() - start)
    few = take(described, slice(0, 128))
    hits = search.search(few, references, whitening)
    start = time.process_time()
    expected = search.search(few, references._replace(device=None), whitening)
    kernel = len(few.hashes) / (time.process_time() - start)
    same = all(np.array_equal(a, b) for a, b in zip(hits, expected, strict=True))
    print(
        f"torch on {name}: {shown / min(spent):,.1f} pictures/s by the clock among {count:,} references, the "
        f"kernel on one core {kernel:,.1f}; {len(hits.query):,} hits, {'the same' if same else 'OTHERS'}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--references", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 20_000_000])
    parser.add_argument("--avx2", action="store_true", help="use what processors without AVX-512 do")
    parser.add_argument("--device", help="cuda, or cpu to try it: search by torch alone, by the clock")
    parser.add_argument("--learned", type=int, nargs="+", help="examples: search by a detector's vectors")
    parser.add_argument("--photos", nargs="*", default=[], help="globs of photographs to compare hits on")
    args = parser.parse_args()
    if args.device:
        for count in args.references:
            on_device(args.device, count)
        return
    import faiss

    faiss.omp_set_num_threads(1)
    if args.learned:
        with tempfile.TemporaryDirectory() as folder:
            show(
                f"pictures/s/core by 128 numbers, three views of an example; faiss {faiss.__version__}",
                ("examples", "openwit", "faiss FlatIP", "ratio", "products alone",
                 "core-hours of 400M x 600K", "same"),
                [learned(count, Path(folder)) for count in args.learned],
                texts=0,
            )  # fmt: skip
        return
    if args.avx2:
        scan = search._kernels.scan
        search._kernels = SimpleNamespace(LEVEL=1, scan=lambda *given: scan(*given, 1))
    level = {1: "AVX2", 2: "AVX-512"}.get(getattr(search._kernels, "LEVEL", 0), "no kernel")
    show(
        f"pictures/s/core, {level}; faiss {faiss.__version__} ({faiss.get_compile_options().strip()})",
        ("references", "openwit scan", "faiss BinaryFlat", "ratio", "million pairs/s",
         "second look, ns a pair", "plain", "MultiHash, radius 31", "same"),
        [row for count in args.references for row in hashes(count)],
        texts=0,
    )  # fmt: skip
    if args.photos:
        photographs(args.photos)


if __name__ == "__main__":
    main()
