"""Other loaders on the pictures of `bench.train_loader`.

They are webdataset, LitData, MosaicML streaming and Megatron-Energon.

Each gets the same encoded pictures and captions in its own format, written by its own writer, shuffles as it
does by default, and hands on one picture after the other to `finish`, in one process.
"""

import contextlib
import io
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bench import train_peers

Finish = Callable[[bytes, str], Any]
BATCH = 50


def samples(shard: Path) -> Iterator[tuple[bytes, str]]:
    """Yield the pictures and captions of a shard."""
    with tarfile.open(shard) as tar:
        found: dict[str, bytes] = {}
        for member in tar:
            file = tar.extractfile(member)
            assert file is not None
            found[member.name.rpartition(".")[2]] = file.read()
            if len(found) == 3:
                yield found["jpg"], found["txt"].decode()
                found = {}


def webdataset(shard: Path, folder: Path, finish: Finish) -> Iterator[int]:
    """Yield the samples of each batch, for ever."""
    import webdataset as wds

    dataset = wds.WebDataset([str(shard)], shardshuffle=False, empty_check=False).repeat().shuffle(100)
    for _ in (
        dataset.to_tuple("jpg", "txt").map(lambda pair: finish(pair[0], pair[1].decode())).batched(BATCH)
    ):
        yield BATCH


def litdata(shard: Path, folder: Path, finish: Finish) -> Iterator[int]:
    """Yield the samples of each batch, for ever."""
    import litdata as ld
    from litdata.streaming.cache import Cache

    out = folder / f"litdata-{shard.stem}"
    cache = Cache(str(out), chunk_bytes="64MB")
    for index, (image, text) in enumerate(samples(shard)):
        cache[index] = {"image": image, "text": text}
    cache.done()
    cache.merge(1)
    dataset = ld.StreamingDataset(str(out), shuffle=True)
    while True:
        yield from _counted(finish(sample["image"], sample["text"]) for sample in dataset)


def mosaic(shard: Path, folder: Path, finish: Finish) -> Iterator[int]:
    """Yield the samples of each batch, for ever."""
    from streaming import MDSWriter, StreamingDataset

    out = folder / f"mosaic-{shard.stem}"
    with MDSWriter(out=str(out), columns={"image": "bytes", "text": "str"}) as writer:
        for image, text in samples(shard):
            writer.write({"image": image, "text": text})
    dataset = StreamingDataset(local=str(out), shuffle=True, batch_size=BATCH)
    while True:
        yield from _counted(finish(sample["image"], sample["text"]) for sample in dataset)


def energon(shard: Path, folder: Path, finish: Finish) -> Iterator[int]:
    """Yield the samples of each batch, for ever."""
    from megatron.energon import DefaultTaskEncoder, WorkerConfig, get_loader, get_train_dataset
    from megatron.energon.flavors import BaseWebdatasetFactory, CaptioningSample

    class Encoder(DefaultTaskEncoder):  # type: ignore[misc, type-arg]
        decoder = None

        def __init__(self) -> None:
            super().__init__(raw_batch_type=dict, batch_type=dict)

        def encode_sample(self, sample: Any) -> Any:
            caption = sample.caption if isinstance(sample.caption, str) else sample.caption.decode()
            finish(sample.image, caption)
            return sample

        def batch(self, samples: list[Any]) -> Any:
            return {"count": len(samples)}

    out = folder / f"energon-{shard.stem}"
    out.mkdir()
    (out / shard.name).symlink_to(shard)
    with contextlib.redirect_stdout(io.StringIO()):
        BaseWebdatasetFactory.prepare_dataset(
            out, [shard.name], split_parts_ratio=[("train", 1.0)], workers=1
        )
    (out / ".nv-meta/dataset.yaml").write_text(
        "__module__: megatron.energon\n__class__: CaptioningWebdataset\n"
        "field_map:\n  image: jpg\n  caption: txt\n"
    )
    assert CaptioningSample is not None
    dataset = get_train_dataset(
        out, batch_size=BATCH, shuffle_buffer_size=100, max_samples_per_sequence=100, task_encoder=Encoder(),
        worker_config=WorkerConfig(rank=0, world_size=1, num_workers=0), repeat=True,
    )  # fmt: skip
    for _ in get_loader(dataset):
        yield BATCH


def _counted(done: Iterator[Any]) -> Iterator[int]:
    for number, _ in enumerate(done, 1):
        if number % BATCH == 0:
            yield BATCH


PEERS: dict[str, tuple[str, Callable[[Path, Path, Finish], Iterator[int]]]] = {
    "webdataset": ("webdataset", webdataset),
    "LitData": ("litdata", litdata),
    "MosaicML streaming": ("streaming", mosaic),
    "Megatron-Energon": ("megatron.energon", energon),
}


def installed() -> dict[str, Callable[[Path, Path, Finish], Iterator[int]]]:
    """Return the peers that can be imported."""
    import importlib

    train_peers.torchvision()
    found = {}
    for name, (module, make) in PEERS.items():
        with contextlib.suppress(ImportError):
            importlib.import_module(module)
            found[name] = make
    return found
