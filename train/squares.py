"""Squares of pictures on their way to the device, where they are resized in batches.

The paper's crop of a stored picture is a square of it, resized: the square travels as it is stored, and the
processes that decode are spared half of their work. The kernel is the same antialiased bicubic kernel, here
in floating point, for a CPU's bytes in fixed point; another device's sums may be rounded another way. So
pixels differ by a grey level here and there, and a run keeps to one way.
"""

import functools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.utils.data import get_worker_info

from pipeline.images.decode import Pixels

_AT_ONCE = 256  # pictures that are resized together: 200 MB of a side of 256


class Collected:
    """Collect squares in sequence, in memory that is filled once where all have the same side.

    In a worker of a `DataLoader` it is memory that the main process shares, as `default_collate` takes it:
    other memory would be copied to such on the way.
    """

    def __init__(self, count: int, size: int, *, on_device: bool = False) -> None:
        """Prepare for `count` squares of that side; on_device: also of others, to be resized there."""
        self.sides: list[int] = []
        self.size, self._most = size, size * 3 // 2 if on_device else 0  # at most 2.25 times their bytes
        self._left, self._used, self._memory = count, 0, torch.empty(0, dtype=torch.uint8)
        self._data = self._memory.numpy()
        self._room: Pixels | None = None

    @functools.cached_property
    def scratch(self) -> Pixels:
        """Return memory for a whole picture, uint8 [bytes]: nearly all fit that are scaled to the size."""
        return _memory(3 * 12 * self.size**2, is_shared=False).numpy()

    def takes(self, side: int) -> bool:
        """Return whether a square of that side is collected as it is."""
        return side == self.size or side <= self._most

    def room(self, side: int) -> Pixels:
        """Return where to make the next square, uint8 [S, S, 3]; of one that is not taken, in `scratch`."""
        size = 3 * side**2
        if not self.takes(side):
            elsewhere = self.scratch if size <= len(self.scratch) else np.empty(size, np.uint8)
            return elsewhere[:size].reshape(side, side, 3)
        if self._used + size > len(self._data):
            most = self._used + max(size * self._left, self._used)
            memory = _memory(most, is_shared=get_worker_info() is not None)
            memory[: self._used] = self._memory[: self._used]
            self._memory, self._data = memory, memory.numpy()
        self._room = self._data[self._used : self._used + size].reshape(side, side, 3)
        return self._room

    def add(self, square: Pixels) -> None:
        """Append uint8 [S, S, 3], which may have been made in its `room`."""
        if square is not self._room:
            self.room(len(square))[:] = square
        self._used, self._left, self._room = self._used + square.size, self._left - 1, None
        self.sides.append(len(square))

    def pixels(self) -> Tensor:
        """Return uint8 [bytes of all squares]."""
        return self._memory if self._used == len(self._memory) else self._memory[: self._used].clone()


def _memory(size: int, *, is_shared: bool) -> Tensor:
    """Return uint8 [bytes] that begin between two multiples of 32.

    At a multiple libjpeg-turbo writes rows past the core's caches, and a picture costs 50 us more.
    """
    if is_shared:
        shared: torch.UntypedStorage = torch.UntypedStorage._new_shared(size + 32)  # type: ignore[no-untyped-call]
        memory = torch.empty(0, dtype=torch.uint8).set_(shared)
    else:
        memory = torch.from_numpy(np.empty(size + 32, np.uint8))  # in huge pages, unlike torch's own
    return memory[(16 - memory.data_ptr()) % 32 :][:size]


def resize(pixels: Tensor, sides: Tensor, size: int) -> Tensor:
    """Return squares, in sequence in uint8 [bytes], as uint8 [P, N, N, 3] on the same device."""
    found = sides.tolist()
    if len(set(found)) == 1:
        return _resized(pixels.view(-1, found[0], found[0], 3), size)
    result = torch.empty((len(found), size, size, 3), dtype=torch.uint8, device=pixels.device)
    parts = torch.split(pixels, [3 * side**2 for side in found])
    for side in sorted(set(found)):
        places = [place for place, own in enumerate(found) if own == side]
        group = torch.stack([parts[place].view(side, side, 3) for place in places])
        result[torch.tensor(places, device=pixels.device)] = _resized(group, size)
    return result


def _resized(group: Tensor, size: int) -> Tensor:
    """Resize uint8 [P, S, S, 3]: across, then down, with whole numbers between, as Pillow does."""
    side = group.shape[1]
    if side == size:
        return group
    done = []
    for part in torch.split(group, _AT_ONCE):
        planes = part.permute(0, 3, 1, 2).float()
        for shape in ((side, size), (size, size)):
            planes = F.interpolate(planes, shape, mode="bicubic", antialias=True).round_().clamp_(0, 255)
        done.append(planes.to(torch.uint8).permute(0, 2, 3, 1))
    return torch.cat(done).contiguous()
