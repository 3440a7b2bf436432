"""Checkpoints in the layout of the NeMF authors, at any size, with weights that are a function of their names."""

import zlib

import numpy as np
import torch
import torchvision

SMALL = {
    "feature_size": 4,
    "projection": 8,
    "depth": 1,
    "channels": (2, 4),
    "hidden": 16,
    "backbone": "resnet18",
    "feature_channels": (64, 128, 256, 512),
}
"""Sizes of a network small enough for tests, with 2 heads."""


def official_shapes(
    *,
    feature_size: int = 16,
    projection: int = 128,
    depth: int = 4,
    channels: tuple[int, int] = (4, 16),
    hidden: int = 256,
    backbone: str = "resnet101",
    feature_channels: tuple[int, ...] = (256, 512, 1024, 2048),
) -> dict[str, tuple[int, ...]]:
    """The names and shapes of an official state dict, feature levels from fine to coarse."""
    shapes: dict[str, tuple[int, ...]] = {}

    def add(name: str, *weight: int, bias: int | None = None) -> None:
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = (weight[0] if bias is None else bias,)

    with torch.device("meta"):
        resnet = torchvision.models.get_model(backbone).state_dict()
    for copy in ("feature_extraction", "mlp_model"):
        shapes.update({f"{copy}.backbone.{name}": tuple(tensor.shape) for name, tensor in resnet.items()})
    levels = len(feature_channels)
    first, second = channels
    for level, of_level in enumerate(feature_channels):
        add(f"proj.{level}", projection, of_level)
        transposed = level == levels - 1
        for step, (before, after) in enumerate([(1, first), (first, second)]):
            block = f"corr_embedder.{level}.embedder.conv4d.{step}"
            for branch in ("query_conv", "supp_conv"):
                in_out = (before, after) if transposed else (after, before)
                add(f"{block}.0.{branch}", *in_out, 3, 3, bias=after)
            add(f"{block}.1", after)
    dim = feature_size**2 + projection
    shapes["decoder.pos_embed_x"] = (1, levels, 1, feature_size, dim // 2)
    shapes["decoder.pos_embed_y"] = (1, levels, feature_size, 1, dim // 2)
    for index in range(depth):
        block = f"decoder.blocks.{index}"
        for norm in ("norm1", "norm2", "norm3", "norm4"):
            add(f"{block}.{norm}", dim)
        for attention in ("attn", "attn_multiscale"):
            add(f"{block}.{attention}.qkv", 3 * dim, dim)
            add(f"{block}.{attention}.proj", dim, dim)
        for mlp in ("mlp", "mlp2"):
            add(f"{block}.{mlp}.fc1", 4 * dim, dim)
            add(f"{block}.{mlp}.fc2", dim, 4 * dim)
    add("decoder.proj", feature_size**2, dim)
    add("decoder.norm", dim)
    total = levels * second
    add("mlp_model.mlp.0.fc_p", hidden, 84)
    for index in range(3):
        add(f"mlp_model.mlp.0.fc_c.{index}", hidden, total)
        add(f"mlp_model.mlp.0.blocks.{index}.fc_0", hidden, hidden)
        add(f"mlp_model.mlp.0.blocks.{index}.fc_1", hidden, hidden)
    add("mlp_model.mlp.0.fc_out", 1, hidden)
    for branch in ("query_conv", "supp_conv"):
        add(f"mlp_model.cost_embedding.embedder.conv4d.0.0.{branch}", total, total + 1, 3, 3)
    add("mlp_model.cost_embedding.embedder.conv4d.0.1", total)
    shapes["x_normal"] = shapes["y_normal"] = (feature_size,)
    return shapes


def official_state_dict(shapes: dict[str, tuple[int, ...]], seed: int) -> dict[str, torch.Tensor]:
    """Deterministic weights of these shapes that keep values in range through the whole network."""
    return {name: torch.from_numpy(_weight(name, shape, seed)) for name, shape in shapes.items()}


def _weight(name: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    if name.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if name in ("x_normal", "y_normal"):
        return np.linspace(-1, 1, shape[0], dtype=np.float32)
    generator = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + seed))
    x = generator.standard_normal(shape, np.float32)
    if name.endswith("running_var"):
        x = 1 + 0.1 * np.abs(x)
    elif name.endswith("running_mean"):
        x = 0.1 * x
    elif name.endswith(".bias"):
        x = 0.05 * x
    elif name.endswith("bn3.weight"):
        x = 0.2 * (1 + 0.1 * x)
    elif "pos_embed_" in name:
        x = 0.5 * x
    elif len(shape) == 1:
        x = 1 + 0.1 * x
    else:
        x = x / np.sqrt(np.prod(shape[1:]))
    return np.asarray(x, np.float32)


def same_weights(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether two networks have the same tensors by the same names."""
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
