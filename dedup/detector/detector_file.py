"""The detector as one file: weights, centre and background, read without unpickling.

`compact` rounds each row of a matrix or of filters to 8 bits, with a scale: a quarter of the bytes.
"""

import json
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor

from dedup.detector.encoder import EncoderDetector, is_encoder
from dedup.detector.model import (
    DetectorArchitecture,
    DetectorNetwork,
    Forward,
    LiteArchitecture,
    ResNetArchitecture,
)
from dedup.detector.normalise import F32, Normaliser
from pipeline import storage, untrusted
from pipeline.data import shipped_detector
from train import weights

_KEY, _FORMAT = "openwit", "detector 1"
_SCALE: Final = ".scale"  # of a tensor of 8 bits, one for each of its first axis
_LARGEST = 1 << 24  # of any size of a network
_GPU_BYTES: Final = 3 << 30  # of a worker: CUDA's own, the network, and its values for a batch


class LearnedDetector:
    """Embed thumbnails so that near-duplicates have a high cosine: a `pipeline.data.descriptors.Detector`."""

    def __init__(
        self, name: str, network: DetectorNetwork, normaliser: Normaliser, about: dict[str, Any]
    ) -> None:
        self.name, self.network, self.normaliser, self.about = name, network.eval(), normaliser, about
        self.side, self.dims = network.architecture.side, network.architecture.dims
        self.views = network.trunk.views

    @cached_property
    def _compiled(self) -> Forward | None:
        """The network as it runs fastest, of the weights it has when it is first asked for."""
        on_cpu = self.network.head.weight.device.type == "cpu"
        return self.network.compiled() if on_cpu and self.network.trunk.worth_compiling else None

    def raw(self, thumbnails: npt.NDArray[np.uint8]) -> F32:
        """Return unit vectors as the network gives them: uint8 [n, side, side, 3] to float32 [n, dims]."""
        return self.network.embed(thumbnails, forward=self._compiled)

    def embed(self, thumbnails: npt.NDArray[np.uint8]) -> F32:
        """Return centred unit vectors: uint8 [n, side, side, 3] to float32 [n, dims]."""
        return self.normaliser.centred(self.raw(thumbnails))

    def biases(self, vectors: F32) -> F32:
        """Return the correction of the similarities of each vector: [n, dims] to [n]."""
        return self.normaliser.biases(vectors)

    def close(self) -> None:
        """Do nothing: it has no process of its own, as an encoder has."""


AnyDetector = LearnedDetector | EncoderDetector
Device = Literal["auto", "cuda", "cpu"]


def of_any_kind(path: str) -> AnyDetector:
    """Return the detector in a file: one of our own, the one that ships as "lite", or an encoder.

    ValueError if it cannot be used.
    """
    return EncoderDetector(path) if is_encoder(path) else read(path)


def for_worker(path: str, device: Device = "cpu") -> AnyDetector:
    """Load a detector in a worker process, which has one core; an encoder stays on the CPU.

    ValueError if it cannot be used, or where there is no such device.
    """
    torch.set_num_threads(1)  # workers are as many as cores already
    detector, chosen = of_any_kind(path), device_of(device)
    if isinstance(detector, LearnedDetector):
        detector.network.to(chosen)
    return detector


def device_of(asked: Device) -> Literal["cuda", "cpu"]:
    """Return the device of this machine that was asked for; ValueError where there is no such device."""
    cuda = torch.cuda.is_available() if asked == "auto" else asked == "cuda"
    if cuda and not torch.cuda.is_available():
        raise ValueError("--device cuda: torch sees no GPU here")
    return "cuda" if cuda else "cpu"


