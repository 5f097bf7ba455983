"""Import open_clip for comparison, also where torchvision's compiled operators do not load."""

import importlib
from types import ModuleType


def torchvision() -> bool:
    """Return whether torchvision can be imported; its Python transforms need no compiled operators."""
    import torch

    try:
        importlib.import_module("torchvision")
    except ImportError:
        return False
    except RuntimeError:  # it registers fake versions of operators that its library, not loaded, would define
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        globals()["_library"] = library
        importlib.import_module("torchvision")
    return True


def open_clip() -> ModuleType | None:
    """Return open_clip, or None where it or torchvision is not installed."""
    try:
        return importlib.import_module("open_clip") if torchvision() else None
    except ImportError:
        return None
