"""Feed the detector: workers decode photographs, of which the device makes two views each."""

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from dedup.detector import augment
from train import image_transforms
from train.cache import Cache
from train.data import Sample, SampleDataset, Shape, good, key_of, to_device, total
from train.sampler import Sampler
from train.shard_sources import OpenShard

_LEAST_SIDE = 16


class PairPiece(NamedTuple):
    """Hold P photographs: uint8 [P, S, S, 3]; width per height, float32 [P]; int64 [P] keys of their uids."""

    photographs: Tensor
    aspects: augment.F32
    uids: Tensor
    counts: dict[str, int]


@dataclass(frozen=True)
class PairBatch:
    """Hold one rank's step.

    `micro`: photographs of each micro-batch, uint8 [M, S, S, 3] on the device, and their width per height,
    float32 [M]; `uids`: int64 [B].
    """

    micro: list[tuple[Tensor, augment.F32]]
    uids: Tensor
    counts: Counter[str]

    def tensors(self) -> list[Tensor]:
        """Return the batch that was copied to the device in the background."""
        return [photographs for photographs, _ in self.micro]


class AugmentedPairs(SampleDataset[PairPiece, PairBatch]):
    """Make pieces of photographs that pairs of views are made from."""

    start_method = "forkserver"  # OpenCV's threads do not survive a fork, and this process has used them

    def __init__(self, sampler: Sampler, shape: Shape, cache: Cache, side: int) -> None:
        super().__init__(sampler, shape, cache)
        self.side = side

    def __getitem__(self, item: int) -> PairPiece:
        """Return one piece; bad samples are replaced and counted."""
        cv2.setNumThreads(1)  # workers are as many as cores already
        epoch, position = self.first(item)
        side = augment.source_side(self.side)
        pixels = np.empty((self.shape.piece, side, side, 3), np.uint8)
        aspects = np.empty(self.shape.piece, np.float32)
        uids = np.empty(self.shape.piece, np.int64)
        counts: Counter[str] = Counter()
        for slot in range(self.shape.piece):
            samples = self.samples(epoch, position + slot, counts)
            pixels[slot], aspects[slot], uids[slot] = good(samples, self._read, counts)
        return PairPiece(torch.from_numpy(pixels), aspects, torch.from_numpy(uids), dict(counts))

    def _read(self, sample: Sample) -> tuple[augment.Pixels, float, int]:
        rgb = self._decoded(sample.shard, sample.place)
        return *augment.source(rgb, self.side), key_of(sample.uid(sample.shard.row(sample.place)))

    def _decoded(self, shard: OpenShard, place: int) -> augment.Pixels:
        rgb = image_transforms.decode(shard.image(place), 2 * self.side)
        if min(rgb.shape[:2]) < _LEAST_SIDE:
            raise image_transforms.BadImage("too_small")
        return rgb

    def original(self, position: int) -> augment.Pixels | None:
        """Return the photograph at a position of the first epoch as it is stored, or None if it is bad."""
        source, number, place = self.sampler.locate(0, position)
        try:
            return self._decoded(self._shard(self.sampler.sources[source].shards[number].path, place), place)
        except image_transforms.BadImage:
            return None

    def batch(self, groups: list[list[PairPiece]], device: torch.device) -> PairBatch:
        """Join pieces, grouped by micro-batch, on the device."""
        micro = [
            (
                to_device([piece.photographs for piece in group], device),
                np.concatenate([piece.aspects for piece in group]),
            )
            for group in groups
        ]
        parts = [piece for group in groups for piece in group]
        uids = torch.cat([piece.uids for piece in parts]).to(device)
        return PairBatch(micro, uids, total(piece.counts for piece in parts))
