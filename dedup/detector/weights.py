"""The detector as one file: weights, centre and background, read without unpickling."""

import hashlib
import json
from dataclasses import asdict
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load, save

from dedup.detector.model import Architecture, Network
from dedup.detector.normalise import F32, Normaliser
from pipeline import storage

_KEY, _FORMAT = "openwit", "detector 1"


class LearnedDetector:
    """Embed thumbnails so that near-duplicates have a high cosine: a `dedup.descriptors.Detector`."""

    def __init__(self, name: str, network: Network, normaliser: Normaliser, about: dict[str, Any]) -> None:
        self.name, self.network, self.normaliser, self.about = name, network.eval(), normaliser, about
        self.side, self.dims = network.architecture.side, network.architecture.dims

    def embed(self, thumbnails: npt.NDArray[np.uint8]) -> F32:
        """Return centred unit vectors: uint8 [n, side, side, 3] to float32 [n, dims]."""
        return self.normaliser.centred(self.network.embed(thumbnails))

    def biases(self, vectors: F32) -> F32:
        """Return what is taken off the similarities of each vector: [n, dims] to [n]."""
        return self.normaliser.biases(vectors)

    def to(self, device: torch.device | str) -> "LearnedDetector":
        """Move the network to a device."""
        self.network.to(device)
        return self


def write(path: str, network: Network, normaliser: Normaliser, about: dict[str, Any]) -> None:
    """Write a detector's file; `about`: what is to be said of its training."""
    tensors = {f"network.{name}": value.contiguous().cpu() for name, value in network.state_dict().items()}
    tensors["mean"] = torch.from_numpy(normaliser.mean)
    tensors["background"] = torch.from_numpy(normaliser.background).half()
    facts = {"format": _FORMAT, "architecture": asdict(network.architecture), "about": about}
    # One entry: several would come in another order each time.
    storage.write_bytes(path, save(tensors, {_KEY: json.dumps(facts, sort_keys=True)}))


def read(path: str) -> LearnedDetector:
    """Return the detector in a file, named by its content's hash; ValueError if the file is anything else."""
    if not storage.exists(path):
        raise ValueError(f"--detector {path}: no such file; `openwit detector train` writes one")
    data = storage.read_bytes(path)
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        facts = json.loads(header.get("__metadata__", {}).get(_KEY, "{}"))
        if facts.get("format") != _FORMAT:
            raise ValueError(f"its format is {facts.get('format')!r}")
        sizes = facts["architecture"]
        network = Network(Architecture(**{**sizes, "layers": tuple(sizes["layers"])}))
        tensors = load(data)
        network.load_state_dict({
            name.removeprefix("network."): value
            for name, value in tensors.items()
            if name.startswith("network.")
        })  # fmt: skip
        network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        normaliser = Normaliser(tensors["mean"].numpy(), tensors["background"].float().numpy())
    except (ValueError, KeyError, TypeError, UnicodeDecodeError, RuntimeError) as error:
        raise ValueError(f"--detector {path} is no detector of `openwit detector train` ({error})") from error
    return LearnedDetector(hashlib.sha256(data).hexdigest()[:16], network, normaliser, facts["about"])
