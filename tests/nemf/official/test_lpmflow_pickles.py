"""Official checkpoint folders of LPMFlow, and the folders of ours that they become."""

import argparse
import json
import pickle
from pathlib import Path

import pytest
import torch
from hostile_pickle import Hostile
from official_lpmflow import SMALL, official_shapes, official_state_dict
from official_nemf import same_weights

from jobs import import_official as job
from nemf import checkpoints
from nemf.lpmflow.network import LPMFlow
from nemf.official.pickles import import_official

ARGUMENTS = {"feature_size": 32, "depth": 6, "num_heads": 4, "mlp_ratio": 4, "benchmark": "spair"}


@pytest.fixture
def official(tmp_path: Path) -> Path:
    """A small checkpoint as the authors' trainer writes it."""
    folder = tmp_path / "official"
    folder.mkdir()
    state_dict = official_state_dict(official_shapes(**SMALL), seed=4)
    torch.save({"epoch": 9, "state_dict": state_dict, "optimizer": {}, "best_loss": 0.5}, folder / "model_best.pth")
    (folder / "args.pkl").write_bytes(pickle.dumps(argparse.Namespace(**ARGUMENTS)))
    return folder


def test_there_and_back(official: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`depth` says 6, as the authors' always does, and is no contradiction to one block."""
    model, config = import_official(official)
    assert isinstance(model, LPMFlow)
    assert job.main([str(official), "--out", str(tmp_path / "ours")]) == 0
    assert "lpmflow/vit" in capsys.readouterr().out
    assert same_weights(checkpoints.load(tmp_path / "ours"), model)
    assert checkpoints.read_config(tmp_path / "ours") == config


def test_the_tables_that_the_authors_test_script_reads(official: Path, tmp_path: Path):
    assert job.main([str(official), "--out", str(tmp_path / "trained")]) == 0
    assert job.main([str(official), "--out", str(tmp_path / "tested"), "--as-test-script"]) == 0
    trained, tested = (checkpoints.load(tmp_path / name).encoder for name in ("trained", "tested"))
    for table in ("position", "image_position"):
        source, target = (getattr(trained, f"{table}_{role}") for role in ("source", "target"))
        assert not torch.equal(source, target)
        kept = source if table == "position" else target
        assert all(torch.equal(getattr(tested, f"{table}_{role}"), kept) for role in ("source", "target"))


def test_files_that_contradict_each_other_or_run_code(official: Path, tmp_path: Path):
    (official / "args.pkl").write_bytes(pickle.dumps(argparse.Namespace(**ARGUMENTS | {"num_heads": 8})))
    with pytest.raises(ValueError, match=r"args\.pkl: num_heads is 8, but model_best\.pth has 4"):
        import_official(official)
    (official / "args.pkl").write_bytes(pickle.dumps(argparse.Namespace(extra=Hostile(tmp_path / "was here"))))
    with pytest.raises(ValueError, match=r"args\.pkl: not a pickled argparse\.Namespace .* refused"):
        import_official(official)
    (official / "args.pkl").write_bytes(pickle.dumps(argparse.Namespace(**ARGUMENTS)))
    hostile = {"state_dict": {"decoder_s1.last_block.0.norm1.bias": Hostile(tmp_path / "was here")}}
    torch.save(hostile, official / "model_best.pth")
    with pytest.raises(ValueError, match=r"model_best\.pth: not a file of tensors that is safe to read"):
        import_official(official)
    assert not (tmp_path / "was here").exists()


def test_a_wrong_config_is_named(official: Path, tmp_path: Path):
    checkpoints.save(tmp_path / "ours", *import_official(official))
    path = tmp_path / "ours" / "config.json"
    content = json.loads(path.read_text())
    assert content["format"] == "lpmflow-1"
    wrong = {
        "format is 'nemf-1' or 'lpmflow-1'": {"format": "lpmflow-9"},
        "fields do not fit: unexpected: field_blocks": {"field_blocks": 3},
        r"field windows must be a list of at most 8 whole numbers from 1 to 32; got \[16, 64\]": {"windows": [16, 64]},
        "no network can be built of these sizes: cells must be at most 32": {"cells": 64},
        r"no network can be built .* lpmflow/vit takes depth, heads and position_cells .* got colour=1": {
            "backbone_config": content["backbone_config"] | {"create_kwargs": {"colour": 1}}
        },
        r"does not fit the network of config\.json.*\n  missing: encoder\.blocks\.1\.": {"depth": 2},
    }
    for message, change in wrong.items():
        path.write_text(json.dumps(content | change))
        with pytest.raises(ValueError, match=rf"(?s)^checkpoint folder .*{message}"):
            checkpoints.load(tmp_path / "ours")
