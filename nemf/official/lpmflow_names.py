"""State dicts of the LPMFlow authors' checkpoints: their names and shapes, translated into our network."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from nemf.lpmflow.build import build
from nemf.lpmflow.network import LPMFlow
from nemf.lpmflow.presets import LPMFlowConfig, paper
from nemf.model.weights_file import check_tensors, refuse

_OTHER = "not an official LPMFlow checkpoint"
_BACKBONE_HEAD_CHANNELS = 64

_DROPPED = re.compile(
    r"masked_tokens$|encoder\.(cls_token|pos_embed|patch_embed\.proj\.(weight|bias))$"  # never read
    r"|encoder\.blocks\.\d+\.spatial_attention\.weight$|decoder_s\d\.last_block\.0\.norm[34]\.(weight|bias)$"
    r"|decoder_s1\.last_block\.0\.pos_embed_(src|trg)_up$|decoder_s3\.last_block\.0\.pos_embed_(src|trg)$"
    r"|pos_embed_src$"  # added in the authors' training only, never where they test
    r"|.*\.relative_position_index$"  # follows from the sizes
)
_RULES = {
    r"backbone\.": "feature_extraction.backbone.",
    r"encoder\.image_position_source": "encoder.cls_pos_embed_src",
    r"encoder\.image_position_target": "encoder.cls_pos_embed_trg",
    r"encoder\.position_source": "encoder.pos_embed_src",
    r"encoder\.position_target": "encoder.pos_embed_trg",
    r"encoder\.segment_source": "encoder.src_segment_pos_embed",
    r"encoder\.segment_target": "encoder.trg_segment_pos_embed",
    r"encoder\.blocks\.(\d+)\.attention\.": r"encoder.blocks.\1.attn.",
    r"encoder\.blocks\.(\d+)\.bias_table": r"encoder.blocks.\1.attn.relative_position_bias_table",
    r"encoder\.": "encoder.",
    r"coarse_decoder\.": "decoder_s1.last_block.0.",
    r"mixed_decoder\.": "decoder_s2.last_block.0.",
    r"fine_decoder\.": "decoder_s3.last_block.0.",
    r"upsampler\.blocks\.0\.": "SRBranch_feat.refine_swin_decoder_1_1.",
    r"upsampler\.blocks\.1\.": "SRBranch_feat.refine_swin_decoder_1_2.",
    r"integration\.context\.": "refine_proj_query_feat.0.",
    r"integration\.blocks\.0\.": "SRBranches.refine_swin_decoder_16.",
    r"integration\.blocks\.1\.": "SRBranches.refine_swin_decoder_8.",
    r"integration\.blocks\.2\.": "SRBranches.refine_swin_decoder_4.",
    r"integration\.conv1\.": "SRBranches.refine2.0.",
    r"integration\.conv2\.": "SRBranches.refine2.2.",
    r"([xy]_normal)$": r"\1",
}
"""The beginnings of our names, as patterns, and the authors' for them; the first that fits is the one."""
_OF_DECODER = {"self_attention": "sattn", "cross_attention": "cattn"}
_OF_WINDOW_BLOCK = {
    r"0\.norm_out\.": "0.transformer.norm.",
    r"0\.bias_table": "0.transformer.layers.0.blocks.0.attn.relative_position_bias_table",
    r"0\.attention\.": "0.transformer.layers.0.blocks.0.attn.",
    r"0\.": "0.transformer.layers.0.blocks.0.",
    r"1\.fc1\.": "1.fc.0.",
    r"1\.fc2\.": "1.fc.2.",
}


def is_lpmflow(state_dict: Mapping[str, object]) -> bool:
    """Whether a state dict has the names of LPMFlow: NeMF's authors call nothing so."""
    return any(isinstance(name, str) and re.match(r"decoder_s\d\.|SRBranch", name) for name in state_dict)


def lpmflow_network(state_dict: Mapping[str, Tensor], config: LPMFlowConfig) -> LPMFlow:
    """The network of an official state dict and its lpmflow_config, in eval mode.

    Raises ValueError naming every tensor that is missing, unexpected, of another shape or type, or not finite.
    """
    with torch.device("meta"):
        empty = build(config)  # takes no memory: a small tensor can imply any size
    ours = _official_names(empty)
    tensors = empty.state_dict()
    expected = {name: tensors[ours[name]] for name in ours}
    actual = {name: tensor for name, tensor in state_dict.items() if not _DROPPED.match(name)}
    check_tensors(expected, actual, "the official state dict does not fit the sizes that it tells")
    model = build(config)
    model.load_state_dict({ours[name]: actual[name] for name in ours})
    return model


