"""Images that the loader decodes, crops and tokenises in a CPU second, beside open_clip's path.

    python -m bench.train_loader [--photos FOLDER] [--shorter 224 256] [--size 224] [--seconds 5] [--peers]

Photos are resized to each shorter side, saved at JPEG quality 90 and written as a shard with captions; both
read it in one process and one thread, in alternating rounds. open_clip's path is that of its training script:
webdataset, Pillow, RandomResizedCrop, float normalisation, SimpleTokenizer. Without open_clip or torchvision
its figure is null. --peers: other loaders (`bench.loader_peers`), each with the paper's crop, uint8 and our
tokenizer, by Pillow as their users do it and by our decoding. `--photos`: a folder of JPEGs, by default the
sample data beside the checkout.

    python -m bench.train_loader --device cuda [--workers 16] [--batch 2048]

measures the trainer's own batches instead: on the device, resized there, by the clock.
"""

import argparse
import functools
import io
import itertools
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from bench import loader_peers, train_peers
from pipeline import shards

PHOTOS = Path(__file__).resolve().parents[2] / "shared/data/images/clothing_cc0/train"
COUNT = 400


def write_shard(photos: Path, shorter: int, target: Path) -> float:
    """Write the shard; return the mean size of a picture in KB."""
    samples = []
    for index, path in enumerate(itertools.islice(sorted(photos.rglob("*.jpg")), COUNT)):
        image = Image.open(path).convert("RGB")
        scale = shorter / min(image.size)
        buffer = io.BytesIO()
        image.resize((round(image.width * scale), round(image.height * scale))).save(
            buffer, "JPEG", quality=90
        )
        caption = f"{path.parent.name} number {index}, a photo from our new collection of clothes"
        row = json.dumps({"uid": f"{index:032x}", "caption": caption, "captions": [caption]})
        samples.append(shards.Sample(f"{index:09d}", buffer.getvalue(), caption, row.encode()))
    if not samples:
        raise SystemExit(f"{photos}: no JPEGs; give a folder with --photos")
    shards.write_shard(target, samples)
    return sum(len(sample.jpg) for sample in samples) / len(samples) / 1e3


def ours(shard: Path, size: int, crop: str, on_device: bool = False) -> Iterator[int]:
    """Yield the samples of each piece that the trainer's worker makes, for ever.

    on_device: the crop is resized on the device, at a cost that is not counted.
    """
    from train import shard_sources
    from train.cache import Cache
    from train.data import Pieces, Shape
    from train.sampler import Sampler
    from train.tokenizer import Tokenizer, installed_vocabulary

    cache = Cache()
    sampler = Sampler(shard_sources.resolve([str(shard)] * 32, (), (), (), cache), 0, 100_000)
    shape = Shape(batch=50, ranks=1, rank=0, accumulate=1, epochs=sampler.epochs)
    vocabulary = installed_vocabulary()
    tokenizer = Tokenizer.load(vocabulary) if vocabulary else Tokenizer([])
    pieces = Pieces(
        sampler,
        shape,
        tokenizer,
        size,
        crop,
        cache,
        on_device=on_device,  # type: ignore[arg-type]
    )
    for item in itertools.count():
        yield len(pieces[item].lengths)


def on_device(shard: Path, size: int, options: argparse.Namespace) -> dict[str, float]:
    """Return pictures per second, resized and on the device, and the CPU time of this process for each."""
    import torch

    from train import shard_sources
    from train.cache import Cache
    from train.data import Pieces, Shape, load
    from train.sampler import Sampler
    from train.tokenizer import Tokenizer, installed_vocabulary

    cache, device = Cache(), torch.device(options.device)
    sampler = Sampler(shard_sources.resolve([str(shard)] * 32, (), (), (), cache), 0, 100_000)
    shape = Shape(batch=options.batch, ranks=1, rank=0, accumulate=1, epochs=sampler.epochs)
    vocabulary = installed_vocabulary()
    tokenizer = Tokenizer.load(vocabulary) if vocabulary else Tokenizer([])
    pieces = Pieces(sampler, shape, tokenizer, size, "paper", cache, on_device=True)

    def taken(batches: Iterator[Any], seconds: float) -> tuple[int, float, float]:
        count, began, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() - began < seconds:
            count += len(next(batches).micro[0][0])
            if device.type == "cuda":
                torch.cuda.synchronize()
        return count, time.perf_counter() - began, time.process_time() - cpu

    batches = load(pieces, 0, 1_000_000, options.workers, device)
    taken(batches, options.seconds)
    count, seconds, cpu = taken(batches, options.seconds)
    return {
        "workers": options.workers, "images_per_second": round(count / seconds, 1),
        "images_per_second_and_worker": round(count / seconds / options.workers, 1),
        "microseconds_of_the_trainer_an_image": round(cpu / count * 1e6, 1),
    }  # fmt: skip


