"""The detector as one file: weights, centre and background, read without unpickling."""

import json
from dataclasses import asdict
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import save
from torch import Tensor

from dedup.detector.encoder import EncoderDetector, is_encoder
from dedup.detector.model import DetectorArchitecture, DetectorNetwork, LiteArchitecture, ResNetArchitecture
from dedup.detector.normalise import F32, Normaliser
from pipeline import storage, untrusted
from train import weights

_KEY, _FORMAT = "openwit", "detector 1"
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

    def embed(self, thumbnails: npt.NDArray[np.uint8]) -> F32:
        """Return centred unit vectors: uint8 [n, side, side, 3] to float32 [n, dims]."""
        return self.normaliser.centred(self.network.embed(thumbnails))

    def biases(self, vectors: F32) -> F32:
        """Return the correction of the similarities of each vector: [n, dims] to [n]."""
        return self.normaliser.biases(vectors)

    def close(self) -> None:
        """Do nothing: it has no process of its own, as an encoder has."""


AnyDetector = LearnedDetector | EncoderDetector
Device = Literal["auto", "cuda", "cpu"]


def of_any_kind(path: str) -> AnyDetector:
    """Return the detector in a file: one of our own, or an encoder; ValueError if it cannot be used."""
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
    if not storage.exists(path):
        raise ValueError(f"{option} {path}: no such file; `openwit detector train` writes one")
    try:
        header = weights.header(path)
        facts = untrusted.parse_json(header.metadata.get(_KEY, "{}").encode())
        if facts.get("format") != _FORMAT:
            raise ValueError(f"its format is {facts.get('format')!r}")
        architecture = _architecture(facts["architecture"], len(header.tensors))
        # Before memory is taken, the declared sizes are compared with the file's.
        weights.refuse_misfit(_of_network(header.tensors), DetectorNetwork, architecture, path)
        _refuse_statistics(header.tensors, architecture.dims)
        tensors = weights.tensors(path)
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


def fill(network: DetectorNetwork, path: str) -> None:
    """Give a network the weights of a detector's file; ValueError unless it is of the same architecture."""
    found = read(path, "--init-from").network
    if found.architecture != network.architecture:
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