@torch.no_grad()
def share_tables(model: LPMFlow) -> None:
    """Make a network that was read from a checkpoint what the authors' test script makes of the checkpoint.

    It loads into tables of positions that still share their memory, so that the last written ones hold for both images:
    the source's for the cells, the target's for the whole images. Which of the two networks has the published results
    is not known.
    """
    encoder = model.encoder
    encoder.position_target.copy_(encoder.position_source)
    encoder.image_position_source.copy_(encoder.image_position_target)


def lpmflow_config(state_dict: Mapping[str, Tensor]) -> LPMFlowConfig:
    """The sizes of the network that an official state dict belongs to; raises as lpmflow_network does.

    The backbone's heads, which no shape shows, have 64 channels, as those of every ViT-Ti, S, B and L.
    """
    odd = [f"{name} ({type(tensor).__name__})" for name, tensor in state_dict.items() if not isinstance(tensor, Tensor)]
    refuse(_OTHER, {"not tensors": odd})

    def count(pattern: str) -> int:
        return len({match[1] for name in state_dict if (match := re.match(pattern, name))})

    def shape(name: str, n_axes: int) -> tuple[int, ...]:
        sizes = tuple(state_dict[name].shape)
        if len(sizes) != n_axes or 0 in sizes:
            raise ValueError(f"{_OTHER}: {name} must have {n_axes} axes, none of them empty; got shape {sizes}")
        return sizes

    depths = {
        "depth": max(1, count(r"encoder\.blocks\.(\d+)\.")),
        "backbone": max(1, count(r"feature_extraction\.backbone\.blocks\.(\d+)\.")),
    }
    _check_names(_sized(cells=4, dim=96, depths=depths), state_dict)
    cells_squared, dim = shape("encoder.pos_embed_src", 3)[1:]
    heads, hidden = (
        shape("encoder.blocks.0.attn.relative_position_bias_table", 2)[0],
        shape("encoder.blocks.0.mlp.fc1.weight", 2)[0],
    )
    try:
        return _sized(
            cells=math.isqrt(cells_squared),
            dim=dim,
            depths=depths,
            heads=heads,
            mlp_ratio=max(1, hidden // dim),
            context_channels=shape("refine_proj_query_feat.0.weight", 4)[0],
            position_cells=math.isqrt(max(1, shape("feature_extraction.backbone.pos_embed", 3)[1] - 1)),
            is_built=True,
        )
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{_OTHER}: no network has the sizes that it tells: {error}") from error


def _sized(
    *,
    cells: int,
    dim: int,
    depths: Mapping[str, int],
    heads: int = 8,
    mlp_ratio: int = 4,
    context_channels: int = 88,
    position_cells: int = 14,
    is_built: bool = False,
) -> LPMFlowConfig:
    """The published network at other sizes. is_built: check that it can be built."""
    config = paper()
    kwargs = {
        "depth": depths["backbone"],
        "heads": max(1, dim // _BACKBONE_HEAD_CHANNELS),
        "position_cells": position_cells,
    }
    config = replace(
        config,
        backbone_config=replace(config.backbone_config, create_kwargs=kwargs),
        cells=cells,
        dim=dim,
        depth=depths["depth"],
        heads=heads,
        mlp_ratio=mlp_ratio,
        context_channels=context_channels,
    )
    if is_built:
        with torch.device("meta"):
            build(config)
    return config


def _check_names(config: LPMFlowConfig, state_dict: Mapping[str, Tensor]) -> None:
    """Raises ValueError naming every missing and unexpected tensor: names depend on no size, and sizes need names."""
    with torch.device("meta"):
        expected = _official_names(build(config))
    refuse(
        _OTHER,
        {
            "missing": [name for name in expected if name not in state_dict],
            "unexpected": [name for name in state_dict if name not in expected and not _DROPPED.match(name)],
        },
    )


def _official_names(model: LPMFlow) -> dict[str, str]:
    """The model's tensors: our name by the authors' name."""
    return {official_name(name, model.cells): name for name in model.state_dict()}


def official_name(name: str, cells: int) -> str:
    """The authors' name of our tensor `name`, in a network with so many coarse cells a side."""
    for ours, theirs in _RULES.items():
        match = re.match(ours, name)
        if match:
            return match.expand(theirs) + _end_of_name(theirs, name[match.end() :], cells)
    raise AssertionError(f"{name} has no official name")


def _end_of_name(beginning: str, end: str, cells: int) -> str:
    """The authors' name of a tensor within the part that they call `beginning`."""
    if "refine_swin_decoder" in beginning:
        for ours, theirs in _OF_WINDOW_BLOCK.items():
            if match := re.match(ours, end):
                return theirs + end[match.end() :]
    if beginning.startswith("decoder_s"):
        part, _, rest = end.partition(".")
        if part in ("position_source", "position_target"):
            role = "src" if part == "position_source" else "trg"
            return f"pos_embed_{role}" if rest == str(cells) else f"pos_embed_{role}_up"
        return f"{_OF_DECODER.get(part, part)}.{rest}"
    return end
