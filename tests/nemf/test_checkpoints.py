"""Checkpoints there and back, and official ones with everything that can be wrong with them."""

import argparse
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from official_nemf import SMALL, official_shapes, official_state_dict

from jobs import import_official as job
from nemf import checkpoints
from nemf.checkpoints import from_official_state_dict, import_official
from nemf.model.network import NeMF

StateDict = dict[str, torch.Tensor]
ARGUMENTS = {
    "feature_size": 4,
    "feature_proj_dim": 8,
    "depth": 1,
    "num_heads": 2,
    "mlp_ratio": 4,
    "hyperpixel": "[2,4,6,8]",
    "benchmark": "spair",
    "lr": 3e-5,
}


@pytest.fixture(scope="module")
def whole() -> StateDict:
    return official_state_dict(official_shapes(**SMALL), seed=1)


@pytest.fixture(scope="module")
def weights(whole: StateDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model_best.pth, written once."""
    path = tmp_path_factory.mktemp("weights") / "model_best.pth"
    torch.save({"epoch": 3, "state_dict": whole}, path)
    return path


@pytest.fixture
def state_dict(whole: StateDict) -> StateDict:
    return dict(whole)


@pytest.fixture
def write_official(tmp_path: Path, weights: Path) -> Callable[..., Path]:
    """Writes an official checkpoint; arguments that are None are left out."""

    def write(checkpoint: object = None, **arguments: object) -> Path:
        folder = tmp_path / "official"
        folder.mkdir(exist_ok=True)
        kept = {name: value for name, value in {**ARGUMENTS, **arguments}.items() if value is not None}
        if checkpoint is None:
            (folder / "model_best.pth").symlink_to(weights)
        else:
            torch.save(checkpoint, folder / "model_best.pth")
        (folder / "args.pkl").write_bytes(pickle.dumps(argparse.Namespace(**kept)))
        return folder

    return write


def same_weights(model: NeMF, other: NeMF) -> bool:
    ours, theirs = model.state_dict(), other.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


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


def test_what_does_not_fit_is_listed_by_its_official_name(state_dict: StateDict):
    del state_dict["corr_embedder.3.embedder.conv4d.1.0.supp_conv.bias"]
    state_dict["decoder.blocks.0.norm5.weight"] = torch.zeros(1)
    state_dict["feature_extraction.backbone.layer1.0.conv9.weight"] = torch.zeros(1)
    state_dict["mlp_model.mlp.0.fc_out.weight"] = torch.zeros(2, 16)
    state_dict["decoder.proj.bias"] = torch.full((16,), torch.nan)
    with pytest.raises(ValueError, match="does not fit a NeMF of these sizes") as caught:
        from_official_state_dict(state_dict, num_heads=2)
    assert str(caught.value).split(": ", 1)[1] == (
        "missing: corr_embedder.3.embedder.conv4d.1.0.supp_conv.bias; "
        "unexpected: decoder.blocks.0.norm5.weight, feature_extraction.backbone.layer1.0.conv9.weight; "
        "wrong shape: mlp_model.mlp.0.fc_out.weight [2, 16] instead of [1, 16]; not finite: decoder.proj.bias"
    )


def test_a_checkpoint_of_another_network(state_dict: StateDict):
    other = {name: tensor for name, tensor in state_dict.items() if "decoder" not in name}
    with pytest.raises(ValueError, match=r"not an official NeMF checkpoint: decoder\.pos_embed_x is missing"):
        from_official_state_dict(other)
    with pytest.raises(ValueError, match=r"its backbone has \(0, 0, 0, 0\) blocks; known are resnet18 \(2, 2, 2, 2\)"):
        from_official_state_dict({})
    with pytest.raises(ValueError, match="= 24 must be even and divisible by the number of heads, 5"):
        from_official_state_dict(state_dict, num_heads=5)


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
        found = first.backbone(image)
        assert torch.equal(found[0].relu(), maps[0])  # what the second block is given
        assert all(a.shape == b.shape for a, b in zip(found, last.backbone(image), strict=True))
    with pytest.raises(ValueError, match=r"block numbers from 1 to 8; got \[2, 4, 6, 9\]"):
        from_official_state_dict(state_dict, num_heads=2, hyperpixels=[2, 4, 6, 9])


def test_there_and_back(write_official: Callable[..., Path], state_dict: StateDict, tmp_path: Path):
    model, config = import_official(write_official())
    assert same_weights(model, from_official_state_dict(state_dict, num_heads=2))
    checkpoints.save(tmp_path / "ours", model, config)
    assert same_weights(checkpoints.load(tmp_path / "ours"), model)
    assert checkpoints.read_config(tmp_path / "ours") == config
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["config.json", "model.safetensors"]


def test_numbers_left_beside_the_weights_do_no_harm(write_official: Callable[..., Path], state_dict: StateDict):
    beside = {"best_loss": np.float64(0.5), "best_pck": np.float32(3), "epoch": np.int64(7), "optimizer": {"state": {}}}
    model, _ = import_official(write_official({"state_dict": state_dict, **beside}))
    assert same_weights(model, from_official_state_dict(state_dict, num_heads=2))


def test_the_job(write_official: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, out = str(write_official()), tmp_path / "ours"
    assert job.main([folder, "--out", str(out)]) == 0
    assert "torchvision/resnet18" in capsys.readouterr().out
    assert checkpoints.load(out).image_size == 64
    assert job.main([folder, "--out", str(out)]) == 2
    assert "holds a checkpoint already" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 2}, r"args\.pkl: depth is 2, but model_best\.pth has 1"),
        ({"feature_size": 16}, r"args\.pkl: feature_size is 16, but model_best\.pth has 4"),
        ({"hyperpixel": "3,7"}, r"args\.pkl: hyperpixel must be a list of whole numbers .* got '3,7'"),
        ({"hyperpixel": "[2,4,6,60]"}, "block numbers from 1 to 8"),
        ({"num_heads": "two"}, r"args\.pkl: num_heads must be a whole number from 1 to 4096; got 'two'"),
    ],
)
def test_arguments_that_contradict_the_weights(
    write_official: Callable[..., Path], arguments: dict[str, object], message: str
):
    with pytest.raises(ValueError, match=message):
        import_official(write_official(**arguments))


class Hostile:
    """A pickle of it runs a command."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.marker), "w")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_hostile_arguments_are_refused_and_run_nothing(
    write_official: Callable[..., Path], tmp_path: Path, protocol: int
):
    folder, marker = write_official(), tmp_path / "was here"
    hostile = argparse.Namespace(**ARGUMENTS, extra=Hostile(marker))
    (folder / "args.pkl").write_bytes(pickle.dumps(hostile, protocol))
    with pytest.raises(ValueError, match=r"args\.pkl: not a pickled argparse\.Namespace .* refused"):
        import_official(folder)
    assert not marker.exists()


