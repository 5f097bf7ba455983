"""The chunked, gathered loss against plain cross-entropy, in one process and in several."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.nn.parallel import DistributedDataParallel

from tests import train_peers
from tests.test_train_model import SMALL_RESNET, SMALL_VIT, captions, packed
from train import gradcache, sharding
from train.loss import contrastive_loss, count_equal_pairs, sigmoid_loss
from train.model import CLIP


def plain_loss(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Figure 3 of the paper, word for word."""
    logits = scale * image @ text.T
    labels = torch.arange(len(image))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def leaves(count: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    image, text = (F.normalize(torch.randn(count, 24, generator=generator), dim=1) for _ in range(2))
    image = F.normalize(image + text, dim=1)
    return (*(x.to(dtype).requires_grad_() for x in (image, text)), torch.tensor(30.0, requires_grad=True))


@pytest.mark.parametrize(("count", "chunk"), [(1, 4), (7, 3), (64, 64), (64, 10), (65, 1000)])
def test_loss_and_gradients_equal_plain_cross_entropy(count: int, chunk: int) -> None:
    ours, theirs = leaves(count), leaves(count)
    theirs = [x.detach().double().requires_grad_() for x in theirs]
    loss, expected = contrastive_loss(*ours, chunk=chunk), plain_loss(*theirs)
    assert loss.item() == pytest.approx(expected.item(), abs=2e-6)
    (3 * loss).backward()
    (3 * expected).backward()
    for left, right in zip(ours, theirs, strict=True):
        torch.testing.assert_close(left.grad, right.grad.float(), rtol=1e-4, atol=1e-5)


def test_logits_are_float32_even_under_autocast() -> None:
    image, text, scale = leaves(64)
    with torch.autocast("cpu", torch.bfloat16):
        loss = contrastive_loss(image, text, scale * 3)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(plain_loss(image, text, scale * 3).item(), abs=1e-5)


def test_unequal_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="as many images as texts"):
        contrastive_loss(torch.zeros(2, 3), torch.zeros(3, 3), torch.tensor(1.0))


def test_equal_pairs_are_counted() -> None:
    assert count_equal_pairs(torch.tensor([1, 2, 1, 3, 1, 3])) == 3 + 1
    assert count_equal_pairs(torch.arange(5)) == 0


def full_batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(16, 3, 32, 32, generator=generator), captions(SMALL_VIT, 16)


