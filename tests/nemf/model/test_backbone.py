from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file
from timm.layers.format import Format
from torch import nn

from nemf.model import timm_backbones, torchvision_backbones
from nemf.model.backbone import Backbone, build_backbone, load_backbone
from nemf.model.backbone_config import BackboneConfig

IMAGENET = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_timm_maps_are_those_of_the_library(
    mobilenet_file: Path, mobilenet_tensors: dict[str, torch.Tensor], image: torch.Tensor
):
    network = timm.create_model(
        "mobilenetv1_100", features_only=True, out_indices=(1, 2, 3), pad_type="same", bn_eps=0.001
    )
    network.load_state_dict(mobilenet_tensors)
    backbone = load_backbone("timm/mobilenetv1_100", mobilenet_file)
    with torch.inference_mode():
        expected, maps = network.eval()(image), backbone(image)
    assert [features.shape[1:] for features in maps] == [(128, 16, 16), (256, 8, 8), (512, 4, 4)]
    assert all(torch.equal(features, other) for features, other in zip(maps, expected, strict=True))


def test_a_file_may_hold_the_stages_no_map_needs(
    write_weights: Callable[..., Path], mobilenet_file: Path, mobilenet_tensors: dict[str, torch.Tensor]
):
    config = mobilenet_file.with_suffix(".json").read_text()
    whole = write_weights(mobilenet_tensors, config, "whole")
    digests = {load_backbone("timm/mobilenetv1_100", path).digest() for path in (whole, mobilenet_file)}
    assert len(digests) == 1


def test_torchvision_maps_are_the_sums_before_the_last_relu(write_weights: Callable[..., Path], image: torch.Tensor):
    torch.manual_seed(2)
    network = torchvision.models.resnet18().eval()
    path = write_weights(network.state_dict(), {"create_kwargs": {}, "out_indices": [1, 2, 3, 4], **IMAGENET})
    backbone = load_backbone("torchvision/resnet18", path)
    with torch.inference_mode():
        maps = backbone(image)
        x = network.maxpool(torch.relu(network.bn1(network.conv1(image))))
        for layer, features in zip([network.layer1, network.layer2, network.layer3, network.layer4], maps, strict=True):
            for block in layer:
                identity = x if block.downsample is None else block.downsample(x)
                inner = torch.relu(block.bn1(block.conv1(x)))
                total = block.bn2(block.conv2(inner)) + identity
                x = torch.relu(total)
            assert total.min() < 0
            assert torch.allclose(features, total, atol=1e-5)


PUBLISHED = [
    "convnext_atto",
    "deit_tiny_distilled_patch16_224",
    "deit_tiny_patch16_224",
    "densenet121",
    "edgenext_xx_small",
    "efficientnet_lite0",
    "eva02_tiny_patch14_224",
    "ghostnet_050",
    "mobilenetv1_100",
    "mobilenetv2_035",
    "mobilenetv3_small_050",
    "mobilevit_xxs",
    "pit_ti_224",
    "regnety_002",
    "resnet10t",
    "swin_tiny_patch4_window7_224",
    "tf_efficientnet_b0",
    "vit_tiny_patch16_224",
    "xcit_nano_12_p16_224",
]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_whole_model_of_timm_gives_the_maps_of_the_library(name: str, write_weights: Callable[..., Path]):
    torch.manual_seed(3)
    whole = timm.create_model(name)
    for module in whole.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    tensors = whole.state_dict()
    published = whole.pretrained_cfg
    library = timm.create_model(
        name, features_only=True, pretrained=True, pretrained_cfg_overlay={"state_dict": dict(tensors)}
    ).eval()
    size = published["input_size"][-1] if published["fixed_input_size"] else 64
    image = torch.randn(1, 3, size, size)
    backbone = load_backbone(f"timm/{name}", write_weights(tensors))
    with torch.inference_mode():
        maps, expected = backbone(image), library(image)
    if getattr(library, "output_fmt", None) == Format.NHWC:
        expected = [features.permute(0, 3, 1, 2) for features in expected]
    assert len(maps) == len(expected) > 1
    assert all(torch.equal(features, other) for features, other in zip(maps, expected, strict=True))
    assert (backbone.config.mean, backbone.config.std) == (published["mean"], published["std"])
    assert load_backbone(f"timm/{name}", write_weights(library.state_dict(), name="maps")).digest() == backbone.digest()