def processes(asked: Device, most: int) -> int:
    """Return how many workers, `most` or fewer, have room on the device of this machine."""
    if device_of(asked) == "cpu":
        return most
    free, _ = torch.cuda.mem_get_info()
    return max(1, min(most, free // _GPU_BYTES))


def write(path: str, network: DetectorNetwork, normaliser: Normaliser, about: dict[str, Any]) -> None:
    """Write a detector's file; `about`: notes on its training."""
    tensors = {f"network.{name}": value.contiguous().cpu() for name, value in network.state_dict().items()}
    tensors["mean"] = torch.from_numpy(normaliser.mean)
    tensors["background"] = torch.from_numpy(normaliser.background).half()
    facts = {"format": _FORMAT, "architecture": asdict(network.architecture), "about": about}
    # One entry: several would come in another order each time.
    storage.write_bytes(path, save(tensors, {_KEY: json.dumps(facts, sort_keys=True)}))


def read(path: str, option: str = "--detector") -> LearnedDetector:
    """Return the detector in a file, named by its content's hash; ValueError, which names the option that the
    path was given by, if the file is anything else.
    """  # fmt: skip
    path = shipped_detector.found(path, option)
    try:
        header = weights.header(path)
        facts = untrusted.parse_json(header.metadata.get(_KEY, "{}").encode())
        if facts.get("format") != _FORMAT:
            raise ValueError(f"its format is {facts.get('format')!r}")
        architecture = _architecture(facts["architecture"], len(header.tensors))
        # Before memory is taken, the declared sizes are compared with the file's.
        declared = _scaled(header.tensors)
        weights.refuse_misfit(_of_network(declared), DetectorNetwork, architecture, path)
        _refuse_statistics(declared, architecture.dims)
        tensors = _scaled(weights.tensors(path))
        network = DetectorNetwork(architecture)
        network.load_state_dict(_of_network(tensors))
        network.laid_out()
        normaliser = Normaliser(tensors["mean"].numpy(), tensors["background"].float().numpy())
        about = facts["about"]
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(
            f"{option} {path} is no detector of `openwit detector train` ({error}); encoders of "
            "others end in .onnx or .pt"
        ) from error
    return LearnedDetector(storage.sha256_file(path)[:16], network, normaliser, about)


def compact(path: str, out: str) -> None:
    """Write a detector's file with 8 bits a weight; ValueError if it is none."""
    read(path)
    kept: dict[str, Tensor] = {}
    for name, value in weights.tensors(path).items():
        if value.ndim < 2:
            kept[name] = value
            continue
        scale = value.float().abs().flatten(1).amax(1).clamp(min=1e-12) / 127
        kept[name] = (value.float() / _beside(scale, value)).round().to(torch.int8)
        kept[name + _SCALE] = scale
    storage.write_bytes(out, save(kept, weights.header(path).metadata))


def _scaled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors, of any device, those of 8 bits times their scales; ValueError for one without."""
    short = [name for name, value in tensors.items() if value.dtype == torch.int8]
    found = {name: value for name, value in tensors.items() if name.removesuffix(_SCALE) not in short}
    for name in short:
        value, scale = tensors[name], tensors[name + _SCALE]
        if scale.shape != value.shape[:1] or not scale.is_floating_point():
            raise ValueError(f"{name} of 8 bits has no scale for each of its rows")
        found[name] = value.float() * _beside(scale.float(), value)
    return found


def _beside(scale: Tensor, value: Tensor) -> Tensor:
    """Return the scales, [n], in the shape that multiplies a tensor [n, ...]."""
    return scale.view(-1, *[1] * (value.ndim - 1))


def fill(network: DetectorNetwork, path: str) -> None:
    """Give a network the weights of a detector's file, whatever the side of its images.

    ValueError unless it is otherwise of the same architecture.
    """
    found = read(path, "--init-from").network
    if replace(found.architecture, side=network.architecture.side) != network.architecture:
        raise ValueError(f"--init-from {path} is {found.architecture}, not {network.architecture}")
    network.load_state_dict(found.state_dict())


def _architecture(sizes: dict[str, Any], most: int) -> DetectorArchitecture:
    """Return the architecture that a file names; ValueError where its `most` tensors cannot be of it.

    A file that names no layers has EfficientNet-Lite0, whose layers are fixed.
    """
    resnet = "layers" in sizes
    layers = tuple(sizes["layers"]) if resnet else ()
    numbers = [*layers, *(value for name, value in sizes.items() if name != "layers")]
    if len(layers) != 4 * resnet or not all(isinstance(n, int) and 0 < n < _LARGEST for n in numbers):
        raise ValueError("its sizes are not valid")
    if not resnet:
        return LiteArchitecture(**sizes)
    if sum(layers) > most:
        raise ValueError(f"{sum(layers):,} layers in {most:,} tensors")
    return ResNetArchitecture(**{**sizes, "layers": layers})


def _of_network(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    prefix = "network."
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def _refuse_statistics(tensors: dict[str, Tensor], dims: int) -> None:
    mean, background = tensors["mean"], tensors["background"]
    if [*mean.shape] != [dims] or background.ndim != 2 or background.shape[1] != dims:
        raise ValueError(f"its mean and background are not of {dims} numbers")
