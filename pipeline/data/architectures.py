"""The sizes and training recipes of CLIP's nine models (arXiv:2103.00020, tables 18-20)."""

from dataclasses import dataclass, replace
from typing import Literal

Activation = Literal["quick-gelu", "gelu"]
"""OpenAI's x * sigmoid(1.702 x), or the exact GELU, which most of open_clip's own models have."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Fix every size of one model; a tuple of vision layers means a ResNet, an integer a ViT."""

    embed_dim: int
    image_size: int
    vision_layers: int | tuple[int, int, int, int]
    vision_width: int
    patch_size: int | None = None
    text_width: int = 512
    text_layers: int = 12
    context_length: int = 77
    vocab_size: int = 49_408
    activation: Activation = "quick-gelu"
    """Of the transformers' MLPs."""
    logit_bias: bool = False
    """Whether the logits have a learned bias, as SigLIP's have."""

    def __post_init__(self) -> None:
        """Refuse sizes that no such model can have."""
        step = 32 if self.is_resnet else self.patch_size
        if step is None:
            raise ValueError("a ViT needs patch_size")
        if self.image_size % step or self.image_size < step:
            raise ValueError(
                f"--image-size {self.image_size} is not a multiple of {step}, the model's stride"
            )

    @property
    def is_resnet(self) -> bool:
        """Return whether the image tower is the modified ResNet."""
        return isinstance(self.vision_layers, tuple)

    @property
    def vision_heads(self) -> int:
        """Return the image tower's attention heads: 64 channels each, counted on the ResNet's last stage."""
        return self.vision_width * 32 // 64 if self.is_resnet else self.vision_width // 64

    @property
    def text_heads(self) -> int:
        """Return the text tower's attention heads: 64 channels each."""
        return self.text_width // 64

    @property
    def grid(self) -> int:
        """Return the side of the image tower's grid of positions."""
        return self.image_size // (self.patch_size or 32)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hold the paper's hyper-parameters of one model: the defaults of the options of the same names."""

    batch_size: int = 32_768
    epochs: int = 32
    lr: float = 5e-4
    beta1: float = 0.9
    beta2: float = 0.98
    eps: float = 1e-6
    weight_decay: float = 0.2
    warmup: int = 2_000


def _resnet(layers: tuple[int, int, int, int], width: int, size: int, embed: int, text: int) -> Architecture:
    return Architecture(
        embed_dim=embed, image_size=size, vision_layers=layers, vision_width=width, text_width=text
    )


def _vit(layers: int, width: int, patch: int, embed: int, text: int) -> Architecture:
    return Architecture(
        embed_dim=embed,
        image_size=224,
        vision_layers=layers,
        vision_width=width,
        patch_size=patch,
        text_width=text,
    )


_VIT_L_14 = _vit(24, 1024, 14, 768, 768)

ARCHITECTURES: dict[str, Architecture] = {
    "RN50": _resnet((3, 4, 6, 3), 64, 224, 1024, 512),
    "RN101": _resnet((3, 4, 23, 3), 64, 224, 512, 512),
    "RN50x4": _resnet((4, 6, 10, 6), 80, 288, 640, 640),
    "RN50x16": _resnet((6, 8, 18, 8), 96, 384, 768, 768),
    "RN50x64": _resnet((3, 15, 36, 10), 128, 448, 1024, 1024),
    "ViT-B-32": _vit(12, 768, 32, 512, 512),
    "ViT-B-16": _vit(12, 768, 16, 512, 512),
    "ViT-L-14": _VIT_L_14,
    "ViT-L-14-336": replace(_VIT_L_14, image_size=336),
    # For a CPU: a ResNet, which learns from thousands of pictures where a ViT needs millions.
    "tiny": Architecture(
        embed_dim=128,
        image_size=32,
        vision_layers=(1, 1, 1, 1),
        vision_width=24,
        text_width=64,
        text_layers=2,
    ),
}

_RESNET = Recipe(beta2=0.999, eps=1e-8)

RECIPES: dict[str, Recipe] = {
    "RN50": _RESNET,
    "RN101": _RESNET,
    "RN50x4": _RESNET,
    "RN50x16": replace(_RESNET, lr=4e-4),
    "RN50x64": replace(_RESNET, lr=3.6e-4),
    "ViT-B-32": Recipe(),
    "ViT-B-16": Recipe(),
    "ViT-L-14": Recipe(lr=4e-4),
    # One more epoch at 336 pixels, started from ViT-L-14 (`--init-from`).
    "ViT-L-14-336": Recipe(lr=2e-5, epochs=1),
    "tiny": Recipe(batch_size=128, epochs=6, lr=2e-3, weight_decay=0.1, warmup=100),
}