def test_the_whole_model_of_torchvision_needs_no_json(write_weights: Callable[..., Path]):
    torch.manual_seed(2)
    tensors = torchvision.models.resnet18().state_dict()
    assert "fc.weight" in tensors
    described = write_weights(tensors, {"create_kwargs": {}, "out_indices": [1, 2, 3, 4], **IMAGENET}, "described")
    backbone = load_backbone("torchvision/resnet18", write_weights(tensors))
    assert backbone.digest() == load_backbone("torchvision/resnet18", described).digest()
    with pytest.raises(ValueError, match=r"weights\.safetensors: .*out_indices must say which blocks to take"):
        load_backbone("torchvision-blocks/resnet18", write_weights(tensors))


def test_other_weights_with_another_normalisation_are_named(caplog: pytest.LogCaptureFixture):
    assert timm_backbones.default_config("vit_base_patch16_224").mean == (0.5, 0.5, 0.5)
    (record,) = caplog.records
    assert "timm/vit_base_patch16_224: mean (0.5, 0.5, 0.5)" in record.getMessage()
    assert "timm/vit_base_patch16_224.dino" in record.getMessage()
    caplog.clear()
    assert timm_backbones.default_config("vit_base_patch16_224.dino").mean == tuple(IMAGENET["mean"])
    assert timm_backbones.default_config("vit_tiny_patch16_224").mean == (0.5, 0.5, 0.5)
    assert not caplog.records


@pytest.mark.parametrize("size", [224, 336])
@pytest.mark.parametrize("dynamic", [None, True])
def test_vision_transformers_take_multiples_of_their_patch(
    size: int, dynamic: bool | None, write_weights: Callable[..., Path]
):
    small: dict[str, object] = {"depth": 3, "embed_dim": 24, "num_heads": 2}
    tensors = timm.create_model("vit_small_patch14_reg4_dinov2", **small).state_dict()
    given = small if dynamic is None else small | {"dynamic_img_size": dynamic}
    backbone = load_backbone("timm/vit_small_patch14_reg4_dinov2", write_weights(tensors, {"create_kwargs": given}))
    assert (backbone.patch_size, backbone.trained_size) == (14, 518)
    with torch.inference_mode():
        maps = backbone(torch.randn(1, 3, size, size))
    assert [features.shape[1:] for features in maps] == 3 * [(24, size // 14, size // 14)]


def test_maps_are_channels_first():
    class ChannelsLast(nn.Module):
        output_fmt = Format.NHWC

        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [image.permute(0, 2, 3, 1)]

    backbone = Backbone("x", ChannelsLast(), BackboneConfig(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)))
    image = torch.rand(1, 3, 4, 5)
    assert torch.equal(backbone(image)[0], image)


def test_a_backbone_is_frozen(mobilenet_file: Path):
    backbone = load_backbone("timm/mobilenetv1_100", mobilenet_file).train()
    assert not any(module.training for module in backbone.modules())
    assert not any(parameter.requires_grad for parameter in backbone.parameters())


def test_the_digest_tells_weights_and_configuration(write_weights: Callable[..., Path], mobilenet_file: Path):
    config = mobilenet_file.with_suffix(".json").read_text()
    tensors = load_file(mobilenet_file)

    def digest(tensors: dict[str, torch.Tensor], config: str) -> str:
        return load_backbone("timm/mobilenetv1_100", write_weights(tensors, config, "other")).digest()

    original = digest(tensors, config)
    assert digest(tensors, config) == original
    assert digest(tensors, config.replace("[0.5, 0.5, 0.5]", "[0.5, 0.5, 0.4]", 1)) != original
    assert digest(tensors, config.replace("[1, 2, 3]", "[1, 3]")) != original
    tensors["conv_stem.weight"][0, 0, 0, 0] += 1e-3
    assert digest(tensors, config) != original


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/mobilenetv1_10", "mobilenetv1_100"),
        ("torchvision/alexnet", r"convnext_base, .*resnet101, resnet152, .*vgg16"),
        ("torchvision/vit_b_16", "timm has vision transformers of any size: timm/vit_base_patch16_224"),
        ("torchvision-blocks/vgg16", "there are resnet101, resnet152"),
        ("keras/resnet", "timm/MODEL and torchvision/MODEL"),
        ("timm/hf-hub:someone/something", "timm has no model"),
    ],
)
def test_unknown_names_say_what_there_is(name: str, message: str):
    with pytest.raises(ValueError, match=message):
        load_backbone(name)


