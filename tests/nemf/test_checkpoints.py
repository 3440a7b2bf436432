"""Checkpoints there and back, and official ones with everything that can be wrong with them."""

import argparse
import json
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
import torchvision
from official_nemf import SMALL, official_shapes, official_state_dict
from safetensors.torch import load_file, save_file
from tiny import TINY

from jobs import import_official as job
from nemf import checkpoints
from nemf.checkpoints import from_official_state_dict, import_official
from nemf.model.network import NeMF
from nemf.model.presets import build
from nemf.official.names import official_config

BACKBONE = {"create_kwargs": {}, "out_indices": [1, 2, 3, 4], "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
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


@pytest.fixture(scope="module")
def saved(whole: StateDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of ours, written once."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints.save(folder, from_official_state_dict(whole, 2), official_config(whole, 2))
    return folder


@pytest.fixture
def ours(saved: Path, tmp_path: Path) -> Path:
    """One to spoil."""
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(saved / "model.safetensors")
    shutil.copy(saved / "config.json", folder)
    return folder


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
        found = first.backbone(image)
        assert torch.equal(found[0].relu(), maps[0])  # what the second block is given
        assert all(a.shape == b.shape for a, b in zip(found, last.backbone(image), strict=True))
    for wrong in ([2, 4, 6, 9], [8, 6, 4, 2], []):
        with pytest.raises(ValueError, match=rf"rising block numbers from 1 to 8; got {re.escape(str(wrong))}"):
            from_official_state_dict(state_dict, num_heads=2, hyperpixels=wrong)


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
    folder, out = write_official().as_uri(), tmp_path / "ours"
    assert job.main([folder, "--out", str(out)]) == 0
    assert "torchvision/resnet18" in capsys.readouterr().out
    assert checkpoints.load(out).image_size == 64
    assert job.main([folder, "--out", str(out)]) == 2
    assert "holds a checkpoint already" in capsys.readouterr().err
    for wrong, message in (("s3://bucket/ours", "--out must be a local folder"), ("", "expected a path or URI")):
        assert job.main([folder, "--out", wrong]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"depth": 2}, r"args\.pkl: depth is 2, but model_best\.pth has 1"),
        ({"feature_size": 16}, r"args\.pkl: feature_size is 16, but model_best\.pth has 4"),
        ({"hyperpixel": "3,7"}, r"args\.pkl: hyperpixel must be a list of whole numbers .* got '3,7'"),
        ({"hyperpixel": "[2,4,6,60]"}, "block numbers from 1 to 8"),
        ({"num_heads": "two"}, r"args\.pkl: num_heads must be a whole number from 1 to 4096; got 'two'"),
        ({"num_heads": list(range(99))}, r"num_heads must be .*; got \[0, 1, 2, 3, 4, 5, \.\.\.\]$"),
        ({"depth": list(range(99))}, r"depth is \[0, 1, 2, 3, 4, 5, \.\.\.\], but model_best\.pth has 1"),
        ({"hyperpixel": tuple(range(99))}, r"hyperpixel must be .*; got \(0, 1, 2, 3, 4, 5, \.\.\.\)$"),
    ],
)
def test_arguments_that_contradict_the_weights(
    write_official: Callable[..., Path], arguments: dict[str, object], message: str
):
    with pytest.raises(ValueError, match=message):
        import_official(write_official(**arguments))


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_small_file_makes_no_large_message(write_official: Callable[..., Path], wrapped: bool):
    """A pair of twice the same pair, and so on: 2^16 numbers if written out."""
    heads: object = (1, 1)
    for _ in range(15):
        heads = (heads, heads)
    folder = write_official(num_heads=argparse.Namespace(heads=heads) if wrapped else heads)
    with pytest.raises(ValueError, match=r"num_heads must be a whole number") as caught:
        import_official(folder)
    assert len(str(caught.value)) < 1000


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
        (b"cargparse\nNamespace\n.", "must hold an argparse.Namespace"),
        (b"cargparse\nNamespace\n(N(S'x'\nI1\ndtb.", r"Namespace\.x is refused"),
        (b"\x80\x04\x8c\x08argparse\x8c\x12Namespace.__init__\x93.", "refused"),
        (b"\x80\x04Nr\x00\x00\x00\x04.", "memo index 67108864 at byte 3 is refused"),
        (b"Np67108864\n.", "memo index 67108864 at byte 1 is refused"),
    ],
)
def test_arguments_that_are_no_namespace(write_official: Callable[..., Path], content: bytes, message: str):
    folder = write_official()
    (folder / "args.pkl").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        import_official(folder)
    assert not hasattr(argparse.Namespace, "x")


def test_folders_that_lack_something(write_official: Callable[..., Path], tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="nowhere: there is no such folder"):
        import_official(tmp_path / "nowhere")
    folder = write_official()
    (folder / "model_best.pth").rename(folder / "model_last.pth")
    with pytest.raises(FileNotFoundError, match=r"model_best\.pth is missing; there is args\.pkl, model_last\.pth"):
        import_official(folder)
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        checkpoints.load(folder)


