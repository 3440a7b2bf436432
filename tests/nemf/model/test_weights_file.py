"""Files that will not do: each error names the file and what is wrong in it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from nemf.model.backbone import load_backbone

NAME = "timm/mobilenetv1_100"


def _changed(path: Path, **fields: Any) -> None:
    config = json.loads(path.with_suffix(".json").read_text()) | fields
    kept = {name: value for name, value in config.items() if value is not ...}
    path.with_suffix(".json").write_text(json.dumps(kept))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mean": ...}, "field mean is missing"),
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
        ("[" * 200_000, "not JSON: maximum recursion depth"),
        ('{"mean": ' + "[" * 200_000, "not JSON: maximum recursion depth"),
    ],
)
def test_a_malformed_json_is_named(mobilenet_file: Path, text: str, message: str):
    mobilenet_file.with_suffix(".json").write_text(text)
    with pytest.raises(ValueError, match=rf"weights\.json: {message}"):
        load_backbone(NAME, mobilenet_file)


def test_a_missing_file_is_named(mobilenet_file: Path, tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors: there is no such file"):
        load_backbone(NAME, tmp_path / "nowhere.safetensors")
    mobilenet_file.with_suffix(".json").unlink()
    with pytest.raises(FileNotFoundError, match=r"weights\.json is missing; it says how to build"):
        load_backbone(NAME, mobilenet_file)


def test_pickles_are_not_opened(tmp_path: Path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"cposix\nsystem\n.")
    with pytest.raises(ValueError, match=r"only \.safetensors files are read"):
        load_backbone(NAME, path)


def test_a_truncated_weights_file_is_named(mobilenet_file: Path):
    mobilenet_file.write_bytes(mobilenet_file.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"weights\.safetensors: not a readable safetensors file, perhaps not whole"):
        load_backbone(NAME, mobilenet_file)


def test_a_type_of_number_that_torch_has_not_is_named(mobilenet_file: Path):
    header = b'{"x":{"dtype":"F8_E8M0","shape":[1],"data_offsets":[0,1]}}'
    mobilenet_file.write_bytes(len(header).to_bytes(8, "little") + header + b"0")
    with pytest.raises(ValueError, match=r"weights\.safetensors: not a readable safetensors file, .*F8_E8M0"):
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
