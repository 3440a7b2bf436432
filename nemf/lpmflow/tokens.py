"""From an image to tokens: one for the image as a whole, then one for each of cells x cells, row by row."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nemf.lpmflow.presets import VISION_TRANSFORMER, LPMFlowConfig
from nemf.model.attention import Attention, Mlp
from nemf.model.backbone import Backbone, build_backbone
from nemf.model.backbone_config import BackboneConfig
from nemf.model.image_sizes import fitting_size
from nemf.model.weights_file import Published, check_file, load_weights

_UNREAD = ("head.weight", "head.bias", "masked_embed", "mask_token")
"""Tensors of whole models that no token depends on."""
PATCH_PX = 16
"""Side of a coarse cell in the image that the network sees, in pixels."""


class TokenBackbone(nn.Module):
    """Makes tokens of images; `mean` and `std` are those of the images, `(rgb / 255 - mean) / std`."""

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, config: BackboneConfig, *, side: int) -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.side = side
        """Side of the square images that it takes, in pixels."""
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.std).view(3, 1, 1), persistent=False)

    def forward(self, image: Float[Tensor, "b 3 side side"]) -> Float[Tensor, "b token dim"]:
        """The tokens of normalised images."""
        raise NotImplementedError


class ViTBlock(nn.Module):
    """Attention among all tokens, then an MLP, each on normalised tokens and added to them."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, tokens: Float[Tensor, "b token dim"]) -> Float[Tensor, "b token dim"]:
        """The tokens after this block."""
        tokens = tokens + self.attn(self.norm1(tokens))
        return tokens + self.mlp(self.norm2(tokens))


class VisionTransformer(TokenBackbone):
    """A ViT with patches of 16 pixels and the parameter names of DINO, iBOT and timm.

    depth, heads: of its blocks. position_cells: cells a side that the positions were learned at.
    """

    def __init__(
        self,
        name: str,
        config: BackboneConfig,
        *,
        cells: int,
        dim: int,
        depth: int,
        heads: int,
        position_cells: int,
    ) -> None:
        super().__init__(name, config, side=PATCH_PX * cells)
        self.cells = cells
        self.position_cells = position_cells
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + position_cells**2, dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, PATCH_PX, stride=PATCH_PX)})
        self.blocks = nn.ModuleList(ViTBlock(dim, heads, mlp_ratio=4) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.pos_embed, std=0.02)

    def forward(self, image: Float[Tensor, "b 3 side side"]) -> Float[Tensor, "b token dim"]:
        """The normalised tokens of the last block."""
        patches = self.patch_embed["proj"](image).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(image), -1, -1), patches], dim=1) + self._positions()
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def _positions(self) -> Float[Tensor, "1 token dim"]:
        """The positions at this number of cells; as published, sampled at steps of position_cells / (cells + 0.1)."""
        if self.cells == self.position_cells:
            return self.pos_embed
        grid = self.pos_embed[:, 1:].transpose(1, 2).unflatten(2, (self.position_cells, self.position_cells))
        scale = (self.cells + 0.1) / self.position_cells
        grid = F.interpolate(grid, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([self.pos_embed[:, :1], grid.flatten(2).transpose(1, 2)], dim=1)


class MapTokens(TokenBackbone):
    """Tokens of the maps of any backbone, joined at cells x cells; that of the image is the mean of the others.

    backbone: frozen, whichever it is. Its features are normalised and then projected.
    """

    def __init__(self, backbone: Backbone, *, cells: int, dim: int) -> None:
        super().__init__(backbone.name, backbone.config, side=seen_side(backbone, cells))
        self.cells = cells
        self.backbone = backbone
        with torch.no_grad():
            maps = backbone(torch.zeros(1, 3, self.side, self.side))
        self.proj = nn.Linear(sum(features.shape[1] for features in maps), dim)

    def forward(self, image: Float[Tensor, "b 3 side side"]) -> Float[Tensor, "b token dim"]:
        """The projected tokens."""
        size = (self.cells, self.cells)
        levels = [_at_size(features, size) for features in self.backbone(image)]
        levels = [F.layer_norm(level.flatten(2).transpose(1, 2), level.shape[1:2]) for level in levels]
        patches = torch.cat(levels, dim=2)
        return self.proj(torch.cat([patches.mean(dim=1, keepdim=True), patches], dim=1))


def seen_side(backbone: Backbone, cells: int) -> int:
    """Side of the square images of which a backbone makes the maps of so many cells, in pixels: PATCH_PX a cell, as
    nearly as its patches tile them, or the one size that it takes. ValueError where it takes no such images."""
    step = backbone.size_step
    asked = cells * step * max(1, round(PATCH_PX / step))
    side, _ = fitting_size(backbone.name, backbone, asked, insist=False)
    return side


def _at_size(features: Float[Tensor, "b c h w"], size: tuple[int, int]) -> Float[Tensor, "b c hc wc"]:
    """A map at another number of cells: means of its cells, or between them where it has fewer."""
    if features.shape[2] < size[0]:
        return F.interpolate(features, size, mode="bilinear", align_corners=False)
    return F.adaptive_avg_pool2d(features, size)


def load_vision_transformer(backbone: TokenBackbone, weights: Path | None) -> None:
    """Fill the published network's own backbone with a ViT's weights, as timm names them (iBOT's and DINO's names too).

    weights: a safetensors file; tensors of the same ViT that are not needed, such as a classifier, are left out.
    Raises ValueError where there is none, and as nemf.model.weights_file does.
    """
    if weights is None:
        raise ValueError(
            f"no library loads the weights of {VISION_TRANSFORMER}: give --backbone-weights FILE.safetensors, those of "
            "a ViT with patches of 16 pixels, such as iBOT's ViT-B/16"
        )
    check_file(weights)
    load_weights(backbone, weights, VISION_TRANSFORMER, Published(own_names={name: name for name in _UNREAD}))


def build_tokens(config: LPMFlowConfig, backbone: Backbone | None = None) -> TokenBackbone:
    """The tokens' part of a network of these sizes, with random weights.

    backbone: one that is loaded already, where the configuration names one of nemf.model.backbone.
    Raises ValueError for a name and a configuration that cannot be.
    """
    if config.backbone != VISION_TRANSFORMER:
        backbone = backbone or build_backbone(config.backbone, config.backbone_config)
        return MapTokens(backbone, cells=config.cells, dim=config.dim)
    arguments: dict[str, Any] = {"depth": 12, "heads": 12, "position_cells": 14} | config.backbone_config.create_kwargs
    for name, value in arguments.items():
        if name not in ("depth", "heads", "position_cells") or type(value) is not int or not 1 <= value <= 64:
            raise ValueError(
                f"{VISION_TRANSFORMER} takes depth, heads and position_cells among create_kwargs, whole numbers from 1 "
                f"to 64; got {name}={value!r}"
            )
    if config.dim % arguments["heads"]:
        raise ValueError(
            f"dim {config.dim} must be divisible by the {arguments['heads']} heads of {VISION_TRANSFORMER}"
        )
    return VisionTransformer(config.backbone, config.backbone_config, cells=config.cells, dim=config.dim, **arguments)