def test_hostile_weights_are_refused_and_run_nothing(write_official: Callable[..., Path], tmp_path: Path):
    marker = tmp_path / "was here"
    folder = write_official({"state_dict": Hostile(marker)})
    with pytest.raises(ValueError, match=r"model_best\.pth: not a file of tensors that is safe to read"):
        import_official(folder)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps([1, 2]), "must hold an argparse.Namespace; holds a list"),
        (b"", "not a pickled argparse.Namespace"),
        (b"\x80\x04garbage", "not a pickled argparse.Namespace"),
        (b"cargparse\nNamespace\n(S'x'\ntR.", "not a pickled argparse.Namespace"),
        (b"cargparse\nNamespace\n.", "must hold an argparse.Namespace; holds a type"),
        (b"\x80\x04\x8c\x08argparse\x8c\x12Namespace.__init__\x93.", "refused"),
    ],
)
def test_arguments_that_are_no_namespace(write_official: Callable[..., Path], content: bytes, message: str):
    folder = write_official()
    (folder / "args.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        import_official(folder)


def test_folders_that_lack_something(write_official: Callable[..., Path], tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        import_official(tmp_path / "nowhere")
    folder = write_official()
    (folder / "model_best.pth").rename(folder / "model_last.pth")
    with pytest.raises(FileNotFoundError, match=r"model_best\.pth is missing; there is args\.pkl, model_last\.pth"):
        import_official(folder)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        checkpoints.load(folder)


@pytest.mark.parametrize("checkpoint", [{"weights": {}}, {"state_dict": {"x": 1}}, [1]])
def test_weights_that_are_no_state_dict(write_official: Callable[..., Path], checkpoint: object):
    with pytest.raises(ValueError, match="must hold a dict whose 'state_dict' is a dict of tensors"):
        import_official(write_official(checkpoint))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "nemf-9"}, "format is 'nemf-1'"),
        ({"depth": ...}, "fields do not fit: missing: depth"),
        ({"colour": 1}, "fields do not fit: unexpected: colour"),
        ({"backbone_config": 3}, "backbone_config must be a JSON object; got 3"),
        ({"backbone_config": {"mean": [0, 0, 0]}}, r"missing: backbone_config\.create_kwargs"),
        ({"backbone": "torchvision/vgg"}, "no network can be built .* there is no backbone torchvision/vgg"),
        ({"hidden": "wide"}, "field hidden must be"),
        ({"heads": 0}, "field heads must be"),
        ({"hidden": 8}, "do not fit the network: wrong shape: .*"),
    ],
)
def test_a_wrong_config_is_named(
    write_official: Callable[..., Path], tmp_path: Path, change: dict[str, object], message: str
):
    folder = tmp_path / "ours"
    checkpoints.save(folder, *import_official(write_official()))
    path = folder / "config.json"
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))
    with pytest.raises(ValueError, match=message):
        checkpoints.load(folder)