def finished(size: int, *, is_pillow: bool) -> loader_peers.Finish:
    """Return a peer's transforms of a picture and a caption: the paper's crop, and our token ids."""
    import numpy as np
    from PIL import Image as Pillow

    from train.image_transforms import training_image
    from train.tokenizer import Tokenizer, installed_vocabulary

    vocabulary = installed_vocabulary()
    tokenizer = Tokenizer.load(vocabulary) if vocabulary else Tokenizer([])
    random = np.random.default_rng(0)

    def finish(data: bytes, caption: str) -> object:
        if not is_pillow:
            return training_image(data, size, "paper", random)[0].copy(), tokenizer.caption(caption)
        image = Pillow.open(io.BytesIO(data)).convert("RGB")
        side, spare = min(image.size), max(image.size) - min(image.size)
        at = int(random.integers(spare + 1))
        box = (at, 0, at + side, side) if image.width > side else (0, at, side, at + side)
        square = image.resize((size, size), Pillow.Resampling.BICUBIC, box)
        return np.asarray(square), tokenizer.caption(caption)

    return finish


def open_clips(shard: Path, size: int) -> Iterator[int]:
    """Yield the samples of each batch that open_clip's pipeline makes, for ever."""
    import webdataset as wds

    open_clip = train_peers.open_clip()
    assert open_clip is not None
    preprocess = open_clip.image_transform(size, is_train=True)
    tokenizer = open_clip.tokenizer.SimpleTokenizer()
    dataset = wds.DataPipeline(
        wds.ResampledShards([str(shard)]),
        wds.tarfile_to_samples(),
        wds.shuffle(100, initial=100),
        wds.decode("pilrgb"),
        wds.rename(image="jpg;png;jpeg;webp", text="txt"),
        wds.map_dict(image=preprocess, text=lambda text: tokenizer(text)[0]),
        wds.to_tuple("image", "text"),
        wds.batched(50, partial=False),
    )
    for images, _ in dataset:
        yield len(images)


def rate(batches: Iterator[int], seconds: float) -> float:
    """Return samples per CPU second, over about `seconds` of them."""
    next(batches)
    began = time.process_time()
    count = 0
    while time.process_time() - began < seconds:
        count += next(batches)
    return count / (time.process_time() - began)


def main() -> None:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    parser.add_argument("--shorter", type=int, nargs="+", default=[224, 256])
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="beside other loaders, where they are installed")
    parser.add_argument("--device", help="cuda, or cpu to try it: batches on the device, by the clock")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="with --device")
    parser.add_argument("--batch", type=int, default=2_048, help="with --device")
    options = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for shorter in options.shorter:
            shard = Path(folder) / f"{shorter}.tar"
            size_kb = write_shard(options.photos, shorter, shard)
            if options.device:
                found = on_device(shard, options.size, options)
                results.append({"shorter": shorter, "kb": round(size_kb, 1), options.device: found})
                continue
            paths: dict[str, Callable[[], Iterator[int]]] = {
                f"ours/{crop}": functools.partial(ours, shard, options.size, crop)
                for crop in ("paper", "crop", "random-resized")
            }
            paths["ours/paper, resized on the device"] = functools.partial(
                ours, shard, options.size, "paper", True
            )
            for name, make in (loader_peers.installed() if options.peers else {}).items():
                for what, is_pillow in (("Pillow", True), ("our decoding", False)):
                    finish = finished(options.size, is_pillow=is_pillow)
                    own = Path(tempfile.mkdtemp(dir=folder))
                    paths[f"{name}, {what}"] = functools.partial(make, shard, own, finish)
            if train_peers.open_clip() is not None:
                paths["open_clip"] = functools.partial(open_clips, shard, options.size)
            running = {name: make() for name, make in paths.items()}
            best: dict[str, float] = dict.fromkeys(["open_clip", *paths], 0.0)
            for _ in range(options.rounds):
                for name, batches in running.items():
                    best[name] = max(best[name], rate(batches, options.seconds / options.rounds))
            figures = {name: round(value, 1) or None for name, value in best.items()}
            results.append({"shorter": shorter, "kb": round(size_kb, 1), "images_per_cpu_second": figures})
    print(json.dumps({"bench": "train_loader", "size": options.size, "results": results}, indent=1))


if __name__ == "__main__":
    main()