def expected_gradients() -> tuple[float, dict[str, Tensor]]:
    model = CLIP(SMALL_VIT).initialise(0)
    images, ids = full_batch()
    image, text, scale = model(images, packed(ids))
    loss = plain_loss(image, text, scale)
    loss.backward()
    return loss.item(), {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradient(found: torch.Tensor, expected: torch.Tensor, name: str) -> None:
    """Compare within 1e-5 of the largest value: terms are added in another order, and rounded by size."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.abs().max()), msg=name)


@pytest.mark.parametrize("accumulate", [1, 2, 4, 8])
def test_gradient_cache_equals_the_full_batch_including_the_scale(accumulate: int) -> None:
    loss, expected = expected_gradients()
    model = CLIP(SMALL_VIT).initialise(0)
    images, ids = full_batch()
    batches = [(i, packed(t)) for i, t in zip(images.chunk(accumulate), ids.chunk(accumulate), strict=True)]
    value = gradcache.backward(model, batches, _no_autocast)
    assert value.item() == pytest.approx(loss, abs=1e-6)
    assert model.logit_scale.grad.item() == pytest.approx(expected["logit_scale"].item(), rel=1e-5)
    for name, parameter in model.named_parameters():
        assert_same_gradient(parameter.grad, expected[name], name)


def _no_autocast():  # type: ignore[no-untyped-def]
    return torch.autocast("cpu", enabled=False)


def test_gradient_cache_counts_batch_statistics_once() -> None:
    images = torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ids = captions(SMALL_RESNET, 8)
    cached, once = CLIP(SMALL_RESNET).initialise(0).train(), CLIP(SMALL_RESNET).initialise(0).train()
    halves = list(zip(images.chunk(2), map(packed, ids.chunk(2)), strict=True))
    gradcache.backward(cached, halves, _no_autocast)
    for half in halves:
        once(*half)
    for (name, left), right in zip(cached.named_buffers(), once.buffers(), strict=True):
        assert torch.equal(left, right), name
    assert int(cached.visual.bn1.num_batches_tracked) == 2


SIGMOID = (20.0, -7.0)  # scale and bias
TOGETHER = [(1, 1), (2, 1), (4, 1), (2, 4)]  # ranks, accumulate


def _fork_ranks(_: int, folder: str) -> None:
    """Start the ranks from a process that has imported torch for all of them and has no threads."""
    ranks = max(ranks for ranks, _ in TOGETHER)
    mp.start_processes(_process_main, (folder,), nprocs=ranks, start_method="fork")


def _process_main(rank: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}
    torch.set_num_threads(1)
    for ranks, accumulate in TOGETHER:
        if rank < ranks:
            _rank_main(rank, ranks, f"{folder}/{ranks}-{accumulate}", accumulate)


def _rank_main(rank: int, ranks: int, folder: str, accumulate: int) -> None:
    store = dist.FileStore(str(Path(folder) / "store"), ranks)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks)
    model = CLIP(SMALL_VIT).initialise(0)
    images, ids = full_batch()
    images, ids = images.chunk(ranks)[rank], ids.chunk(ranks)[rank]
    parallel = DistributedDataParallel(model) if ranks > 1 else model
    batches = [(i, packed(t)) for i, t in zip(images.chunk(accumulate), ids.chunk(accumulate), strict=True)]
    loss = gradcache.backward(parallel, batches, _no_autocast)
    pairs = count_equal_pairs(torch.tensor([rank % 2, 100 + rank]))
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    own = [x.detach().chunk(ranks)[rank].requires_grad_() for x in leaves(16)[:2]]
    scalars = [torch.tensor(value, requires_grad=True) for value in SIGMOID]
    value = sigmoid_loss(*own, *scalars, chunk=3)
    value.backward()
    sigmoid = {"loss": value.detach(), "gradients": [x.grad for x in (*own, *scalars)]}
    found = {"loss": loss, "pairs": pairs, "gradients": gradients, "sigmoid": sigmoid}
    torch.save(found, f"{folder}/{rank}.pt")
    del parallel  # before its group: see train.distributed.joined
    if ranks > 1:
        _sharded_main(rank, folder, batches)
    dist.destroy_process_group()


def _sharded_main(rank: int, folder: str, batches: list[gradcache.MicroBatch]) -> None:
    """Let the ranks share the model out; keep the gradients, clipped ones, and their length."""
    model = CLIP(SMALL_VIT).initialise(0)
    model.set_checkpointing(True)
    sharding.shard(model, torch.device("cpu"))
    loss = gradcache.backward(model, batches, _no_autocast)
    sharding.average_scalars(model)
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    own = {name: sharding.whole(gradient).clone() for name, gradient in gradients.items()}
    norm = sharding.norm(gradients.values())
    sharding.clip(gradients.values(), float(norm) / 2)
    clipped = {name: sharding.whole(gradient) for name, gradient in gradients.items()}
    found = {"loss": loss, "norm": norm, "gradients": own, "clipped": clipped}
    torch.save(found, f"{folder}/sharded-{rank}.pt")


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Let processes train in groups of each size in turn; return the folder of their results."""
    folder = tmp_path_factory.mktemp("processes")
    for ranks, accumulate in TOGETHER:
        (folder / f"{ranks}-{accumulate}").mkdir()
    mp.spawn(_fork_ranks, (str(folder),))
    return folder


@pytest.mark.parametrize(("ranks", "accumulate"), TOGETHER)
def test_ranks_together_equal_one_process(ranks: int, accumulate: int, processes: Path) -> None:
    loss, expected = expected_gradients()
    for rank in range(ranks):
        result = torch.load(processes / f"{ranks}-{accumulate}" / f"{rank}.pt", weights_only=True)
        assert result["loss"].item() == pytest.approx(loss, abs=1e-6)
        assert result["pairs"] == {1: 0, 2: 0, 4: 2}[ranks]
        for name, gradient in result["gradients"].items():
            assert_same_gradient(gradient, expected[name], name)


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_siglips_ranks_together_equal_one_process(ranks: int, processes: Path) -> None:
    image, text, _ = leaves(16)
    scalars = [torch.tensor(value, requires_grad=True) for value in SIGMOID]
    expected = sigmoid_loss(image, text, *scalars)
    expected.backward()
    found = [
        torch.load(processes / f"{ranks}-1" / f"{rank}.pt", weights_only=True)["sigmoid"]
        for rank in range(ranks)
    ]
    for one in found:
        assert one["loss"].item() == pytest.approx(expected.item(), rel=1e-6)
    # Each hands over its share times the ranks, of which DDP makes the mean.
    gradients = list(zip(*(one["gradients"] for one in found), strict=True))
    for whole, parts in zip((image, text), gradients[:2], strict=True):
        torch.testing.assert_close(torch.cat(parts) / ranks, whole.grad, rtol=1e-5, atol=1e-6)
    for scalar, parts in zip(scalars, gradients[2:], strict=True):
        torch.testing.assert_close(torch.stack(parts).mean(), scalar.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("ranks", "accumulate"), TOGETHER[1:])
def test_a_model_shared_out_over_ranks_equals_one_process(
    ranks: int, accumulate: int, processes: Path
) -> None:
    loss, expected = expected_gradients()
    length = torch.nn.utils.get_total_norm(list(expected.values()))
    for rank in range(ranks):
        result = torch.load(processes / f"{ranks}-{accumulate}" / f"sharded-{rank}.pt", weights_only=True)
        assert result["loss"].item() == pytest.approx(loss, abs=1e-6)
        torch.testing.assert_close(result["norm"], length, rtol=1e-5, atol=0)
        assert result["gradients"].keys() == expected.keys()
        for name, gradient in result["gradients"].items():
            assert_same_gradient(gradient, expected[name], name)
            assert_same_gradient(result["clipped"][name], expected[name] / 2, name)


def test_equals_open_clips_loss() -> None:
    peer = train_peers.open_clip().loss.ClipLoss()
    image, text, scale = leaves(50)
    assert contrastive_loss(image, text, scale).item() == pytest.approx(
        peer(image, text, scale).item(), abs=2e-6
    )
