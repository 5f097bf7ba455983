"""The processes of a run: torchrun's environment, the device, stopping together."""

import os
import signal
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class World:
    """The rank of this process and the device it computes on."""

    rank: int
    ranks: int
    local_ranks: int
    device: torch.device

    def share(self, value: Any) -> Any:
        """Return rank 0's value on every rank; it travels among our own processes only."""
        if self.ranks == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, on every rank."""
        if self.ranks == 1:
            return [value]
        values: list[T] = [value] * self.ranks
        dist.all_gather_object(values, value)
        return values


def join(wanted: str) -> World:
    """Join the processes that torchrun started, or be alone; `wanted`: the device, auto, cuda or cpu.

    ValueError for a device that is missing.
    """
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    local = int(os.environ.get("LOCAL_RANK", "0"))
    cuda = torch.cuda.is_available() if wanted == "auto" else wanted == "cuda"
    if cuda and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here")
    device = torch.device("cuda", local) if cuda else torch.device("cpu")
    if cuda:
        torch.cuda.set_device(device)
    if ranks > 1 and not dist.is_initialized():
        dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    rank = dist.get_rank() if dist.is_initialized() else 0
    local_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return World(rank=rank, ranks=ranks, local_ranks=local_ranks, device=device)


def leave() -> None:
    """Leave the other processes."""
    if dist.is_initialized():
        dist.destroy_process_group()


def joined(wanted: str, work: Callable[[World], T]) -> T:
    """Join the processes that torchrun started, or run alone, while `work` runs; return its value.

    It is a call, so that the model it wrapped is gone before the group is. As the group's last owner DDP's
    reducer would wait for gloo's threads with the GIL in hand, and they may be waiting for the GIL.
    """
    world = join(wanted)
    try:
        return work(world)
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)  # they hold the model too
        raise
    finally:
        leave()


class SharedStop:
    """Ask once a step whether to save and stop: after SIGTERM to any rank, or when the time is over."""

    def __init__(self, world: World, minutes: float | None) -> None:
        self._world = world
        self._end = None if minutes is None else time.monotonic() + 60 * minutes
        self._asked = False
        self._pending: Tensor | None = None
        self._main = threading.current_thread() is threading.main_thread()  # only it may take signals
        if self._main:
            self._before = signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._asked = True

    def now(self) -> bool:
        """Return whether to stop after this step, the same on every rank."""
        if self.timed_out:
            self._asked = True
        if self._world.ranks == 1:
            return self._asked
        # The answer read is the step before's, which has long arrived: the device is not waited for.
        previous, self._pending = self._pending, torch.tensor([self._asked], dtype=torch.int32)
        self._pending = self._pending.to(self._world.device)
        dist.all_reduce(self._pending, dist.ReduceOp.MAX)
        return previous is not None and bool(previous.item())

    @property
    def timed_out(self) -> bool:
        """Return whether the time is over."""
        return self._end is not None and time.monotonic() >= self._end

    def close(self) -> None:
        """Give SIGTERM back to whom it was before."""
        if self._main:
            signal.signal(signal.SIGTERM, self._before)
