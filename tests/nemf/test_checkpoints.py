"""Checkpoint folders, with everything that can be wrong with them."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import fsspec
import pytest
import torch
from hostile_pickle import Hostile
from safetensors.torch import load_file, save_file
from tiny import TINY

from nemf import checkpoints
from nemf.calibration import Calibration
from nemf.checkpoints import from_official_state_dict
from nemf.model.build import build
from nemf.official.names import official_config

BACKBONE = {"create_kwargs": {}, "out_indices": [1, 2, 3, 4], "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}


@pytest.fixture(scope="module")
def saved(official_tensors: dict[str, torch.Tensor], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of this project, written once."""
    folder = tmp_path_factory.mktemp("saved")
    checkpoints.save(folder, from_official_state_dict(official_tensors, 2), official_config(official_tensors, 2))
    return folder


@pytest.fixture
def ours(saved: Path, tmp_path: Path) -> Path:
    """A copy of the checkpoint folder, to be damaged."""
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "model.safetensors").symlink_to(saved / "model.safetensors")
    shutil.copy(saved / "config.json", folder)
    return folder


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


def test_a_confidence_comes_back_and_a_wrong_one_is_named(ours: Path):
    assert checkpoints.read_calibration(ours) is None
    line = {"temperature": 1.4, "mass": [0, 1], "probability": [0.1, 0.9]}
    path = ours / "config.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"confidence": line}))
    assert checkpoints.read_calibration(ours) == Calibration(temperature=1.4, mass=(0, 1), probability=(0.1, 0.9))
    assert checkpoints.read_config(ours) is not None
    path.write_text(json.dumps(content | {"confidence": line | {"mass": [1, 0]}}))
    with pytest.raises(ValueError, match=r"ours: config\.json: field confidence\.mass must be .*; got \(1, 0\)"):
        checkpoints.read_calibration(ours)


@pytest.mark.parametrize("text", ["{", "[" * 2_000])
def test_a_malformed_config_is_named(ours: Path, text: str):
    (ours / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"ours: config\.json: not JSON: "):
        checkpoints.load(ours)


def test_a_config_beyond_the_limit_is_not_read(ours: Path):
    with (ours / "config.json").open("ab") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(ValueError, match=r"ours: config\.json: larger than the 1048576 bytes that are read at most"):
        checkpoints.load(ours)


def test_a_pickle_by_the_name_of_weights_runs_nothing(ours: Path, tmp_path: Path):
    marker = tmp_path / "was here"
    (ours / "model.safetensors").unlink()
    torch.save({"state_dict": Hostile(marker)}, ours / "model.safetensors")
    with pytest.raises(ValueError, match=r"ours: model\.safetensors: not a readable safetensors file"):
        checkpoints.load(ours)
    assert not marker.exists()


def test_weights_whose_header_claims_more_than_the_file_has_are_damaged(ours: Path):
    header = json.dumps({"x": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}).encode()
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
