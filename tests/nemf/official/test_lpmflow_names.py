"""Official LPMFlow state dicts as networks, with everything that can be wrong with them."""

import pytest
import torch
from official_lpmflow import SMALL, official_shapes, official_state_dict
from official_nemf import same_weights

from nemf.checkpoints import from_official_state_dict
from nemf.lpmflow.network import LPMFlow
from nemf.model.network import NeMF

StateDict = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def tensors() -> StateDict:
    return official_state_dict(official_shapes(**SMALL), seed=1)


@pytest.fixture
def lpmflow_state_dict(tensors: StateDict) -> StateDict:
    return dict(tensors)


def test_sizes_are_read_off_the_shapes(lpmflow_state_dict: StateDict):
    model = from_official_state_dict(lpmflow_state_dict)
    assert isinstance(model, LPMFlow)
    assert (model.cells, model.flow_side, model.image_size) == (4, 32, 128)
    assert len(model.encoder.blocks) == 1
    assert model.encoder.blocks[0].attention.heads == 4
    assert not model.training
    fine = lpmflow_state_dict["decoder_s2.last_block.0.pos_embed_trg_up"]
    assert torch.equal(model.mixed_decoder.position_target["8"], fine)
    first_gate = lpmflow_state_dict["SRBranches.refine_swin_decoder_16.1.fc.0.weight"]
    assert torch.equal(model.integration.blocks[0][1].fc1.weight, first_gate)


def test_systems_are_told_apart_by_their_names(lpmflow_state_dict: StateDict, state_dict: StateDict):
    assert isinstance(from_official_state_dict(lpmflow_state_dict), LPMFlow)
    assert isinstance(from_official_state_dict(state_dict, num_heads=2), NeMF)


def test_what_nothing_reads_may_be_absent(lpmflow_state_dict: StateDict):
    model = from_official_state_dict(lpmflow_state_dict)
    unread = [
        "masked_tokens",
        "pos_embed_src",
        "encoder.pos_embed",
        "encoder.blocks.0.spatial_attention.weight",
        "decoder_s1.last_block.0.norm3.bias",
        "decoder_s1.last_block.0.pos_embed_src_up",
        "decoder_s3.last_block.0.pos_embed_trg",
    ]
    for name in unread:
        del lpmflow_state_dict[name]
    lpmflow_state_dict["encoder.blocks.0.attn.relative_position_index"] = torch.zeros(32, 32, dtype=torch.int64)
    assert same_weights(model, from_official_state_dict(lpmflow_state_dict))


def test_every_name_that_does_not_fit_is_listed(lpmflow_state_dict: StateDict):
    del lpmflow_state_dict["decoder_s2.last_block.0.cattn.qkv.weight"]
    del lpmflow_state_dict["y_normal"]
    lpmflow_state_dict["decoder_s4.last_block.0.mlp.fc1.bias"] = torch.zeros(1)
    with pytest.raises(ValueError, match="not an official LPMFlow checkpoint:") as caught:
        from_official_state_dict(lpmflow_state_dict)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: y_normal, decoder_s2.last_block.0.cattn.qkv.weight",
        "  unexpected: decoder_s4.last_block.0.mlp.fc1.bias",
    ]


def test_every_tensor_that_does_not_fit_is_listed(lpmflow_state_dict: StateDict):
    lpmflow_state_dict["decoder_s1.last_block.0.mlp.fc1.bias"] = torch.zeros(7)
    lpmflow_state_dict["encoder.norm.bias"] = torch.full((32,), torch.nan)
    lpmflow_state_dict["x_normal"] = torch.zeros(8, dtype=torch.int64)
    with pytest.raises(ValueError, match="does not fit the sizes that it tells:") as caught:
        from_official_state_dict(lpmflow_state_dict)
    assert str(caught.value).splitlines()[1:] == [
        "  wrong shape: decoder_s1.last_block.0.mlp.fc1.bias [7] instead of [128]",
        "  wrong type: x_normal torch.int64 instead of torch.float32",
        "  not finite: encoder.norm.bias",
    ]


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("encoder.pos_embed_src", (1, 10**6, 32), "cells must be at most 32"),
        ("encoder.pos_embed_src", (1, 16, 30), "no network has the sizes that it tells: dim 30 must be divisible"),
        ("encoder.pos_embed_src", (16, 32), "pos_embed_src must have 3 axes, none of them empty"),
        ("refine_proj_query_feat.0.weight", (9, 32, 1, 1), "must be divisible by the number of heads, 4; got 9"),
    ],
)
def test_one_tensor_that_tells_an_impossible_size(
    lpmflow_state_dict: StateDict, name: str, shape: tuple[int, ...], message: str
):
    lpmflow_state_dict[name] = torch.zeros(1).expand(shape)
    with pytest.raises(ValueError, match=message):
        from_official_state_dict(lpmflow_state_dict)


def test_values_that_are_no_tensors_are_named(lpmflow_state_dict: StateDict):
    with pytest.raises(ValueError, match=r"not tensors: encoder\.norm\.bias \(list\)"):
        from_official_state_dict({**lpmflow_state_dict, "encoder.norm.bias": [0.0]})
