"""Backbones as matching runs them, beside the same ones as they are trained."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from wrong_in_bfloat16 import put_wrong_convolution

from nemf.model.backbone import Backbone, build_backbone
from nemf.model.backbone_config import BackboneConfig
from nemf.model.build import build
from nemf.model.for_matching import for_matching
from nemf.model.network import NeMF
from nemf.model.presets import NeMFConfig

CPU = torch.device("cpu")
CONFIG = BackboneConfig(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
IMAGE = torch.randn(1, 3, 96, 80, generator=torch.manual_seed(0))


def with_statistics(network: nn.Module) -> nn.Module:
    """The network with batch norms that do something."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean, module.running_var):
                assert values is not None
                nn.init.uniform_(values, 0.5, 1.5)
    return network


def n_norms(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("timm/resnet26", {"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]}),
        ("timm/mobilenetv1_100", {"pad_type": "same"}),  # its norms hold the rectifiers
        ("torchvision/resnet18", {}),
    ],
)
def test_maps_are_the_same_but_for_rounding(name: str, kwargs: dict[str, Any]):
    backbone = build_backbone(
        name, BackboneConfig(create_kwargs=kwargs, out_indices=(2, 3), mean=CONFIG.mean, std=CONFIG.std)
    )
    with_statistics(backbone)
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    digest, expected = backbone.digest(), backbone(IMAGE)

    faster = for_matching(backbone, CPU, 64)
    assert n_norms(faster) == 0 < n_norms(backbone)
    assert isinstance(faster, Backbone)
    for ours, theirs in zip(faster(IMAGE), expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
    assert backbone.digest() == digest
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


def tiny() -> NeMF:
    return build(
        NeMFConfig(
            backbone="timm/resnet26",
            backbone_config=BackboneConfig(
                create_kwargs={"layers": [1, 1, 1, 1], "channels": [8, 8, 8, 8]},
                out_indices=(2, 3),
                mean=CONFIG.mean,
                std=CONFIG.std,
            ),
            image_size=64,
            feature_size=8,
            neck_channels=8,
            neck_blocks=1,
            embedding_channels=(),
            depth=0,
            hidden=8,
        )
    ).eval()


class Skips(nn.Module):
    """A network whose convolution is read before its normalisation too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image: Tensor) -> list[Tensor]:
        """One map."""
        before = self.conv(image)
        return [before + self.norm(before)]


def test_a_network_that_folding_would_change_is_not_folded():
    backbone = Backbone("skips", with_statistics(Skips()), CONFIG)
    faster = for_matching(backbone, CPU, 64)
    assert n_norms(faster) == 1
    assert torch.allclose(faster(IMAGE)[0], backbone(IMAGE)[0], atol=1e-5)


class Disordered(nn.Module):
    """A network whose modules are listed in another order than they are called in, and one of whose maps is the output
    of a convolution; only `deep` can be folded."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow = nn.Conv2d(3, 4, 3)
        self.norm_of_sum = nn.BatchNorm2d(6)
        self.deep = nn.Conv2d(4, 6, 3, padding=1)
        self.norm_of_shallow = nn.BatchNorm2d(4)
        self.norm_of_deep = nn.BatchNorm2d(6)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Two maps."""
        shallow = self.shallow(image)
        normal = self.norm_of_deep(self.deep(self.norm_of_shallow(shallow).relu()))
        return [shallow, self.norm_of_sum(normal + normal)]


def test_a_norm_is_folded_into_the_convolution_that_it_follows_when_it_is_called():
    backbone = Backbone("disordered", with_statistics(Disordered()), CONFIG)
    faster = for_matching(backbone, CPU, 64)
    kept = {name for name, module in faster.network.named_modules() if isinstance(module, nn.BatchNorm2d)}
    assert kept == {"norm_of_sum", "norm_of_shallow"}
    for ours, theirs in zip(faster(IMAGE), backbone(IMAGE), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-4)


class Volumes(nn.Module):
    """A network with a three-dimensional convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv3d(1, 2, 3)

    def forward(self, image: Tensor) -> list[Tensor]:
        """One map."""
        return [self.conv(image[:, None])[:, :, 0]]


def test_a_network_with_convolutions_of_three_dimensions():
    backbone = Backbone("volumes", Volumes(), CONFIG)
    assert torch.equal(for_matching(backbone, CPU, 64)(IMAGE)[0], backbone(IMAGE)[0])


class ChangedBetween(nn.Module):
    """A network that changes a convolution's output in place before its normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)

    def forward(self, image: Tensor) -> list[Tensor]:
        """One map."""
        return [self.norm(self.conv(image).relu_())]


def test_what_lies_between_convolution_and_norm_is_not_overlooked():
    backbone = Backbone("changed between", with_statistics(ChangedBetween()), CONFIG)
    faster = for_matching(backbone, CPU, 64)
    assert n_norms(faster) == 1
    assert torch.allclose(faster(IMAGE)[0], backbone(IMAGE)[0], atol=1e-5)


def test_the_rest_of_a_model_is_shared_and_the_model_as_before():
    model = tiny()
    faster = for_matching(model, CPU, 64)
    assert n_norms(faster) == 0 < n_norms(model)
    assert faster.field is model.field
    assert faster.neck is model.neck
    image = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(faster.features(image), model.features(image), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-4)


def test_backbone_and_neck_compute_in_bfloat16_and_give_float32():
    model = tiny()
    image = torch.rand(1, 3, 64, 64)
    expected = model.features(image)
    in_half = for_matching(model, CPU, 64, bfloat16=True)
    for part, before in ((in_half.backbone.network, model.backbone.network), (in_half.neck, model.neck)):
        assert {parameter.dtype for parameter in part.parameters()} == {torch.bfloat16}
        assert {parameter.dtype for parameter in before.parameters()} == {torch.float32}
    assert in_half.field is model.field
    for ours, theirs in zip(in_half.features(image), expected, strict=True):
        assert ours.dtype == torch.float32
        assert 0 < (ours - theirs).abs().max() < 0.03 * theirs.abs().max()


@pytest.mark.parametrize("has_amx", [True, False])
def test_a_processor_that_does_not_multiply_bfloat16_is_named(
    has_amx: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": has_amx}, raising=False)
    for_matching(tiny(), CPU, 64, bfloat16=True)
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == (not has_amx)
    assert all("does not multiply it (AMX), and takes longer" in warning for warning in warnings)


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "efficientnet_v2_s", "convnext_tiny", "swin_t"])
def test_networks_of_torchvision_in_bfloat16(name: str):
    """They are graphs, whose copies come back in training mode and without attributes."""
    torch.manual_seed(0)
    backbone = build_backbone(f"torchvision/{name}", replace(CONFIG, out_indices=(2,)))
    with_statistics(backbone)
    in_half = for_matching(backbone, CPU, 64, bfloat16=True)
    assert not any(module.training for module in in_half.modules())
    image = torch.randn(1, 3, 64, 64)
    (ours,), (theirs,) = in_half(image), backbone(image)
    assert ours.shape == theirs.shape
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=1).min() > 0.99
    assert torch.equal(ours, in_half(image)[0])


def test_a_convolution_that_the_processor_computes_wrongly_in_bfloat16_stays_in_float32():
    backbone = build_backbone("timm/resnet26", replace(CONFIG, create_kwargs={"layers": [1, 1, 1, 1]}))
    with_statistics(backbone)
    name = put_wrong_convolution(backbone)
    in_half = for_matching(backbone, CPU, 64, bfloat16=True)
    dtypes = {name: module.weight.dtype for name, module in in_half.named_modules() if isinstance(module, nn.Conv2d)}
    assert [name for name, dtype in dtypes.items() if dtype == torch.float32] == [name]
    image = torch.randn(1, 3, 64, 64)
    for ours, theirs in zip(in_half(image), backbone(image), strict=True):
        assert torch.nn.functional.cosine_similarity(ours, theirs, dim=1).min() > 0.99


class Twice(nn.Module):
    """A convolution there under two names, called by a keyword, and the map that it gives."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        put_wrong_convolution(self)
        self.second = self.first

    def forward(self, image: Tensor) -> list[Tensor]:
        return [self.second(input=self.first(input=image))]


def test_a_wrong_convolution_stays_in_float32_under_each_of_its_names():
    torch.manual_seed(0)
    backbone = Backbone("twice", Twice(), CONFIG)
    in_half = for_matching(backbone, CPU, 64, bfloat16=True)
    image = torch.randn(1, 3, 64, 64)
    (ours,), (theirs,) = in_half(image), backbone(image)
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=1).min() > 0.99


def test_the_network_of_timm_that_has_such_a_convolution():
    torch.manual_seed(0)
    backbone = build_backbone("timm/visformer_tiny", replace(CONFIG, out_indices=(0, 1)))
    image = torch.randn(1, 3, 224, 224)
    for ours, theirs in zip(for_matching(backbone, CPU, 224, bfloat16=True)(image), backbone(image), strict=True):
        assert torch.nn.functional.cosine_similarity(ours, theirs, dim=1).mean() > 0.99
