"""Official checkpoint folders, with everything that can be wrong with them."""

import argparse
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hostile_pickle import Hostile
from official_nemf import same_weights

from jobs import import_official as job
from nemf import checkpoints
from nemf.official.names import from_official_state_dict
from nemf.official.pickles import import_official

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
def weights(official_tensors: StateDict, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model_best.pth, written once."""
    path = tmp_path_factory.mktemp("weights") / "model_best.pth"
    torch.save({"epoch": 3, "state_dict": official_tensors}, path)
    return path


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


def test_there_and_back(write_official: Callable[..., Path], state_dict: StateDict, tmp_path: Path):
    model, config = import_official(write_official())
    assert same_weights(model, from_official_state_dict(state_dict, num_heads=2))
    checkpoints.save(tmp_path / "ours", model, config)
    assert same_weights(checkpoints.load(tmp_path / "ours"), model)
    assert checkpoints.read_config(tmp_path / "ours") == config
    assert sorted(path.name for path in (tmp_path / "ours").iterdir()) == ["config.json", "model.safetensors"]


def test_numbers_left_beside_the_weights_do_no_harm(write_official: Callable[..., Path], state_dict: StateDict):
    extras = {"best_loss": np.float64(0.5), "best_pck": np.float32(3), "epoch": np.int64(7), "optimizer": {"state": {}}}
    model, _ = import_official(write_official({"state_dict": state_dict, **extras}))
    assert same_weights(model, from_official_state_dict(state_dict, num_heads=2))


def test_the_job(write_official: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, out = write_official().as_uri(), tmp_path / "ours"
    assert job.main([folder, "--out", str(out)]) == 0
    assert "torchvision/resnet18" in capsys.readouterr().out
    assert checkpoints.load(out).image_size == 64
    assert job.main([folder, "--out", str(out)]) == 2
    assert "holds a checkpoint already" in capsys.readouterr().err
    assert job.main([folder, "--out", str(tmp_path / "tested"), "--as-test-script"]) == 2
    assert "--as-test-script is for checkpoints of LPMFlow" in capsys.readouterr().err
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
        (b"\x80\x04Nr\x20\x00\x00\x00.", "memo index 32 at byte 3 is refused"),
        (b"Np32\n.", "memo index 32 at byte 1 is refused"),
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
        {"state_dict": {"x": torch.zeros(1).expand(2)}},
        {"state_dict": {"x": torch.zeros(1, device="meta")}},
        {"state_dict": {"x": torch.eye(1).to_sparse()}},
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
def test_weights_that_are_no_state_dict(write_official: Callable[..., Path], checkpoint: object):
    with pytest.raises(ValueError, match="must hold a dict whose 'state_dict' is a dict of whole tensors by name"):
        import_official(write_official(checkpoint))
