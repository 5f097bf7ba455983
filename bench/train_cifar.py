"""Learning on real data: CIFAR-10 as shards, the tiny model on a CPU, zero-shot accuracy on the test split.

    python -m bench.train_cifar [CIFAR10-IMAGES.tar.gz] [OUT]

The photos become shards by the crawl's own writer, captions come from class names, and the model is trained
by `openwit train` with its defaults. Prints the accuracy and the CPU time; the aim is 65% in 600 CPU seconds.
The archive holds {train,test}/CLASS/*.jpg; by default the sample data beside the checkout is used.
"""

import hashlib
import json
import resource
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

DEFAULT = Path(__file__).resolve().parents[2] / "shared/data/images/cifar10-images.tar.gz"
CAPTIONS = ("a photo of a {}.", "a photo of the {}.", "{}")
SAMPLES_PER_SHARD = 10_000


def unpack(archive: Path, root: Path) -> list[tuple[str, bytes]]:
    """Write the test split's folders; return (class, JPEG) of the training split in an order of hashes."""
    train: list[tuple[str, bytes]] = []
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.name.endswith(".jpg"):
                continue
            *_, split, label, name = member.name.split("/")
            data = tar.extractfile(member).read()  # type: ignore[union-attr]
            if split == "train":
                train.append((label, data))
            else:
                (root / "test" / label).mkdir(parents=True, exist_ok=True)
                (root / "test" / label / name).write_bytes(data)
    return sorted(train, key=lambda pair: hashlib.sha256(pair[1]).digest())


def said(label: str, number: int) -> list[str]:
    """Return the captions of a photograph: its class's name in each sentence."""
    return [caption.format(label) for caption in CAPTIONS]


def write_run(
    pairs: list[tuple[str, bytes]], root: Path, say: Callable[[str, int], list[str]] = said
) -> None:
    """Write the files that the trainer reads of a finished run: shards and the manifest's list of them.

    say: makes the captions of a photograph of its class's name and its number.
    """
    from pipeline.shards import Sample, encode_json, write_shard

    def samples(first: int) -> Iterator[Sample]:
        for index, (label, data) in enumerate(pairs[first : first + SAMPLES_PER_SHARD], first):
            captions = say(label, index)
            row = {"uid": hashlib.sha256(data).hexdigest()[:32], "caption": captions[0], "captions": captions}
            yield Sample(f"{index:09d}", data, captions[0], encode_json(row))

    (root / "shards").mkdir(parents=True)
    shards = []
    for number, first in enumerate(range(0, len(pairs), SAMPLES_PER_SHARD)):
        written = write_shard(root / "shards" / f"{number:05d}.tar", samples(first))
        shards.append({"name": f"{number:05d}.tar", "samples": written.samples, "sha256": written.sha256})
    (root / "manifest.json").write_text(json.dumps({"shards": shards}))


def cpu_seconds() -> float:
    """Return the CPU time of this process and its finished children."""
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def main(archive: Path, out: Path) -> dict[str, float]:
    """Build, train and evaluate; return the figures."""
    from train.clip_trainer import fit
    from train.options import TrainConfig

    write_run(unpack(archive, out), out / "run")
    before = cpu_seconds()
    result = fit(
        TrainConfig(
            shards=(str(out / "run"),), out=str(out / "model"), model="tiny",
            eval=(f"cifar10={out / 'test'}",), eval_every=1_000_000, log_every=100, checkpoint_every=1_000,
        )
    )  # fmt: skip
    return {
        "accuracy": result.accuracy["cifar10"],
        "chance": result.chance["cifar10"],
        "cpu_seconds": round(cpu_seconds() - before, 1),
        "steps": result.steps,
        "loss": round(result.loss, 4),
    }


if __name__ == "__main__":
    import logging

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT
    if len(sys.argv) > 2:
        print(json.dumps(main(source, Path(sys.argv[2]))))
    else:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(main(source, Path(folder))))
