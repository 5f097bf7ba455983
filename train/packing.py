"""Captions without padding: all tokens of a batch in one row, and causal attention inside each caption.

A web caption has about 15 tokens of a context of 77: four fifths of a padded text tower's work is padding.
Every layer but attention acts on single tokens and needs no padding at all. Attention uses a variable-length
kernel where there is one (CUDA, half precision), else sorts the captions into buckets of similar length.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

BUCKETS = 8  # at 15.5 tokens per caption, 8 buckets pad to 21.8 on average, 16 to 18.4, a single bucket to 77
_SMALLEST_BUCKET = 16


@dataclass(frozen=True, eq=False)
class PackedText:
    """Hold `B` captions of `T` tokens together.

    `ids`, `positions`: int64 [T]; `ends`: int64 [B], index of each caption's last token in [T]; `starts`:
    int32 [B + 1], where each caption starts, and T; `longest`: tokens of the longest caption. Buckets are
    rectangles of captions with padding, in sequence: `pad`: int64 [P], for each place the index in [T] of its
    token; `unpad`: int64 [T], each token's place; `shapes`: (captions, length) each.
    """

    ids: Tensor
    positions: Tensor
    ends: Tensor
    starts: Tensor
    pad: Tensor
    unpad: Tensor
    longest: int
    shapes: tuple[tuple[int, int], ...]

    def to(self, device: torch.device | str) -> "PackedText":
        """Return a copy on `device`; the copy from pinned memory does not wait."""
        tensors = ["ids", "positions", "ends", "starts", "pad", "unpad"]
        return replace(self, **{name: getattr(self, name).to(device, non_blocking=True) for name in tensors})


def pack(ids: Tensor, lengths: Tensor, buckets: int = BUCKETS) -> PackedText:
    """Lay out captions given as one row of token ids [T] and their lengths [B]; both integer, on the CPU.

    ValueError for lengths that do not add up to the tokens.
    """
    sizes = lengths.numpy().astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    if not len(sizes) or sizes.min() < 1 or starts[-1] != len(ids):
        raise ValueError(f"lengths must be positive and add up to the {len(ids)} tokens")
    positions = np.arange(starts[-1]) - np.repeat(starts[:-1], sizes)
    pad, unpad, shapes = _bucket(sizes, starts, min(buckets, -(-len(sizes) // _SMALLEST_BUCKET)))
    return PackedText(
        ids=ids.long(),
        positions=torch.from_numpy(positions),
        ends=torch.from_numpy(starts[1:] - 1),
        starts=torch.from_numpy(starts.astype(np.int32)),
        pad=torch.from_numpy(pad),
        unpad=torch.from_numpy(unpad),
        longest=int(sizes.max()),
        shapes=shapes,
    )


def pack_lists(captions: Sequence[Sequence[int]], buckets: int = BUCKETS) -> PackedText:
    """Lay out captions given as lists of token ids."""
    flat = torch.tensor([token for caption in captions for token in caption])
    return pack(flat, torch.tensor([len(caption) for caption in captions]), buckets)


def pack_padded(ids: Tensor) -> PackedText:
    """Lay out ids [B, L] with padding kept, as the original model does; the end is the highest id."""
    rows, length = ids.shape
    packed = pack(ids.reshape(-1), torch.full((rows,), length), buckets=1)
    ends = torch.arange(rows) * length + ids.argmax(dim=-1)
    return replace(packed, ends=ends)


def _bucket(
    sizes: np.ndarray, starts: np.ndarray, buckets: int
) -> tuple[np.ndarray, np.ndarray, tuple[tuple[int, int], ...]]:
    order = np.argsort(sizes, kind="stable")
    unpad = np.empty(starts[-1], np.int64)
    pads: list[np.ndarray] = []
    shapes: list[tuple[int, int]] = []
    place = 0
    for members in np.array_split(order, buckets):
        columns = np.arange(sizes[members].max())
        real = columns < sizes[members, None]
        # Padding repeats a caption's last token: causal attention lets no real token see later tokens.
        tokens = starts[members, None] + np.minimum(columns, sizes[members, None] - 1)
        unpad[tokens[real]] = place + np.flatnonzero(real)
        pads.append(tokens.ravel())
        shapes.append((len(members), len(columns)))
        place += tokens.size
    return np.concatenate(pads), unpad, tuple(shapes)


@functools.cache
def _varlen_kernel() -> Callable[..., Tensor] | None:
    try:
        varlen = importlib.import_module("torch.nn.attention.varlen")
    except ImportError:  # torch < 2.10
        return None
    kernel: Callable[..., Tensor] = varlen.varlen_attn
    # The causal mask was `is_causal` in torch 2.10 and is a window since.
    if "is_causal" in inspect.signature(kernel).parameters:
        return functools.partial(kernel, is_causal=True)
    return functools.partial(kernel, window_size=(-1, 0))


def use_varlen_kernel(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether packed attention runs as one variable-length kernel."""
    half = dtype in (torch.bfloat16, torch.float16)
    return device.type == "cuda" and half and _varlen_kernel() is not None


def causal_attention(q: Tensor, k: Tensor, v: Tensor, text: PackedText) -> Tensor:
    """Attend causally inside each caption; q, k, v and the result are [T, heads, channels]."""
    if use_varlen_kernel(q.device, q.dtype):
        kernel = _varlen_kernel()
        assert kernel is not None
        return kernel(q, k, v, text.starts, text.starts, text.longest, text.longest)
    return _bucketed_attention(q, k, v, text)


def prepare_to_compile() -> None:
    """Let compiled code call the kernel that there is, and bucketed attention as it is."""
    # Every batch has other bucket shapes: compiling them would never end. No decorator, for commands that
    # compile nothing: the compiler takes as long to import as all else of torch.
    global _bucketed_attention, _varlen_kernel
    kernel = _varlen_kernel()  # the compiler follows a call of it, and not the import that finds it
    _varlen_kernel = lambda: kernel  # type: ignore[assignment]  # noqa: E731
    _bucketed_attention = torch.compiler.disable(_bucketed_attention)  # type: ignore[no-untyped-call]


def _bucketed_attention(q: Tensor, k: Tensor, v: Tensor, text: PackedText) -> Tensor:
    padded = torch.stack([q, k, v]).index_select(1, text.pad)
    outputs = []
    for (rows, length), part in zip(
        text.shapes, torch.split(padded, [n * m for n, m in text.shapes], dim=1), strict=True
    ):
        # [3, rows * length, heads, channels] -> three of [rows, heads, length, channels]
        bq, bk, bv = part.view(3, rows, length, *part.shape[2:]).transpose(2, 3)
        output = F.scaled_dot_product_attention(bq, bk, bv, is_causal=True)
        outputs.append(output.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs).index_select(0, text.unpad)
