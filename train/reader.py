"""Read shards for a trainer of your own, and resume with the sample that comes next."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from train import shard_sources
from train.cache import Cache
from train.data import Pictures, Shape, load, total
from train.image_transforms import Crop, normalise
from train.sampler import Sampler


class TextPiece(NamedTuple):
    """Hold P samples as `Samples` does, the pictures not resized yet."""

    pixels: Tensor
    sides: Tensor
    captions: list[str]
    uids: list[str]
    counts: dict[str, int]


class Samples(NamedTuple):
    """Hold one rank's part of a batch."""

    images: Tensor
    """uint8 [B, N, N, 3] on the device."""
    captions: list[str]
    """A caption for each image; of several, one per epoch is drawn."""
    uids: list[str]
    counts: Counter[str]
    """Bad samples that others stand in for, by reason, and pictures that were `enlarged`."""

    def normalised(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the images as CLIP takes them: [B, 3, N, N], mean and deviation removed.

        >>> batch = next(iter(openwit.Reader(["run"], batch_size=4, image_size=32)))
        >>> batch.normalised().dtype
        torch.float32
        """
        return normalise(self.images, dtype)

    def tensors(self) -> list[Tensor]:
        """Return the batch that was copied to the device in the background."""
        return [self.images]


class TextPieces(Pictures[TextPiece, Samples]):
    """Make pieces of pictures and captions as text."""

    def __getitem__(self, item: int) -> TextPiece:
        """Return one piece; bad samples are replaced and counted."""
        counts: Counter[str] = Counter()
        pixels, sides, told = self.read(item, counts)
        return TextPiece(
            pixels, sides, [caption for caption, _ in told], [uid for _, uid in told], dict(counts)
        )

    def batch(self, groups: list[list[TextPiece]], device: torch.device) -> Samples:
        """Join pieces on the device."""
        parts = [piece for group in groups for piece in group]
        return Samples(
            self.joined([piece.pixels for piece in parts], [piece.sides for piece in parts], device),
            [caption for piece in parts for caption in piece.captions],
            [uid for piece in parts for uid in piece.uids],
            total(piece.counts for piece in parts),
        )


class Reader(IterableDataset[Samples]):
    """Read batches of pictures and captions in an order that any number of ranks and workers continues.

    The order is a pure function of the shards, the seed and the batch size; a state says how many batches the
    trainer has taken, and of which order. Save it with your checkpoint. The reader has workers of its own:
    iterate over it, or give it to a DataLoader with batch_size=None and num_workers=0.

    >>> reader = openwit.Reader(["run"], batch_size=4, image_size=32)
    >>> batch = next(iter(reader))
    >>> batch.normalised().shape, len(batch.captions)
    (torch.Size([4, 3, 32, 32]), 4)
    >>> state = reader.state_dict()
    >>> again = openwit.Reader(["run"], batch_size=4, image_size=32)
    >>> again.load_state_dict(state)
    >>> len(reader), len(list(again))
    (3, 2)
    """

    def __init__(
        self, shards: Sequence[str], *, batch_size: int, image_size: int, epochs: int = 1, rank: int = 0,
        ranks: int = 1, workers: int = 0, seed: int = 0, crop: Crop = "paper",
        weights: Sequence[float] = (), drop: Sequence[str] = (), keep: Sequence[str] = (),
        shuffle: int = 131_072, device: str = "cpu", cache: str = "",
    ) -> None:  # fmt: skip
        """Find and count the samples; ValueError if they cannot be read, or do not divide.

        shards, weights, drop, keep, shuffle, crop, cache: as of `openwit train`. batch_size: of all `ranks`,
        of which this is `rank`. workers: processes that decode. device: where the images are wanted; on a
        GPU they are resized there.
        """
        kept = Cache(Path(cache) if cache else None)
        sampler = Sampler(shard_sources.resolve(shards, weights, drop, keep, kept), seed, shuffle)
        self._shape = Shape(batch=batch_size, ranks=ranks, rank=rank, accumulate=1, epochs=sampler.epochs)
        self._device, self._workers = torch.device(device), workers
        is_cuda = self._device.type == "cuda" and crop == "paper"
        self._pieces = TextPieces(sampler, self._shape, kept, image_size, crop, is_cuda)
        self._taken, self._end = 0, epochs * self._shape.epoch_steps[0]
        self._order = {
            "samples": [source.count for source in sampler.sources], "weights": list(weights), "seed": seed,
            "batch_size": batch_size, "shuffle": shuffle, "image_size": image_size, "crop": crop,
        }  # fmt: skip

    def __len__(self) -> int:
        """Return the batches of all epochs."""
        return self._end

    @property
    def epoch(self) -> int:
        """Return the epoch of the next batch.

        >>> openwit.Reader(["run"], batch_size=4, image_size=32, epochs=2).epoch
        0
        """
        return self._shape.epoch_of(self._taken)[0]

    def __iter__(self) -> Iterator[Samples]:
        """Yield this rank's part of each batch that is left."""
        if get_worker_info() is not None:
            raise ValueError("openwit.Reader has workers of its own: give it workers=N, and num_workers=0")
        for samples in load(self._pieces, self._taken, self._end, self._workers, self._device):
            self._taken += 1
            yield samples

    def state_dict(self) -> dict[str, Any]:
        """Return how far the trainer is: JSON, the same on every rank.

        >>> reader = openwit.Reader(["run"], batch_size=4, image_size=32)
        >>> for batch in reader:
        ...     break
        >>> reader.state_dict()["batches"]
        1
        """
        return {"batches": self._taken, **self._order}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue after the last batch that was taken; ValueError for a state of another order.

        >>> reader = openwit.Reader(["run"], batch_size=4, image_size=32)
        >>> reader.load_state_dict(reader.state_dict() | {"batches": 2})
        >>> len(list(reader)), len(reader)
        (1, 3)
        """
        changed = [name for name, value in self._order.items() if state.get(name) != value]
        if changed:
            raise ValueError(
                "the state is of another order: "
                + ", ".join(f"{name} (was {state.get(name)}, is {self._order[name]})" for name in changed)
            )
        self._taken = int(state["batches"])
