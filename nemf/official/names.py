"""State dicts of the authors' checkpoints: their names and shapes, translated into our network."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from nemf.model.build import build
from nemf.model.network import NeMF
from nemf.model.presets import NeMFConfig, paper
from nemf.model.weights_file import check_tensors, refuse

RESNETS = {(2, 2, 2, 2): "resnet18", (3, 4, 6, 3): "resnet50", (3, 4, 23, 3): "resnet101", (3, 8, 36, 3): "resnet152"}

_DROPPED = re.compile(
    r"mlp_model\.backbone\."  # a second ResNet, never run
    r"|feature_extraction\.backbone\.fc\.|decoder\.norm\."  # in the checkpoint, never applied
    r"|.*\.num_batches_tracked$"  # counters that only training uses
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
"""The authors' prefixes and ours, longer ones first; {} is a number."""


def from_official_state_dict(
    state_dict: Mapping[str, Tensor], num_heads: int = 6, hyperpixels: Sequence[int] | None = None
) -> NeMF:
    """The network of an official checkpoint's 'state_dict', in eval mode; all sizes are read off its shapes.

    num_heads: heads of the attention, which no shape shows.
    hyperpixels: which residual blocks give the feature maps, numbered from 1 through all layers; by default the last
        of each layer.
    Raises ValueError naming every tensor that is missing, unexpected, of another shape or type, or not finite.
    """
    return official_network(state_dict, official_config(state_dict, num_heads, hyperpixels))


def official_network(state_dict: Mapping[str, Tensor], config: NeMFConfig) -> NeMF:
    """The network of an official state dict and its official_config; raises as from_official_state_dict does."""
    try:
        with torch.device("meta"):
            empty = build(config)  # takes no memory: a small tensor can imply any size
    except RuntimeError as error:
        raise ValueError(f"not an official NeMF checkpoint: no network has the sizes that it tells: {error}") from error
    ours, tensors = _official_names(empty), empty.state_dict()
    expected = {name: tensors[ours[name]] for name in ours}
    actual = {name: tensor for name, tensor in state_dict.items() if not _DROPPED.match(name)}
    misfit = "the official state dict does not fit the sizes that it tells"
    check_tensors(expected, actual, misfit, _whole_backbone(empty))
    model = build(config)
    model.load_state_dict({ours[name]: actual[name] for name in ours}, strict=False)
    return model


def official_config(
    state_dict: Mapping[str, Tensor], num_heads: int = 6, hyperpixels: Sequence[int] | None = None
) -> NeMFConfig:
    """The sizes of the network that an official state dict belongs to; raises as from_official_state_dict does."""

    def count(pattern: str) -> int:
        return len({match[1] for name in state_dict if (match := re.match(pattern, name))})

    def shape(name: str, n_axes: int) -> tuple[int, ...]:
        sizes = tuple(state_dict[name].shape)
        if len(sizes) != n_axes or 0 in sizes:
            expected = f"{n_axes} axes, none of them empty"
            raise ValueError(f"not an official NeMF checkpoint: {name} must have {expected}; got shape {sizes}")
        return sizes

    odd = [f"{name} ({type(tensor).__name__})" for name, tensor in state_dict.items() if not isinstance(tensor, Tensor)]
    refuse("not an official NeMF checkpoint", {"not tensors": odd})
    if num_heads < 1:
        raise ValueError(f"num_heads must be at least 1; got {num_heads}")
    blocks = tuple(count(rf"feature_extraction\.backbone\.layer{layer}\.(\d+)\.") for layer in range(1, 5))
    if blocks not in RESNETS:
        known = ", ".join(f"{name} {sizes}" for sizes, name in RESNETS.items())
        raise ValueError(
            f"not an official NeMF checkpoint: feature_extraction.backbone has {blocks} blocks; known are {known}; "
            f"the first of {len(state_dict)} names is {next(iter(state_dict), None)}"
        )
    config = paper()
    if hyperpixels is None or tuple(hyperpixels) == tuple(sum(blocks[: layer + 1]) for layer in range(4)):
        backbone, out_indices = f"torchvision/{RESNETS[blocks]}", config.backbone_config.out_indices
    else:
        backbone, out_indices = f"torchvision-blocks/{RESNETS[blocks]}", tuple(hyperpixels)
        numbers = set(out_indices).intersection(range(1, sum(blocks) + 1))
        if not numbers or sorted(numbers) != list(out_indices):
            raise ValueError(
                f"hyperpixels must be rising block numbers from 1 to {sum(blocks)}; got {list(out_indices)}"
            )
    config = replace(
        config,
        backbone=backbone,
        backbone_config=replace(config.backbone_config, out_indices=out_indices),
        depth=max(1, count(r"decoder\.blocks\.(\d+)\.")),
        field_blocks=max(1, count(r"mlp_model\.mlp\.0\.blocks\.(\d+)\.")),
    )
    _check_names(config, state_dict)
    feature_size = shape("decoder.pos_embed_x", 5)[3]
    dim = shape("decoder.blocks.0.attn.proj.weight", 2)[0]
    positions = shape("mlp_model.mlp.0.fc_p.weight", 2)
    return replace(
        config,
        image_size=16 * feature_size,
        feature_size=feature_size,
        embedding_channels=(
            shape("corr_embedder.0.embedder.conv4d.0.0.query_conv.weight", 4)[0],
            shape("corr_embedder.0.embedder.conv4d.1.0.query_conv.weight", 4)[0],
        ),
        projection_dim=shape("proj.0.weight", 2)[0],
        heads=num_heads,
        mlp_ratio=shape("decoder.blocks.0.mlp.fc1.weight", 2)[0] // dim or 1,
        hidden=positions[0],
        frequencies=max(1, (positions[1] // 2 - 2) // 4),
    )


def _check_names(config: NeMFConfig, state_dict: Mapping[str, Tensor]) -> None:
    """Raises ValueError naming every missing and unexpected tensor: names depend on no size, and sizes need names."""
    with torch.device("meta"):
        model = build(config)
    expected, spare = _official_names(model), _whole_backbone(model)
    actual = [name for name in state_dict if not _DROPPED.match(name)]
    refuse(
        f"not an official NeMF checkpoint with {config.backbone}",
        {
            "missing": [name for name in expected if name not in state_dict],
            "unexpected": [name for name in actual if name not in expected and name not in spare],
        },
    )


def _official_names(model: NeMF) -> dict[str, str]:
    """The model's tensors: our name by the authors' name."""
    return {official_name(name): name for name in model.state_dict() if not name.endswith("num_batches_tracked")}


def official_name(name: str) -> str:
    """The authors' name of our tensor `name`."""
    for theirs, ours in _PREFIXES.items():
        match = re.match(re.escape(ours).replace(r"\{\}", r"(\d+)"), name)
        if match:
            return theirs.format(*match.groups()) + name[match.end() :]
    raise AssertionError(f"{name} has no official name")


def _whole_backbone(model: NeMF) -> set[str]:
    """The authors' names of all tensors of the ResNet; our network ends at the last block that it needs."""
    import torchvision  # takes seconds, and only these checkpoints need it

    with torch.device("meta"):
        network = torchvision.models.get_model(model.backbone.name.partition("/")[2])
    return {f"feature_extraction.backbone.{name}" for name in network.state_dict()}
