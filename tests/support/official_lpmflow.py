"""Checkpoints in the layout of the LPMFlow authors, at any size, with weights that are a function of their names."""

import math
import zlib

import numpy as np
import torch

SMALL = {"cells": 4, "dim": 32, "depth": 1, "heads": 4, "backbone_depth": 1, "position_cells": 3, "context": 8}
"""Sizes of a network small enough for tests: images of 64 pixels, a flow of 32 cells a side."""

Shapes = dict[str, tuple[int, ...]]


def official_shapes(
    *,
    cells: int = 16,
    dim: int = 768,
    depth: int = 6,
    heads: int = 8,
    backbone_depth: int = 12,
    position_cells: int = 14,
    context: int = 88,
) -> Shapes:
    """The names and shapes of an official state dict; index tables are left out."""
    coarse, fine = 1 + cells**2, 1 + 4 * cells**2
    shapes: Shapes = {"x_normal": (2 * cells,), "y_normal": (2 * cells,)}
    shapes |= {"masked_tokens": (coarse, dim), "pos_embed_src": (1, coarse, dim)}

    def add(name: str, *weight: int) -> None:
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = weight[:1]

    def block(name: str, channels: int, attentions: tuple[str, ...] = ("attn",), norms: int = 2) -> None:
        for attention in attentions:
            add(f"{name}.{attention}.qkv", 3 * channels, channels)
            add(f"{name}.{attention}.proj", channels, channels)
        for norm in range(1, norms + 1):
            add(f"{name}.norm{norm}", channels)
        add(f"{name}.mlp.fc1", 4 * channels, channels)
        add(f"{name}.mlp.fc2", channels, 4 * channels)

    backbone = "feature_extraction.backbone"
    shapes |= {f"{backbone}.cls_token": (1, 1, dim), f"{backbone}.pos_embed": (1, 1 + position_cells**2, dim)}
    add(f"{backbone}.patch_embed.proj", dim, 3, 16, 16)
    for index in range(backbone_depth):
        block(f"{backbone}.blocks.{index}", dim)
    add(f"{backbone}.norm", dim)
    shapes |= {"encoder.cls_token": (1, 1, dim), "encoder.pos_embed": (1, coarse, dim)}
    add("encoder.patch_embed.proj", dim, 3, 16, 16)
    for role in ("src", "trg"):
        shapes |= {f"encoder.pos_embed_{role}": (1, cells**2, dim), f"encoder.cls_pos_embed_{role}": (1, 1, dim)}
        shapes[f"encoder.{role}_segment_pos_embed"] = (1, 1, dim)
    for index in range(depth):
        block(f"encoder.blocks.{index}", dim)
        shapes[f"encoder.blocks.{index}.attn.relative_position_bias_table"] = (heads, 4 * (2 * cells - 1) ** 2)
        shapes[f"encoder.blocks.{index}.spatial_attention.weight"] = (1, 1, dim)
    add("encoder.norm", dim)
    for number in (1, 2, 3):
        decoder = f"decoder_s{number}.last_block.0"
        block(decoder, dim, ("sattn", "cattn"), norms=4)
        for role in ("src", "trg"):
            shapes |= {
                f"{decoder}.pos_embed_{role}": (1, coarse, dim),
                f"{decoder}.pos_embed_{role}_up": (1, fine, dim),
            }

    def window_block(name: str, channels: int, window: int) -> None:
        block(f"{name}.0.transformer.layers.0.blocks.0", channels)
        table = f"{name}.0.transformer.layers.0.blocks.0.attn.relative_position_bias_table"
        shapes[table] = ((2 * window - 1) ** 2, heads)
        add(f"{name}.0.transformer.norm", channels)
        hidden = max(channels // 16, 1)
        shapes[f"{name}.1.fc.0.weight"] = (hidden, channels, 1, 1)
        shapes[f"{name}.1.fc.2.weight"] = (channels, hidden, 1, 1)

    for window in (16, 8, 4):
        window_block(f"SRBranches.refine_swin_decoder_{window}", 8 + context, window)
    for number in (1, 2):
        window_block(f"SRBranch_feat.refine_swin_decoder_1_{number}", dim, 4)
    add("SRBranches.refine2.0", 32, 8 + context, 3, 3)
    add("SRBranches.refine2.2", 2, 32, 3, 3)
    add("refine_proj_query_feat.0", context, dim, 1, 1)
    return shapes


def official_state_dict(shapes: Shapes, seed: int) -> dict[str, torch.Tensor]:
    """Deterministic weights of these shapes that keep values in range through the whole network."""
    return {name: torch.from_numpy(_weight(name, shape, seed)) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if name in ("x_normal", "y_normal"):
        return np.linspace(-1, 1, shape[0], dtype=np.float32)
    x = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + seed)).standard_normal(shape, np.float32)
    if name.endswith(".bias"):
        x = 0.05 * x
    elif not name.endswith(".weight"):
        x = 0.5 * x
    elif len(shape) == 1:
        x = 1 + 0.1 * x
    else:
        x = x / math.sqrt(math.prod(shape[1:]))
    return np.asarray(x, np.float32)
