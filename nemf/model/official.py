"""Official checkpoints: the authors' names and shapes, turned into our network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torchvision
from torch import Tensor

from nemf.model.network import NeMF
from nemf.model.presets import NeMFConfig, build, paper

RESNETS = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}

_DROPPED = re.compile(
    r"mlp_model\.backbone\."  # a second ResNet, never run
    r"|feature_extraction\.backbone\.fc\.|decoder\.norm\."  # in the checkpoint, never applied
    r"|.*\.num_batches_tracked$"  # counts of training
)
_PREFIXES = {
    "feature_extraction.backbone.": "backbone.network.",
    "proj.{}.": "cost_encoder.projections.{}.",
    "corr_embedder.{}.embedder.conv4d.{}.0.query_conv.": "cost_encoder.embeddings.{}.{}.conv.over_source.",
    "corr_embedder.{}.embedder.conv4d.{}.0.supp_conv.": "cost_encoder.embeddings.{}.{}.conv.over_target.",
    "corr_embedder.{}.embedder.conv4d.{}.1.": "cost_encoder.embeddings.{}.{}.norm.",
    "decoder.pos_embed_": "cost_encoder.aggregator.position_",
    "decoder.blocks.{}.attn.": "cost_encoder.aggregator.blocks.{}.cell_attention.",
    "decoder.blocks.{}.attn_multiscale.": "cost_encoder.aggregator.blocks.{}.channel_attention.",
    "decoder.blocks.{}.norm1.": "cost_encoder.aggregator.blocks.{}.cell_norm.",
    "decoder.blocks.{}.norm2.": "cost_encoder.aggregator.blocks.{}.channel_mlp_norm.",
    "decoder.blocks.{}.norm3.": "cost_encoder.aggregator.blocks.{}.channel_norm.",
    "decoder.blocks.{}.norm4.": "cost_encoder.aggregator.blocks.{}.cell_mlp_norm.",
    "decoder.blocks.{}.mlp.": "cost_encoder.aggregator.blocks.{}.channel_mlp.",
    "decoder.blocks.{}.mlp2.": "cost_encoder.aggregator.blocks.{}.cell_mlp.",
    "decoder.proj.": "cost_encoder.aggregator.proj.",
    "mlp_model.cost_embedding.embedder.conv4d.0.0.query_conv.": "field.embedding.conv.over_source.",
    "mlp_model.cost_embedding.embedder.conv4d.0.0.supp_conv.": "field.embedding.conv.over_target.",
    "mlp_model.cost_embedding.embedder.conv4d.0.1.": "field.embedding.norm.",
    "mlp_model.mlp.0.": "field.",
    "x_normal": "cost_encoder.x_normal",
    "y_normal": "cost_encoder.y_normal",
}
"""Their names and ours, longer ones first; {} is a number."""


def from_official_state_dict(
    state_dict: Mapping[str, Tensor], num_heads: int = 6, hyperpixels: Sequence[int] | None = None
) -> NeMF:
    """The network of an official checkpoint's 'state_dict', in eval mode; all sizes are read off its shapes.

    num_heads: heads of the attention, which no shape tells.
    hyperpixels: which residual blocks give the feature maps, numbered from 1 through all layers; by default the last
        of each layer.
    Raises ValueError listing the tensors that are missing, unexpected, of another shape or not finite.
    """
    return fill(build(official_config(state_dict, num_heads, hyperpixels)), state_dict)


def official_config(
    state_dict: Mapping[str, Tensor], num_heads: int = 6, hyperpixels: Sequence[int] | None = None
) -> NeMFConfig:
    """The sizes of the network that an official state dict belongs to."""

    def shape(name: str, n_axes: int) -> tuple[int, ...]:
        if name not in state_dict:
            raise ValueError(f"not an official NeMF checkpoint: {name} is missing")
        found = tuple(state_dict[name].shape)
        if len(found) != n_axes:
            raise ValueError(f"not an official NeMF checkpoint: {name} must have {n_axes} axes; got shape {found}")
        return found

    def count(pattern: str) -> int:
        return len({match[1] for key in state_dict if (match := re.match(pattern, key))})

    blocks = tuple(count(rf"feature_extraction\.backbone\.layer{layer}\.(\d+)\.") for layer in range(1, 5))
    if blocks not in RESNETS:
        known = ", ".join(f"{name} {sizes}" for sizes, name in RESNETS.items())
        raise ValueError(f"not an official NeMF checkpoint: its backbone has {blocks} blocks; known are {known}")
    published = paper()
    if hyperpixels is None or tuple(hyperpixels) == tuple(sum(blocks[: layer + 1]) for layer in range(4)):
        backbone, out_indices = f"torchvision/{RESNETS[blocks]}", published.backbone_config.out_indices
    else:
        backbone, out_indices = f"torchvision-blocks/{RESNETS[blocks]}", tuple(hyperpixels)
        if not hyperpixels or not all(1 <= block <= sum(blocks) for block in hyperpixels):
            raise ValueError(f"hyperpixels must be block numbers from 1 to {sum(blocks)}; got {list(hyperpixels)}")
    feature_size = shape("decoder.pos_embed_x", 5)[3]
    dim = shape("decoder.blocks.0.attn.proj.weight", 2)[0]
    positions = shape("mlp_model.mlp.0.fc_p.weight", 2)
    return replace(
        published,
        backbone=backbone,
        backbone_config=replace(published.backbone_config, out_indices=out_indices),
        image_size=16 * feature_size,
        feature_size=feature_size,
        embedding_channels=(
            shape("corr_embedder.0.embedder.conv4d.0.0.query_conv.weight", 4)[0],
            shape("corr_embedder.0.embedder.conv4d.1.0.query_conv.weight", 4)[0],
        ),
        projection_dim=shape("proj.0.weight", 2)[0],
        depth=count(r"decoder\.blocks\.(\d+)\."),
        heads=num_heads,
        mlp_ratio=shape("decoder.blocks.0.mlp.fc1.weight", 2)[0] // dim,
        hidden=positions[0],
        field_blocks=count(r"mlp_model\.mlp\.0\.blocks\.(\d+)\."),
        frequencies=(positions[1] // 2 - 2) // 4,
    )


def fill(model: NeMF, state_dict: Mapping[str, Tensor]) -> NeMF:
    """Copy an official state dict into `model`; ValueError listing everything that does not fit."""
    theirs = {
        official_name(name): tensor
        for name, tensor in model.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    found = {name: tensor for name, tensor in state_dict.items() if not _DROPPED.match(name)}
    spare = _whole_backbone(model)
    shared = [name for name in theirs if name in found]
    faults = {
        "missing": [name for name in theirs if name not in found],
        "unexpected": [name for name in found if name not in theirs and name not in spare],
        "wrong shape": [
            f"{name} {list(found[name].shape)} instead of {list(theirs[name].shape)}"
            for name in shared
            if found[name].shape != theirs[name].shape
        ],
        "not finite": [name for name in shared if not found[name].isfinite().all()],
    }
    if any(faults.values()):
        listed = "; ".join(f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names)
        raise ValueError(f"the official state dict does not fit a NeMF of these sizes: {listed}")
    for name in shared:
        theirs[name].copy_(found[name])
    return model


def official_name(name: str) -> str:
    """What the authors call our tensor `name`."""
    for theirs, ours in _PREFIXES.items():
        match = re.match(re.escape(ours).replace(r"\{\}", r"(\d+)"), name)
        if match:
            return theirs.format(*match.groups()) + name[match.end() :]
    raise AssertionError(f"{name} has no official name")


def _whole_backbone(model: NeMF) -> set[str]:
    """The tensors of the uncut ResNet: a network that ends at an early block does without the rest."""
    with torch.device("meta"):
        network = torchvision.models.get_model(model.backbone.name.partition("/")[2])
    return {f"feature_extraction.backbone.{name}" for name in network.state_dict()}
