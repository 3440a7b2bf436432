"""Official state dicts as networks, with everything that can be wrong with them."""

import re

import numpy as np
import pytest
import torch
import torchvision
from official_nemf import same_weights

from nemf.official.names import from_official_state_dict

StateDict = dict[str, torch.Tensor]


def test_sizes_are_read_off_the_shapes(state_dict: StateDict):
    model = from_official_state_dict(state_dict, num_heads=2)
    assert model.image_size == 64
    assert model.backbone.name == "torchvision/resnet18"
    assert len(model.cost_encoder.aggregator.blocks) == 1
    assert torch.equal(model.field.fc_p.weight, state_dict["mlp_model.mlp.0.fc_p.weight"])
    assert not model.training


def test_the_unused_parts_are_dropped(state_dict: StateDict):
    model = from_official_state_dict(state_dict, num_heads=2)
    for name in [name for name in state_dict if name.startswith(("mlp_model.backbone.", "decoder.norm."))]:
        del state_dict[name]
    del state_dict["feature_extraction.backbone.fc.weight"]
    assert same_weights(model, from_official_state_dict(state_dict, num_heads=2))


def test_every_name_that_does_not_fit_is_listed(state_dict: StateDict):
    missing = [
        "corr_embedder.3.embedder.conv4d.1.0.supp_conv.bias",
        "decoder.pos_embed_x",
        "mlp_model.mlp.0.fc_out.bias",
    ]
    unexpected = ["decoder.blocks.0.norm5.weight", "feature_extraction.backbone.layer1.0.conv9.weight"]
    for name in missing:
        del state_dict[name]
    for name in unexpected:
        state_dict[name] = torch.zeros(1)
    with pytest.raises(ValueError, match="not an official NeMF checkpoint with torchvision/resnet18:") as caught:
        from_official_state_dict(state_dict, num_heads=2)
    assert str(caught.value).splitlines()[1:] == [
        f"  missing: {', '.join(missing)}",
        f"  unexpected: {', '.join(unexpected)}",
    ]


def test_every_tensor_that_does_not_fit_is_listed(state_dict: StateDict):
    state_dict["mlp_model.mlp.0.fc_out.weight"] = torch.zeros(2, 16)
    state_dict["mlp_model.mlp.0.fc_out.bias"] = torch.zeros(1, dtype=torch.int64)
    state_dict["decoder.proj.bias"] = torch.full((16,), torch.nan)
    with pytest.raises(ValueError, match="does not fit the sizes that it tells:") as caught:
        from_official_state_dict(state_dict, num_heads=2)
    assert str(caught.value).splitlines()[1:] == [
        "  wrong shape: mlp_model.mlp.0.fc_out.weight [2, 16] instead of [1, 16]",
        "  wrong type: mlp_model.mlp.0.fc_out.bias torch.int64 instead of torch.float32",
        "  not finite: decoder.proj.bias",
    ]


@pytest.mark.parametrize("size", [256, 32768])
def test_one_tensor_that_tells_a_size_takes_no_memory(state_dict: StateDict, size: int):
    state_dict["decoder.pos_embed_x"] = torch.zeros(1, 1, 1, size, 1)
    with pytest.raises(ValueError, match="the sizes that it tells"):
        from_official_state_dict(state_dict, num_heads=2)


def test_values_that_are_no_tensors_are_named(state_dict: StateDict):
    odd = {**state_dict, "decoder.proj.bias": np.zeros(16, np.float32), "proj.0.weight": None}
    with pytest.raises(ValueError, match=r"not tensors: .*proj\.0\.weight \(NoneType\)") as caught:
        from_official_state_dict(odd, num_heads=2)
    assert "decoder.proj.bias (ndarray)" in str(caught.value)


def test_a_checkpoint_of_another_network(state_dict: StateDict):
    other = torchvision.models.resnet50().state_dict()
    with pytest.raises(ValueError, match=r"backbone has \(0, 0, 0, 0\) blocks; .* of 320 names is conv1\.weight"):
        from_official_state_dict(other)
    state_dict["decoder.pos_embed_x"] = torch.zeros(1, 4, 4)
    with pytest.raises(ValueError, match=r"pos_embed_x must have 5 axes, none of them empty; got shape \(1, 4, 4\)"):
        from_official_state_dict(state_dict)


@pytest.mark.parametrize(
    ("num_heads", "message"),
    [(5, "= 24 must be even and divisible by the number of heads, 5"), (0, "num_heads must be at least 1; got 0")],
)
def test_heads_that_do_not_fit(state_dict: StateDict, num_heads: int, message: str):
    with pytest.raises(ValueError, match=message):
        from_official_state_dict(state_dict, num_heads)


def test_other_hyperpixels_take_other_blocks(state_dict: StateDict):
    """A layer's two blocks have one shape: only hyperpixels tell which is meant. Blocks after the last are spare."""
    first = from_official_state_dict(state_dict, num_heads=2, hyperpixels=[1, 3, 5, 7])
    last = from_official_state_dict(state_dict, num_heads=2, hyperpixels=[2, 4, 6, 8])
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    maps = []
    with torch.no_grad():
        first.backbone.network.get_submodule("layer1.1.conv1").register_forward_pre_hook(
            lambda module, inputs: maps.append(inputs[0])
        )
        actual = first.backbone(image)
        assert torch.equal(actual[0].relu(), maps[0])  # what the second block is given
        assert all(a.shape == b.shape for a, b in zip(actual, last.backbone(image), strict=True))
    for wrong in ([2, 4, 6, 9], [8, 6, 4, 2], []):
        with pytest.raises(ValueError, match=rf"rising block numbers from 1 to 8; got {re.escape(str(wrong))}"):
            from_official_state_dict(state_dict, num_heads=2, hyperpixels=wrong)
