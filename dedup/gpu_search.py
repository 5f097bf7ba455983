"""The search of `search.py` on a GPU, by torch alone: an exact matrix product of signs, and a threshold.

Of hashes as vectors of +1 and -1 the product is 256 less twice the distance: a whole number up to 256 in
size, which float16 holds, as it does all sums on the way. On a CPU, where float16 is slow, float32 does the
same. Pairs within the radius are looked at once more on the device; only those that may reach the floor leave
it.
"""

import copy
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch

_TILE: Final = 1 << 18  # references that are compared at a time: 256 MB of products for 512 hashes
_MARGIN: Final = 0.001  # what sums of 256 float32 products can be off by


class DeviceReferences:
    """The references in a device's memory: 288 bytes a view."""

    def __init__(self, hashes: npt.NDArray[np.uint8], colours: npt.NDArray[np.int8], device: str) -> None:
        """Copy uint8 [n, 32] and int8 [n, 256]; ValueError without that device."""
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise ValueError(f"--device {device}: torch sees no GPU here; leave it out to search on the CPU")
        self._device = torch.device(device)
        self._hashes, self._colours = self._copied(hashes), self._copied(colours)
        self._dtype = torch.float16 if self._device.type == "cuda" else torch.float32

    def every(self, step: int) -> "DeviceReferences":
        """Return the same with each `step`-th reference alone, the first among them."""
        other = copy.copy(self)
        other._hashes, other._colours = self._hashes[::step].contiguous(), self._colours[::step].contiguous()
        return other

    def candidates(
        self, hashes: npt.NDArray[np.uint8], vectors: npt.NDArray[np.float32] | None, floor: float,
        radius: int, quantum: float,
    ) -> npt.NDArray[np.int64]:  # fmt: skip
        """Return pairs within the radius, all those that reach the floor: rows of query, reference, distance.

        hashes: uint8 [q, 32]. vectors: float32 [q, 256], of which references are in steps of 1 / quantum.
        """
        signs = self._signs(self._copied(hashes))
        whitened = None if vectors is None else self._copied(vectors)
        found = [np.zeros((0, 3), np.int64)]
        for start in range(0, len(self._hashes), _TILE):
            products = signs @ self._signs(self._hashes[start : start + _TILE]).T
            near = torch.nonzero(products >= 256 - 2 * radius)
            distance = (256 - products[near[:, 0], near[:, 1]].to(torch.int64)) // 2
            rows = torch.stack([near[:, 0], near[:, 1] + start, distance], dim=1)
            for first in range(0, len(rows), 1 << 18):  # 256 MB of gathered vectors at a time
                part = rows[first : first + (1 << 18)]
                if whitened is not None:
                    colours = self._colours[part[:, 1]].to(torch.float32)
                    cosine = (whitened[part[:, 0]] * colours).sum(1) / quantum
                    part = part[1 - part[:, 2] / 128 + cosine >= 2 * floor - _MARGIN]
                found.append(part.cpu().numpy())
        return np.concatenate(found)

    def _copied(self, array: npt.NDArray[Any]) -> torch.Tensor:
        return torch.from_numpy(np.array(array, order="C")).to(self._device)

    def _signs(self, hashes: torch.Tensor) -> torch.Tensor:
        """Return uint8 [n, 32] as signs, [n, 256]."""
        bits = torch.arange(8, device=self._device, dtype=torch.uint8)
        return (((hashes[:, :, None] >> bits) & 1).to(self._dtype) * 2 - 1).reshape(len(hashes), 256)
