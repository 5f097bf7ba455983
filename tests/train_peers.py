"""Import the peers that the trainer is compared with; a test without its peer is skipped."""

import contextlib
import importlib.machinery
import sys
import types
from typing import Any

import pytest


class _AnyClass(type):
    """A class with every attribute."""

    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Anything(types.ModuleType):
    """Stand in for a torchvision module that a peer imports and our comparison never calls."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _AnyClass(name, (), {"__init__": lambda self, *args, **options: None})


def _stub_torchvision() -> list[str]:
    names = ["torchvision", "torchvision.transforms", "torchvision.transforms.functional"]
    names += ["torchvision.ops", "torchvision.ops.misc"]
    for name in names:
        module = _Anything(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)
        module.__path__ = []
        sys.modules[name] = module
    for name in names[1:]:
        parent, _, child = name.rpartition(".")
        setattr(sys.modules[parent], child, sys.modules[name])
    return names


def open_clip() -> Any:
    """Return open_clip; torchvision, which has no build for a CPU-only torch everywhere, may be absent."""
    if "open_clip" in sys.modules:
        return sys.modules["open_clip"]
    stubs: list[str] = []
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        with contextlib.suppress(ImportError):  # it remembers whether torchvision is there: let it look first
            from transformers import CLIPModel  # noqa: F401
        stubs = _stub_torchvision()
    hidden = sys.modules.get("timm")
    if stubs:
        sys.modules["timm"] = None  # type: ignore[assignment]  # its import needs a real torchvision
    try:
        return pytest.importorskip("open_clip")
    finally:
        # Other libraries look for torchvision too and must not find the stub.
        for name in stubs:
            del sys.modules[name]
        if stubs:
            del sys.modules["timm"]
            if hidden is not None:
                sys.modules["timm"] = hidden


def transformers() -> Any:
    """Return transformers."""
    return pytest.importorskip("transformers")