@pytest.mark.parametrize(
    ("name", "argument"),
    [
        ("timm/mobilenetv1_100", "pretrained"),
        ("timm/mobilenetv1_100", "num_classes"),
        ("torchvision/resnet18", "weights"),
        ("torchvision/resnet18", "num_classes"),
        ("torchvision-blocks/resnet18", "num_classes"),
    ],
)
def test_arguments_that_no_file_gives(name: str, argument: str):
    config = BackboneConfig(create_kwargs={argument: 10}, out_indices=(1,), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
    with pytest.raises(ValueError, match=rf"{name} cannot be built .*{argument} may not be among create_kwargs"):
        build_backbone(name, config)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "timm/mobilenetv1_100"])
def test_offline_the_error_asks_for_a_local_file(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ValueError, match=rf"{name}: .* give --backbone-weights FILE\.safetensors"):
        load_backbone(name)


CHAINS = {
    "convnext_tiny": (4, 8, 16, 32),
    "densenet121": (2, 4, 8, 16, 32),
    "efficientnet_b0": (2, 4, 8, 16, 32),
    "mnasnet0_5": (2, 4, 8, 16, 32),
    "mobilenet_v3_small": (2, 4, 8, 16, 32),
    "regnet_y_400mf": (2, 4, 8, 16, 32),
    "shufflenet_v2_x0_5": (2, 4, 8, 16, 32),
    "swin_t": (4, 8, 16, 32),
    "vgg11": (1, 2, 4, 8, 16, 32),
}


@pytest.mark.parametrize("name", CHAINS)
def test_each_stage_of_a_network_of_torchvision_gives_a_map(name: str):
    """One of each family, random weights: all stages by default, and a bright square is where it is."""
    config = torchvision_backbones.stages_default_config(name)
    assert config.out_indices == tuple(range(1, len(CHAINS[name]) + 1))
    coarse = len(CHAINS[name]) - 1
    torch.manual_seed(0)
    backbone = build_backbone(f"torchvision/{name}", replace(config, out_indices=(coarse, coarse + 1)))
    square = torch.zeros(1, 3, 128, 96)
    square[..., 80:96, 16:32] = 1  # a cell of stride 16: the sixth row, the second column
    with torch.inference_mode():
        maps, blank = backbone(square), backbone(torch.zeros_like(square))
    assert [level.shape[2:] for level in maps] == [(8, 6), (4, 3)]
    change = (maps[0] - blank[0]).norm(dim=1)[0]
    row, column = divmod(int(change.argmax()), 6)
    assert max(abs(row - 5), abs(column - 1)) <= 1


def test_a_stage_that_a_network_of_torchvision_lacks_is_told():
    config = BackboneConfig(out_indices=(4, 9), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    for name in ("resnet18", "vgg11"):
        with pytest.raises(ValueError, match=r"its stages are numbered from 1 to [46]; got 9"):
            build_backbone(f"torchvision/{name}", config)


def test_the_stages_of_a_network_of_torchvision_are_those_of_the_whole_network(write_weights: Callable[..., Path]):
    torch.manual_seed(3)
    network = torchvision.models.shufflenet_v2_x0_5().eval()
    backbone = load_backbone("torchvision/shufflenet_v2_x0_5", write_weights(network.state_dict()), (2, 4))
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        pooled = network.maxpool(network.conv1(image))
        coarse = network.stage3(network.stage2(pooled))
        maps = backbone(image)
    assert torch.allclose(maps[0], pooled, atol=1e-5)
    assert torch.allclose(maps[1], coarse, atol=1e-5)