@pytest.mark.parametrize(
    "checkpoint",
    [
        {"weights": {}},
        [1],
        {"state_dict": {"x": 1}},
        {"state_dict": {1: torch.zeros(1)}},
        {"state_dict": {"x": torch.zeros(1).expand(2**40)}},
        {"state_dict": {"x": torch.zeros(1, device="meta")}},
        {"state_dict": {"x": torch.eye(1).to_sparse()}},
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_weights_that_are_no_state_dict(write_official: Callable[..., Path], checkpoint: object):
    with pytest.raises(ValueError, match="must hold a dict whose 'state_dict' is a dict of whole tensors by name"):
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
        ({"depth": 65}, "field depth must be a whole number from 0 to 64; got 65"),
        ({"depth": True}, "field depth must be a whole number from 0 to 64; got true"),
        ({"neck_channels": 1}, "field neck_channels must be 0, or a whole number from 2 to 4096; got 1"),
        ({"neck_channels": 2}, r"\n  missing: neck\.inputs\.0\.weight, "),
        ({"keep_correlation": 1}, "field keep_correlation must be true or false; got 1"),
        ({"neck_blocks": -1}, "field neck_blocks must be a whole number from 0 to 64; got -1"),
        ({"embedding_channels": [4]}, r"embedding_channels must be two whole numbers .*, or none; got \[4\]"),
        ({"embedding_channels": []}, r"\n  unexpected: cost_encoder\.embeddings\."),
        ({"field_blocks": 4096}, "field field_blocks must be a whole number from 1 to 64; got 4096"),
        (
            {"backbone_config": BACKBONE | {"create_kwargs": {"num_classes": 10}}},
            "no network can be built .*num_classes may not be among create_kwargs",
        ),
        (
            {"hidden": 8},
            r"model\.safetensors does not fit .*\n  wrong shape: field\.fc_p\.weight \[16, 84\] instead of \[8, 84\], ",
        ),
        ({"depth": 2}, r"\n  missing: cost_encoder\.aggregator\.blocks\.1\."),
        ({"backbone": "torchvision/resnet50"}, r"\n  missing: backbone\.network\.layer1\.0\.conv3\.weight, "),
        ({"feature_size": 256, "image_size": 4096}, r"ask for volumes of up to 1\.1e\+12 values"),
        (
            {"heads": 5},
            "no network can be built of these sizes: .* = 24 must be .* divisible by the number of heads, 5",
        ),
        (
            {"backbone_config": BACKBONE | {"mean": [0, 0, float("nan")]}},
            r"backbone_config\.mean must be three numbers; got",
        ),
        (
            {"backbone_config": BACKBONE | {"std": [1, 1, 0]}},
            r"backbone_config\.std must be three numbers above 0; got",
        ),
    ],
)
def test_a_wrong_config_is_named(ours: Path, change: dict[str, object], message: str):
    path = ours / "config.json"
    content = json.loads(path.read_text()) | change
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not ...}))
    with pytest.raises(ValueError, match=f"^checkpoint folder {re.escape(str(ours))}: .*{message}"):
        checkpoints.load(ours)


@pytest.mark.parametrize("text", ["{", "[" * 200_000])
def test_a_malformed_config_is_named(ours: Path, text: str):
    (ours / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"ours: config\.json: not JSON: "):
        checkpoints.load(ours)


def test_a_config_of_a_gigabyte_is_not_read(ours: Path):
    with (ours / "config.json").open("ab") as file:
        file.truncate(2**30)
    with pytest.raises(ValueError, match=r"ours: config\.json: larger than the 1048576 bytes that are read at most"):
        checkpoints.load(ours)


def test_a_pickle_by_the_name_of_weights_runs_nothing(ours: Path, tmp_path: Path):
    marker = tmp_path / "was here"
    (ours / "model.safetensors").unlink()
    torch.save({"state_dict": Hostile(marker)}, ours / "model.safetensors")
    with pytest.raises(ValueError, match=r"ours: model\.safetensors: not a readable safetensors file"):
        checkpoints.load(ours)
    assert not marker.exists()


def test_weights_whose_header_claims_a_terabyte_are_not_waited_for(ours: Path):
    header = json.dumps({"x": {"dtype": "F32", "shape": [2**38], "data_offsets": [0, 2**40]}}).encode()
    (ours / "model.safetensors").unlink()
    (ours / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match=r"ours: model\.safetensors: not a readable safetensors file"):
        checkpoints.load(ours)


def test_a_truncated_file_is_named(ours: Path, saved: Path):
    data = (saved / "model.safetensors").read_bytes()
    (ours / "model.safetensors").unlink()
    (ours / "model.safetensors").write_bytes(data[:-100])
    with pytest.raises(
        ValueError, match=r"ours: model\.safetensors: not a readable safetensors file, perhaps not whole"
    ):
        checkpoints.load(ours)


def test_a_folder_that_is_a_uri():
    fs = fsspec.filesystem("memory")
    fs.pipe_file("/bucket/ours/model.safetensors", b"")
    fs.pipe_file("/bucket/ours/notes.txt", b"")
    listed = r"checkpoint folder memory://bucket/ours: config\.json is missing; there is model\.safetensors, notes\.txt"
    with pytest.raises(FileNotFoundError, match=listed):
        checkpoints.load("memory://bucket/ours")
    with pytest.raises(FileNotFoundError, match="checkpoint folder memory://bucket/theirs: there is no such folder"):
        checkpoints.load("memory://bucket/theirs")
    with pytest.raises(ValueError, match="checkpoint folder nothing://bucket/ours: Protocol not known: nothing"):
        checkpoints.load("nothing://bucket/ours")


def test_sizes_that_no_tensor_bounds_are_bounded(tmp_path: Path):
    """Without convolutions and transformer no weight depends on the number of cells: a small file could ask for any."""
    config = replace(TINY, feature_size=8, embedding_channels=(), depth=0, cost_channels=4, keep_correlation=True)
    checkpoints.save(tmp_path, build(config), config)
    content = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(content | {"image_size": 2048, "feature_size": 256}))
    tensors = load_file(tmp_path / "model.safetensors")
    axes = {f"cost_encoder.{axis}_normal": torch.linspace(-1, 1, 256) for axis in "xy"}
    save_file(tensors | axes, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"ask for volumes of up to 2\.1e\+10 values; at most 2\.7e\+08 are allowed"):
        checkpoints.load(tmp_path)
