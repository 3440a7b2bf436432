"""Unusable files: each error names the file and its fault."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from nemf.model.backbone import load_backbone

NAME = "timm/mobilenetv1_100"


def _changed(path: Path, **fields: Any) -> None:
    config = json.loads(path.with_suffix(".json").read_text()) | fields
    kept = {name: value for name, value in config.items() if value is not ...}
    path.with_suffix(".json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": [0.5, 0.5]}, "field mean must be three numbers; got"),
        ({"mean": [0.5, True, 0.5]}, "field mean must be three numbers; got"),
        ({"mean": [0.5, float("nan"), 0.5]}, "field mean must be three numbers; got"),
        ({"mean": [10**400, 0, 0]}, "field mean must be three numbers; got"),
        ({"std": [0.5, 1e39, 0.5]}, "field std must be three numbers above 0"),
        ({"std": [0.5, 0, 0.5]}, "field std must be three numbers above 0"),
        ({"out_indices": 3}, "field out_indices must be a rising list"),
        ({"out_indices": [3, 1]}, "field out_indices must be a rising list"),
        ({"out_indices": [1, 9]}, r"cannot be built with .*\[1, 9\]"),
        ({"create_kwargs": {"pad_type": ["same"]}}, "field create_kwargs must be an object"),
        ({"create_kwargs": {"layers": [1, 10**6]}}, "field create_kwargs must be an object"),
        ({"create_kwargs": {"layers": [1] * 9}}, "field create_kwargs must be an object"),
        ({"create_kwargs": {"layers": [60, 60]}}, "field create_kwargs must be an object"),
        ({"create_kwargs": {"layers": []}}, "field create_kwargs must be an object"),
        ({"create_kwargs": {"depths": [1, 2]}}, "field create_kwargs must be an object"),
        ({"create_kwargs": {"depth": 3}}, "cannot be built with .*depth"),
        ({"create_kwargs": {"checkpoint_path": "x.pth"}}, "checkpoint_path may not be among create_kwargs"),
        ({"create_kwargs": {"pretrained": True}}, "pretrained may not be among create_kwargs"),
        ({"model": "resnet50"}, "weights of 'resnet50', not of 'mobilenetv1_100'"),
    ],
)
def test_a_wrong_field_is_named(mobilenet_file: Path, fields: dict[str, Any], message: str):
    _changed(mobilenet_file, **fields)
    with pytest.raises(ValueError, match=rf"weights\.json: .*{message}"):
        load_backbone(NAME, mobilenet_file)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "must be a JSON object"),
        ("[" * 100_000, "not JSON: maximum recursion depth"),
        ('{"mean": ' + "[" * 100_000, "not JSON: maximum recursion depth"),
    ],
)
def test_a_malformed_json_is_named(mobilenet_file: Path, text: str, message: str):
    mobilenet_file.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=rf"weights\.json: {message}"):
        load_backbone(NAME, mobilenet_file)


def test_a_missing_file_is_named(mobilenet_file: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors: there is no such file"):
        load_backbone(NAME, tmp_path / "nowhere.safetensors")


@pytest.mark.parametrize("field", ["create_kwargs", "out_indices", "mean", "std"])
def test_a_missing_field_is_the_library_s(write_weights: Callable[..., Path], field: str):
    tensors = timm.create_model("resnet10t").state_dict()
    given: dict[str, Any] = {"create_kwargs": {}, "out_indices": [1, 2], "mean": [0.1] * 3, "std": [0.2] * 3}
    del given[field]
    config = load_backbone("timm/resnet10t", write_weights(tensors, given)).config
    expected = {"create_kwargs": {}, "out_indices": (1, 2), "mean": (0.1,) * 3, "std": (0.2,) * 3}
    library = {"create_kwargs": {}, "out_indices": None, "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    assert asdict(config) == expected | {field: library[field]}


def test_the_json_may_name_the_model_without_its_tag(write_weights: Callable[..., Path]):
    path = write_weights(timm.create_model("resnet10t").state_dict(), {"model": "resnet10t"})
    load_backbone("timm/resnet10t.c3_in1k", path)


SMALL_VIT = {"depth": 3, "embed_dim": 24, "num_heads": 2}


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "module.backbone.", "_orig_mod.module."])
@pytest.mark.parametrize(
    ("name", "create_kwargs"), [("resnet10t", {}), ("mobilenetv3_small_050", {}), ("vit_tiny_patch16_224", SMALL_VIT)]
)
def test_names_may_begin_alike(
    name: str, create_kwargs: dict[str, Any], prefix: str, write_weights: Callable[..., Path]
):
    config = {"create_kwargs": create_kwargs}
    tensors = timm.create_model(name, **create_kwargs).state_dict()
    maps = timm.create_model(name, features_only=True, **create_kwargs).state_dict()
    for kind in (tensors, maps):
        prefixed = {prefix + name: tensor for name, tensor in kind.items()}
        digests = {
            load_backbone(f"timm/{name}", write_weights(kind, config)).digest(),
            load_backbone(f"timm/{name}", write_weights(prefixed, config)).digest(),
            load_backbone(f"timm/{name}", write_weights(prefixed | {"head.x": torch.ones(1)}, config)).digest(),
        }
        assert len(digests) == 1


def test_two_networks_in_a_file_are_named(write_weights: Callable[..., Path]):
    tensors = timm.create_model("resnet10t").state_dict()
    twice = {prefix + name: tensor.clone() for prefix in ("teacher.", "student.") for name, tensor in tensors.items()}
    with pytest.raises(ValueError, match=r"more than once, below student\., teacher\.: keep one"):
        load_backbone("timm/resnet10t", write_weights(twice))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_numbers_of_other_widths_are_taken(dtype: torch.dtype, write_weights: Callable[..., Path]):
    tensors = timm.create_model("resnet10t").state_dict()
    other = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    same = {name: tensor.to(tensors[name].dtype) for name, tensor in other.items()}
    digests = {load_backbone("timm/resnet10t", write_weights(kind)).digest() for kind in (other, same)}
    assert len(digests) == 1


def test_the_names_of_the_authors_of_dinov2_are_taken(write_weights: Callable[..., Path]):
    """Theirs have a mask token, registers by another name, and a class token whose position is among the others."""
    name, config = "vit_small_patch14_reg4_dinov2", {"create_kwargs": SMALL_VIT}
    tensors = timm.create_model(name, **SMALL_VIT).state_dict()
    theirs = dict(tensors) | {"mask_token": torch.zeros(1, 24), "register_tokens": tensors["reg_token"]}
    del theirs["reg_token"]
    theirs["pos_embed"] = torch.cat([torch.zeros(1, 1, 24), tensors["pos_embed"]], dim=1)
    digests = {load_backbone(f"timm/{name}", write_weights(kind, config)).digest() for kind in (tensors, theirs)}
    assert len(digests) == 1


def test_tables_that_older_files_of_timm_hold_are_left_out(write_weights: Callable[..., Path]):
    name = "swin_tiny_patch4_window7_224"
    tensors = timm.create_model(name).state_dict()
    older = tensors | {"layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49)}
    digests = {load_backbone(f"timm/{name}", write_weights(kind)).digest() for kind in (tensors, older)}
    assert len(digests) == 1


def test_weights_of_another_network_are_one_error(write_weights: Callable[..., Path]):
    path = write_weights(timm.create_model("mobilenetv3_small_050").state_dict())
    with pytest.raises(ValueError, match=r"weights\.safetensors do not fit timm/resnet10t") as caught:
        load_backbone("timm/resnet10t", path)
    missing, unexpected, *_ = str(caught.value).splitlines()[1:]
    assert missing.startswith("  missing: conv1.0.weight, ")
    assert missing.endswith(" more")
    assert unexpected.startswith("  unexpected: blocks.0.0.bn1.bias, ")


def test_a_patch_of_another_size_is_named(write_weights: Callable[..., Path]):
    tensors = timm.create_model("vit_tiny_patch16_224", **SMALL_VIT, patch_size=32).state_dict()
    with pytest.raises(ValueError, match="do not fit timm/vit_tiny_patch16_224") as caught:
        load_backbone("timm/vit_tiny_patch16_224", write_weights(tensors, {"create_kwargs": SMALL_VIT}))
    assert str(caught.value).splitlines()[1:] == [
        "  wrong shape: pos_embed [1, 50, 24] instead of [1, 197, 24], "
        "patch_embed.proj.weight [24, 3, 32, 32] instead of [24, 3, 16, 16]"
    ]


def test_a_missing_tensor_of_a_whole_model_is_named(write_weights: Callable[..., Path]):
    tensors = timm.create_model("vit_tiny_patch16_224", **SMALL_VIT).state_dict()
    del tensors["blocks.1.mlp.fc1.bias"]
    path = write_weights(tensors, {"create_kwargs": SMALL_VIT})
    with pytest.raises(ValueError, match=r"do not fit .*\n  missing: blocks\.1\.mlp\.fc1\.bias$"):
        load_backbone("timm/vit_tiny_patch16_224", path)


def test_pickles_are_not_opened(tmp_path: Path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"cposix\nsystem\n.")
    with pytest.raises(ValueError, match=r"only \.safetensors files are read"):
        load_backbone(NAME, path)


@pytest.mark.parametrize("wrapped", [lambda tensors: tensors, lambda tensors: {"state_dict": tensors, "epoch": 3}])
def test_the_error_s_command_converts_a_pickle(wrapped: Callable[[Any], Any], tmp_path: Path):
    tensors = timm.create_model("resnet10t").state_dict()
    path = tmp_path / "it's.pth"
    torch.save(wrapped(tensors), path)
    with pytest.raises(ValueError, match="convert it once: ") as caught:
        load_backbone("timm/resnet10t", path)
    program, *arguments = shlex.split(str(caught.value).partition("convert it once: ")[2])
    assert program == "python"
    subprocess.run([sys.executable, *arguments], check=True)
    converted = load_file(path.with_suffix(".safetensors"))
    assert converted.keys() == tensors.keys()
    assert all(torch.equal(converted[name], tensor) for name, tensor in tensors.items())
    load_backbone("timm/resnet10t", path.with_suffix(".safetensors"))


def test_a_truncated_weights_file_is_named(mobilenet_file: Path):
    mobilenet_file.write_bytes(mobilenet_file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"weights\.safetensors: not a readable safetensors file, perhaps not whole"):
        load_backbone(NAME, mobilenet_file)


def test_a_type_of_number_that_torch_has_not_is_named(mobilenet_file: Path):
    header = b'{"x":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}'
    mobilenet_file.write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    # safetensors 0.5.3 knows no such type either, and says only that the header is wrong
    message = r"weights\.safetensors: not a readable safetensors file, .*(F8_E8M0|InvalidHeaderDeserialization)"
    with pytest.raises(ValueError, match=message):
        load_backbone(NAME, mobilenet_file)


def test_tensors_that_do_not_fit_are_listed(write_weights: Callable[..., Path], mobilenet_file: Path):
    tensors = load_file(mobilenet_file)
    del tensors["bn1.bias"]
    extra = {f"bn1.extra{index}": torch.zeros(3) for index in range(10)}
    tensors |= extra
    tensors["bn1.weight"] = torch.zeros(7)
    tensors["conv_stem.weight"] = tensors["conv_stem.weight"].to(torch.int64)
    tensors["bn1.running_var"][0] = torch.nan
    tensors["bn1.running_mean"] = torch.full((32,), 1e300, dtype=torch.float64)
    path = write_weights(tensors, mobilenet_file.with_suffix(".json").read_text(), "broken")
    with pytest.raises(ValueError, match=r"broken\.safetensors do not fit") as caught:
        load_backbone(NAME, path)
    assert str(caught.value).splitlines()[1:] == [
        "  missing: bn1.bias",
        f"  unexpected: {', '.join(extra)}",
        "  wrong shape: bn1.weight [7] instead of [32]",
        "  wrong type: conv_stem.weight torch.int64 instead of torch.float32",
        "  not finite: bn1.running_mean, bn1.running_var",
    ]


def test_halved_weights_are_widened(write_weights: Callable[..., Path], mobilenet_file: Path):
    halved = {name: t.half() if t.is_floating_point() else t for name, t in load_file(mobilenet_file).items()}
    path = write_weights(halved, mobilenet_file.with_suffix(".json").read_text(), "halved")
    actual = load_backbone(NAME, path).state_dict()["network.conv_stem.weight"]
    assert torch.equal(actual, halved["conv_stem.weight"].float())
