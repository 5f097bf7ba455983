"""Feed batches to the device: workers decode pieces of batches, the main process sends them ahead."""

import bisect
import functools
import hashlib
import itertools
import signal
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pipeline.processes import end_with_parent
from train import image_transforms, squares
from train.cache import Cache
from train.caption_fields import CaptionFields
from train.hf_tokenizer import AnyTokenizer
from train.packing import pack
from train.sampler import Sampler
from train.shard_sources import OWN, OpenShard

PIECE = 256  # samples a worker decodes at once: 38 MB at 224 pixels
_OPEN_SHARDS = 64
_ATTEMPTS = 50


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Say how steps divide: `batch` samples over all ranks, in `accumulate` micro-batches on each rank."""

    batch: int
    ranks: int
    rank: int
    accumulate: int
    epochs: tuple[int, ...]
    """Samples of each epoch; the last number holds for those that follow."""

    def __post_init__(self) -> None:
        """Raise ValueError for sizes that cannot be divided."""
        if self.batch % (self.ranks * self.accumulate):
            raise ValueError(
                f"--batch-size {self.batch} is not a multiple of {self.ranks} processes x --accumulate "
                f"{self.accumulate}"
            )
        if min(self.epochs) < self.batch:
            raise ValueError(
                f"an epoch has {min(self.epochs):,} samples, fewer than one --batch-size of {self.batch:,}"
            )

    @property
    def micro(self) -> int:
        """Return the samples of a micro-batch."""
        return self.batch // (self.ranks * self.accumulate)

    @property
    def piece(self) -> int:
        """Return the samples of a piece: the largest divisor of a micro-batch that is not above PIECE."""
        return next(n for n in range(min(PIECE, self.micro), 0, -1) if self.micro % n == 0)

    @property
    def pieces(self) -> int:
        """Return the pieces of this rank's part of a step."""
        return self.micro // self.piece * self.accumulate

    @functools.cached_property
    def epoch_steps(self) -> tuple[int, ...]:
        """Return each epoch's steps; samples that fill no whole batch have their turn in other epochs."""
        return tuple(samples // self.batch for samples in self.epochs)

    @functools.cached_property
    def _ends(self) -> list[int]:
        return list(itertools.accumulate(self.epoch_steps))

    def epoch_of(self, step: int) -> tuple[int, int]:
        """Return the epoch of a step, and how many steps of the epoch are before it."""
        epoch = bisect.bisect_right(self._ends, step)
        if epoch < len(self._ends):
            return epoch, step - (self._ends[epoch - 1] if epoch else 0)
        more, inside = divmod(step - self._ends[-1], self.epoch_steps[-1])
        return epoch + more, inside


class BatchPiece(NamedTuple):
    """Hold P samples: uint8 squares in sequence; int32 ids of all captions; int64 [P] keys.

    patches: int64 [P, K], of each picture those that are not left out; None where none is.
    """

    pixels: Tensor
    sides: Tensor
    ids: Tensor
    lengths: Tensor
    captions: Tensor
    uids: Tensor
    counts: dict[str, int]
    patches: Tensor | None


class Batch(NamedTuple):
    """Hold one rank's step on its device: micro-batches of pixels and captions; keys int64 [B] on the device.

    `micro`: with patch dropout each has, third, the patches that are kept.
    `counts`: bad samples by reason, and `enlarged`; `tokens`, `squares`: of all captions, for counting FLOPs.
    """

    micro: list[tuple[Any, ...]]
    captions: Tensor
    uids: Tensor
    counts: Counter[str]
    tokens: int
    squares: int

    def tensors(self) -> list[Tensor]:
        """Return the batch that was copied to the device in the background."""
        parts = [part for pixels, text, *more in self.micro for part in (pixels, *vars(text).values(), *more)]
        return [part for part in parts if isinstance(part, Tensor)]


class OnDevice(Protocol):
    """A step's batch."""

    def tensors(self) -> list[Tensor]:
        """Return the batch that was copied to the device in the background."""
        ...


def key_of(text: str) -> int:
    """Return 63 bits of a hash, to find equal captions and uids in a batch."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()) >> 1


class Sample(NamedTuple):
    """Say where a sample is, and hold its random numbers."""

    shard: OpenShard
    place: int
    random: np.random.Generator
    path: str

    def uid(self, row: dict[str, object]) -> str:
        """Return the uid of the sample's JSON, or its shard and place."""
        return str(row.get("uid") or f"{self.path}/{self.place}")


P = TypeVar("P")
S = TypeVar("S")
B = TypeVar("B", bound="OnDevice")


def good(samples: Iterator[Sample], read: Callable[[Sample], S], counts: Counter[str]) -> S:
    """Return the result of `read` for the next sample that is not bad; those that are, are counted."""
    for sample in samples:
        try:
            return read(sample)
        except image_transforms.BadImage as error:
            counts[error.reason] += 1
    raise AssertionError("samples end with a ValueError")


class SampleDataset(Dataset[P], Generic[P, B]):
    """Make the pieces of a run's batches; item `step * pieces + i` is piece i of this rank's part."""

    start_method: str | None = None
    """How workers are started; None is the platform's way."""

    def __init__(self, sampler: Sampler, shape: Shape, cache: Cache) -> None:
        self.sampler, self.shape, self.cache = sampler, shape, cache
        self._open: OrderedDict[str, OpenShard | None] = OrderedDict()

    def batch(self, groups: list[list[P]], device: torch.device) -> B:
        """Join pieces, grouped by micro-batch, on the device."""
        raise NotImplementedError

    def first(self, item: int) -> tuple[int, int]:
        """Return the epoch of a piece, and the position in it of the piece's first sample."""
        step, index = divmod(item, self.shape.pieces)
        epoch, step = self.shape.epoch_of(step)
        share = self.shape.batch // self.shape.ranks
        return epoch, step * self.shape.batch + self.shape.rank * share + index * self.shape.piece

    def samples(self, epoch: int, position: int, counts: Counter[str]) -> Iterator[Sample]:
        """Yield the sample for a position, then others that stand in for it while they are bad.

        Shards that cannot be read are counted. ValueError after many samples.
        """
        path = ""
        for attempt in range(_ATTEMPTS):
            at = self.sampler.replacement(epoch, position, attempt) if attempt else position
            source, shard, place = self.sampler.locate(epoch, at)
            path = self.sampler.sources[source].shards[shard].path
            try:
                opened = self._shard(path, place)
            except image_transforms.BadImage as error:
                counts[error.reason] += 1
            else:
                yield Sample(opened, place, self.sampler.random(epoch, position, attempt), path)
        raise ValueError(f"{_ATTEMPTS} samples in a row are bad, the last in {path}: {dict(counts)}")

    def _shard(self, path: str, place: int) -> OpenShard:
        """Return the open shard, of which at most _OPEN_SHARDS stay so; BadImage without such a place."""
        if path not in self._open:
            try:
                self._open[path] = OpenShard(str(self.cache.local(path)))
            except (OSError, ValueError):
                self._open[path] = None
            while len(self._open) > _OPEN_SHARDS:
                self._open.popitem(last=False)
        self._open.move_to_end(path)
        shard = self._open[path]
        if shard is None:
            raise image_transforms.BadImage("unreadable_shard", path)
        if place >= len(shard):
            raise image_transforms.BadImage("missing", f"{path} has {len(shard)} samples")
        return shard


class Pictures(SampleDataset[P, B]):
    """Read pictures and captions."""

    def __init__(
        self, sampler: Sampler, shape: Shape, cache: Cache, size: int, crop: image_transforms.Crop,
        on_device: bool, fields: CaptionFields = OWN,
    ) -> None:  # fmt: skip
        """Crop to `size`; the paper's crop is resized on the device, if so."""
        super().__init__(sampler, shape, cache)
        self.size, self.crop, self.on_device, self.fields = size, crop, on_device, fields

    def draw(self, random: np.random.Generator) -> None:
        """Draw the other random numbers of a sample: the same on any number of processes and workers."""

    def read(self, item: int, counts: Counter[str]) -> tuple[Tensor, Tensor, list[tuple[str, str]]]:
        """Return a piece's squares, their sides, and caption and uid of each; bad samples are counted."""
        epoch, first = self.first(item)
        collected = squares.Collected(self.shape.piece, self.size, on_device=self.on_device)

        def captioned(sample: Sample) -> tuple[Sample, str, str]:
            row = sample.shard.row(sample.place, counts)
            caption = sample.shard.caption(sample.place, row, self.fields, sample.random)
            if caption is None:
                raise image_transforms.BadImage("no_caption")
            return sample, caption, sample.uid(row)

        # All captions before all pictures: where they take turns, decoding drives the interpreter out of the
        # core's caches, which costs 4% of the whole.
        slots = [self.samples(epoch, first + slot, counts) for slot in range(self.shape.piece)]
        told = [good(samples, captioned, counts) for samples in slots]
        for slot, samples in enumerate(slots):
            square = None
            while square is None:
                sample = told[slot][0]
                try:
                    square, enlarged = image_transforms.training_image(
                        sample.shard.image(sample.place), self.size, self.crop, sample.random, collected
                    )
                except image_transforms.BadImage as error:
                    counts[error.reason] += 1
                    told[slot] = good(samples, captioned, counts)
            collected.add(square)
            counts["enlarged"] += enlarged
            self.draw(sample.random)
        texts = [(caption, uid) for _, caption, uid in told]
        return collected.pixels(), torch.tensor(collected.sides, dtype=torch.int32), texts

    def joined(self, pixels: list[Tensor], sides: list[Tensor], device: torch.device) -> Tensor:
        """Return the pictures of pieces on the device: uint8 [n, N, N, 3]."""
        return squares.resize(to_device(pixels, device), torch.cat(sides), self.size)


class Pieces(Pictures[BatchPiece, Batch]):
    """Make pieces of pictures and token ids."""

    def __init__(
        self, sampler: Sampler, shape: Shape, tokenizer: AnyTokenizer, size: int, crop: image_transforms.Crop,
        cache: Cache, context_length: int = 77, *, fields: CaptionFields = OWN,
        patches: tuple[int, int] | None = None, on_device: bool = False,
    ) -> None:  # fmt: skip
        """Prepare to make pieces; patches: how many of how many are kept of each picture, None for all."""
        super().__init__(sampler, shape, cache, size, crop, on_device, fields)
        self.tokenizer, self.context_length, self.patches = tokenizer, context_length, patches
        self._kept: list[np.ndarray] = []

    def draw(self, random: np.random.Generator) -> None:
        """Draw the patches that are kept."""
        if self.patches:
            self._kept.append(np.sort(random.permutation(self.patches[1])[: self.patches[0]]))

    def __getitem__(self, item: int) -> BatchPiece:
        """Return one piece; bad samples are replaced and counted."""
        counts: Counter[str] = Counter()
        self._kept = []
        pixels, sides, told = self.read(item, counts)
        ids = [self.tokenizer.caption(caption, self.context_length) for caption, _ in told]
        return BatchPiece(
            pixels,
            sides,
            torch.tensor([token for tokens in ids for token in tokens], dtype=torch.int32),
            torch.tensor([len(tokens) for tokens in ids], dtype=torch.int32),
            torch.tensor([key_of(caption) for caption, _ in told]),
            torch.tensor([key_of(uid) for _, uid in told]),
            dict(counts),
            torch.from_numpy(np.stack(self._kept)) if self.patches else None,
        )

    def batch(self, groups: list[list[BatchPiece]], device: torch.device) -> Batch:
        """Join pieces, grouped by micro-batch, on the device."""
        micro = []
        for group in groups:
            lengths = torch.cat([piece.lengths for piece in group])
            text = pack(torch.cat([piece.ids for piece in group]), lengths)
            pixels = self.joined([piece.pixels for piece in group], [piece.sides for piece in group], device)
            patches = [piece.patches for piece in group if piece.patches is not None]
            more = (torch.cat(patches).to(device, non_blocking=True),) if patches else ()
            micro.append((pixels, text.to(device), *more))
        parts = [piece for group in groups for piece in group]
        lengths = torch.cat([piece.lengths for piece in parts]).long()
        return Batch(
            micro,
            torch.cat([piece.captions for piece in parts]).to(device),
            torch.cat([piece.uids for piece in parts]).to(device),
            total(piece.counts for piece in parts),
            int(lengths.sum()),
            int((lengths**2).sum()),
        )


def total(counts: Iterable[dict[str, int]]) -> Counter[str]:
    """Return the sums of counts."""
    return functools.reduce(Counter.__add__, map(Counter, counts), Counter())


def _start_worker(worker: int) -> None:
    end_with_parent()
    torch.set_num_threads(1)
    # The main process decides when to stop, and saves first.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _as_is(piece: Any) -> Any:
    return piece


def load(
    pieces: SampleDataset[P, B], start: int, stop: int, workers: int, device: torch.device, ahead: int = 2
) -> Iterator[B]:
    """Yield this rank's batches of the run's steps `start` to `stop`, on the device."""
    count = pieces.shape.pieces
    loader = DataLoader(
        pieces,
        batch_size=None,
        sampler=range(start * count, stop * count),
        num_workers=workers,
        collate_fn=_as_is,  # without a batch size it gets single items
        worker_init_fn=_start_worker,
        multiprocessing_context=pieces.start_method if workers else None,
        prefetch_factor=ahead if workers else None,
        pin_memory=device.type == "cuda",
    )
    assembled = _assemble(iter(loader), pieces, device)
    return _send_ahead(assembled, device) if device.type == "cuda" else assembled


def _assemble(loader: Iterator[P], pieces: SampleDataset[P, B], device: torch.device) -> Iterator[B]:
    shape = pieces.shape
    per_micro = shape.micro // shape.piece
    while True:
        groups = [
            [piece for _, piece in zip(range(per_micro), loader, strict=False)]
            for _ in range(shape.accumulate)
        ]
        if len(groups[-1]) < per_micro:
            return
        yield pieces.batch(groups, device)


def to_device(pixels: list[Tensor], device: torch.device) -> Tensor:
    """Join pieces [k, ...] on the device, as [n, ...]; from pinned memory the copies do not wait."""
    if device.type == "cpu":
        return torch.cat(pixels)
    joined = torch.empty((sum(map(len, pixels)), *pixels[0].shape[1:]), dtype=torch.uint8, device=device)
    start = 0
    for part in pixels:
        joined[start : start + len(part)].copy_(part, non_blocking=True)
        start += len(part)
    return joined


def _send_ahead(batches: Iterator[B], device: torch.device) -> Iterator[B]:
    """Copy on a stream of its own: steps are queued, so the device computes the previous step meanwhile."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    while True:
        with torch.cuda.stream(stream):
            batch = next(batches, None)
        if batch is None:
            return
        torch.cuda.current_stream(device).wait_stream(stream)
        for tensor in batch.tensors():
            tensor.record_stream(torch.cuda.current_stream(device))
        yield batch
