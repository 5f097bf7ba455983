"""CLIP (Radford et al. 2021, arXiv:2103.00020): an image tower, a text tower, a shared space.

Parameter names are those of OpenAI's released state dicts, which open_clip shares: weights move as they are.
Shapes: B samples, S positions of an image, T tokens of all captions together, D channels, E shared space.
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.utils.checkpoint import checkpoint

from pipeline.data.architectures import Activation, Architecture
from train.packing import PackedText, causal_attention
from train.resnet import ModifiedResNet

INITIAL_SCALE = math.log(1 / 0.07)  # "initialized to the equivalent of 0.07" (section 2.5)
INITIAL_SIGMOID_SCALE, INITIAL_BIAS = math.log(10), -10.0  # of SigLIP (arXiv:2303.15343, section 3.2)
MAX_SCALE = math.log(100)  # "clipped to prevent scaling the logits by more than 100" (section 2.5)

Tower = Literal["image", "text"]


class Attention(nn.Module):
    """Attend over an image's positions, or causally inside each caption."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * width))
        self.out_proj = nn.Linear(width, width)
        self.heads = heads

    def forward(self, x: Tensor, text: PackedText | None) -> Tensor:
        """Map [B, S, D] to the same with `text` None, else [T, D]."""
        qkv = F.linear(x, self.in_proj_weight, self.in_proj_bias)
        q, k, v = qkv.view(*x.shape[:-1], 3, self.heads, -1).unbind(-3)
        if text is None:
            q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
            y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        else:
            y = causal_attention(q, k, v, text)
        return self.out_proj(y.flatten(-2))  # type: ignore[no-any-return]


class QuickGELU(nn.Module):
    """Approximate GELU as the released models do."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x * sigmoid(1.702 x), of any shape [...]."""
        return x * torch.sigmoid(1.702 * x)


class MLP(nn.Module):
    """Apply two linear layers, four times as wide between."""

    def __init__(self, width: int, activation: Activation) -> None:
        super().__init__()
        self.c_fc = nn.Linear(width, 4 * width)
        self.gelu = QuickGELU() if activation == "quick-gelu" else nn.GELU()
        self.c_proj = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [..., D] to [..., D]."""
        return self.c_proj(self.gelu(self.c_fc(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Apply attention and an MLP, each normalised before and added to its input."""

    def __init__(self, width: int, heads: int, activation: Activation) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.ln_1 = nn.LayerNorm(width)
        self.mlp = MLP(width, activation)
        self.ln_2 = nn.LayerNorm(width)

    def forward(self, x: Tensor, text: PackedText | None = None) -> Tensor:
        """Map [B, S, D], or with `text` [T, D], to the same."""
        x = x + self.attn(self.ln_1(x), text)
        return x + self.mlp(self.ln_2(x))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Apply blocks in turn, recomputing each in backward with `checkpointing`."""

    def __init__(self, width: int, layers: int, heads: int, activation: Activation) -> None:
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads, activation) for _ in range(layers))
        self.checkpointing = False

    def forward(self, x: Tensor, text: PackedText | None = None) -> Tensor:
        """Map [B, S, D], or with `text` [T, D], to the same."""
        for block in self.resblocks:
            if self.checkpointing and self.training:
                x = checkpoint(block, x, text, use_reentrant=False)
            else:
                x = block(x, text)
        return x

    def initialise(self) -> None:
        """Draw weights by width, those into the residual stream smaller by the root of twice the depth."""
        for block in self.resblocks:
            assert isinstance(block, Block)
            width = block.attn.out_proj.in_features
            residual = width**-0.5 * (2 * len(self.resblocks)) ** -0.5
            nn.init.normal_(block.attn.in_proj_weight, std=width**-0.5)
            nn.init.normal_(block.attn.out_proj.weight, std=residual)
            nn.init.normal_(block.mlp.c_fc.weight, std=(2 * width) ** -0.5)
            nn.init.normal_(block.mlp.c_proj.weight, std=residual)
            nn.init.zeros_(block.attn.out_proj.bias)


class VisionTransformer(nn.Module):
    """Encode images [B, 3, N, N] as features [B, E]."""

    def __init__(
        self, image_size: int, patch_size: int, width: int, layers: int, heads: int, outputs: int,
        activation: Activation,
    ) -> None:  # fmt: skip
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, patch_size, stride=patch_size, bias=False)
        self.class_embedding = nn.Parameter(torch.empty(width))
        self.positional_embedding = nn.Parameter(torch.empty((image_size // patch_size) ** 2 + 1, width))
        self.ln_pre = nn.LayerNorm(width)
        self.transformer = Transformer(width, layers, heads, activation)
        self.ln_post = nn.LayerNorm(width)
        self.proj = nn.Parameter(torch.empty(width, outputs))

    def features(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Map images [B, 3, N, N] to the class position's features [B, D], before the projection.

        kept: int64 [B, K], the patches to look at, row by row from 0; None for all.
        """
        patch = self.conv1.kernel_size[0]
        # Patches do not overlap, so the convolution is one matrix product.
        patches = x.unfold(2, patch, patch).unfold(3, patch, patch).permute(0, 2, 3, 1, 4, 5)
        x, positions = patches.flatten(3).flatten(1, 2), self.positional_embedding[:]
        if kept is not None:
            x = x.take_along_dim(kept[..., None], dim=1)
            start = torch.zeros_like(kept[:, :1])
            positions = positions[torch.cat([start, 1 + kept], dim=1)]
        x = F.linear(x, self.conv1.weight.flatten(1))
        first = self.class_embedding.to(x.dtype).expand(x.shape[0], 1, -1)
        x = torch.cat([first, x], dim=1) + positions.to(x.dtype)
        x = self.transformer(self.ln_pre(x))
        return self.ln_post(x[:, 0])  # type: ignore[no-any-return]

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Map images [B, 3, N, N] to features [B, E]; kept: as of `features`."""
        return self.features(x, kept) @ self.proj

    def initialise(self) -> None:
        """Draw embeddings and projection by width; blocks by PyTorch's defaults, as OpenAI's code does."""
        for parameter in [self.class_embedding, self.positional_embedding, self.proj]:
            nn.init.normal_(parameter, std=self.proj.shape[0] ** -0.5)
        for block in self.transformer.resblocks:
            assert isinstance(block, Block)
            nn.init.xavier_uniform_(block.attn.in_proj_weight)  # of nn.MultiheadAttention
            nn.init.zeros_(block.attn.out_proj.bias)


class CLIP(nn.Module):
    """Embed images and captions in one space of `embed_dim` channels.

    Parameters are uninitialised memory in part until `initialise` or `load_state_dict`.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.visual: ModifiedResNet | VisionTransformer
        if isinstance(a.vision_layers, tuple):
            self.visual = ModifiedResNet(
                a.vision_layers, a.embed_dim, a.vision_heads, a.image_size, a.vision_width
            )
        else:
            assert a.patch_size is not None
            self.visual = VisionTransformer(
                a.image_size, a.patch_size, a.vision_width, a.vision_layers, a.vision_heads, a.embed_dim,
                a.activation,
            )  # fmt: skip
        self.transformer = Transformer(a.text_width, a.text_layers, a.text_heads, a.activation)
        # Not drawn: `initialise` does, and drawing on the meta device imports torch's compiler.
        tokens = torch.empty(a.vocab_size, a.text_width)
        self.token_embedding = nn.Embedding.from_pretrained(tokens, freeze=False)  # type: ignore[no-untyped-call]
        self.positional_embedding = nn.Parameter(torch.empty(a.context_length, a.text_width))
        self.ln_final = nn.LayerNorm(a.text_width)
        self.text_projection = nn.Parameter(torch.empty(a.text_width, a.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(INITIAL_SCALE))
        self.logit_bias: nn.Parameter | None
        bias = nn.Parameter(torch.tensor(INITIAL_BIAS)) if a.logit_bias else None
        self.register_parameter("logit_bias", bias)
        self.locked: Tower | None = None

    def encode_image(self, images: Tensor, kept: Tensor | None = None) -> Tensor:
        """Map normalised images [B, 3, N, N] to unit vectors [B, E], float32.

        kept: int64 [B, K], of a ViT the patches to look at (patch dropout); None for all.
        """
        more = () if kept is None else (kept,)
        return F.normalize(self.visual(images, *more).float(), dim=-1)

    def encode_text(self, text: PackedText) -> Tensor:
        """Map B captions to unit vectors [B, E], float32, read at each caption's last token."""
        x = self.token_embedding(text.ids) + self.positional_embedding[text.positions]
        x = self.transformer(x, text)
        x = self.ln_final(x[text.ends])
        return F.normalize((x @ self.text_projection).float(), dim=-1)

    def forward(self, images: Tensor, text: PackedText, kept: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return image features [B, E], text features [B, E], and scalars: the logits' scale and any bias."""
        bias = () if self.logit_bias is None else (self.logit_bias,)
        return self.encode_image(images, kept), self.encode_text(text), self.logit_scale.exp(), *bias

    def initialise(self, seed: int) -> "CLIP":
        """Draw initial weights from `seed` as OpenAI's code does, where the paper leaves them open."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d | nn.LayerNorm):
                    module.reset_parameters()
                elif isinstance(module, Attention):
                    nn.init.zeros_(module.in_proj_bias)
            nn.init.normal_(self.token_embedding.weight, std=0.02)
            nn.init.normal_(self.positional_embedding, std=0.01)
            nn.init.normal_(self.text_projection, std=self.text_projection.shape[0] ** -0.5)
            nn.init.constant_(self.logit_scale, INITIAL_SIGMOID_SCALE if self.logit_bias else INITIAL_SCALE)
            if self.logit_bias is not None:
                nn.init.constant_(self.logit_bias, INITIAL_BIAS)
            self.transformer.initialise()
            self.visual.initialise()
        return self

    def lock(self, tower: Tower) -> None:
        """Train the other tower alone: this tower keeps weights and statistics (LiT, arXiv:2111.07991)."""
        self.locked = tower
        for name, parameter in self.named_parameters():
            own = "image" if name.startswith("visual.") else "text"
            if own == tower and not name.startswith("logit_"):
                parameter.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "CLIP":
        """Set the training mode; a locked tower stays in evaluation mode."""
        super().train(mode)
        if self.locked is not None:
            (self.visual if self.locked == "image" else self.transformer).eval()
        return self

    def set_checkpointing(self, on: bool) -> None:
        """Recompute every block in backward (a third more arithmetic) instead of keeping its activations."""
        for module in self.modules():
            if isinstance(module, Transformer | ModifiedResNet):
                module.checkpointing = on

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """Keep the logits' scale in [1, 100]; called after each optimiser step."""
        self.logit_scale.clamp_(0, MAX_SCALE)
