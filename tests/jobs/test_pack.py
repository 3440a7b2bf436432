import json
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from jobs.pack import main
from nemf import checkpoints, load_matcher
from nemf.model.build import build
from nemf.model.presets import NeMFConfig, nemf_small
from pipeline.evaluation.metrics import write_metrics
from schemas.metrics import METRICS

TINY = replace(nemf_small(), image_size=64, feature_size=8, neck_channels=16, neck_blocks=1, hidden=16)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    checkpoints.save(tmp_path / "run", build(TINY), TINY, search={"patchmatch_steps": 3})
    return tmp_path / "run"


def _metrics(tmp_path: Path) -> str:
    row = {
        "dataset": "spair",
        "protocol": "spair",
        "direction": "source_to_target",
        "subset": "all",
        "group_kind": "all",
        "group": "all",
        "n_pairs": 3104,
        "n_points": 20,
        "n_failed": 0,
    }
    percent = {name: 0.0 for name in METRICS.names if name.startswith("pck_")}
    rows = [{**row, **percent, "alpha": alpha, "pck_image": pck} for alpha, pck in ((0.05, 12.34), (0.1, 45.67))]
    write_metrics(str(tmp_path / "metrics.parquet"), pa.Table.from_pylist(rows, METRICS))
    return str(tmp_path / "metrics.parquet")


def test_a_packed_checkpoint_is_half_the_size_and_says_what_it_is(checkpoint: Path, tmp_path: Path):
    out = tmp_path / "packed"
    options = ["--half", "--search", "grid_strides=4,2", "refine_lr=0.01", "--metrics", _metrics(tmp_path)]
    terms = ["--training-data", "Cats (research use)", "--commands", "nemf train --pairs cats.parquet"]
    assert main(["--checkpoint", str(checkpoint), "--out", str(out), *options, *terms]) == 0

    sizes = [(folder / "model.safetensors").stat().st_size for folder in (checkpoint, out)]
    assert sizes[1] < 0.55 * sizes[0]
    given, packed = checkpoints.load(checkpoint).state_dict(), checkpoints.load(out).state_dict()
    assert all(torch.equal(packed[name], tensor.half().to(tensor.dtype)) for name, tensor in given.items())
    assert checkpoints.read_search(out) == {"grid_strides": (4, 2), "refine_lr": 0.01}
    card = (out / "README.md").read_text()
    assert card.startswith("# packed\n")
    assert "| spair | spair | 3,104 | 12.3 | 45.7 |" in card
    assert "Cats (research use)" in card
    assert "    nemf train --pairs cats.parquet" in card


def test_search_settings_stay_unless_others_are_given(checkpoint: Path, tmp_path: Path):
    assert main(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "packed")]) == 0
    assert checkpoints.read_search(tmp_path / "packed") == {"patchmatch_steps": 3}
    assert load_matcher(str(tmp_path / "packed"), device="cpu").config.patchmatch_steps == 3
    assert "Nothing yet." in (tmp_path / "packed" / "README.md").read_text()


def test_what_is_given_in_the_name_beats_what_the_checkpoint_brings(checkpoint: Path):
    matcher = load_matcher(f"{checkpoint}?refine_steps=1", device="cpu")
    assert (matcher.config.patchmatch_steps, matcher.config.refine_steps) == (3, 1)
    matcher = load_matcher(f"{checkpoint}?patchmatch_steps=1", device="cpu")
    assert matcher.config.patchmatch_steps == 1


@pytest.mark.parametrize(
    ("search", "message"),
    [
        ([], "search must be a JSON object; got []"),
        ({"speed": 3}, "search has unknown fields: speed"),
        ({"refine_lr": 0}, "field search.refine_lr must be a number above 0 and below 1e6; got 0"),
        (
            {"grid_strides": 8},
            "field search.grid_strides must be a list of 1 to 8 falling whole numbers from 1 to 4096; got 8",
        ),
        ({"grid_strides": [8.0]}, "field search.grid_strides must be a list of 1 to 8 falling whole numbers"),
        ({"patchmatch_steps": 10**12}, "field search.patchmatch_steps must be a whole number from 0 to 1000"),
        ({"precision": "bfloat16"}, "search has unknown fields: precision"),
        ({"grid_strides": [4, 8]}, "grid_strides must be a list of 1 to 8 falling whole numbers"),
    ],
)
def test_search_settings_that_will_not_do(checkpoint: Path, search: object, message: str):
    content = json.loads((checkpoint / "config.json").read_text())
    (checkpoint / "config.json").write_text(json.dumps(content | {"search": search}))
    with pytest.raises(ValueError, match=message.replace("[", r"\[")):
        load_matcher(str(checkpoint), device="cpu")


def test_a_search_that_cannot_be_is_refused(checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--checkpoint", str(checkpoint), "--out", str(tmp_path / "packed"), "--search", "speed=3"]) == 2
    assert "--search: option 'speed' is unknown" in capsys.readouterr().err
    assert not (tmp_path / "packed").exists()


def test_checkpoints_without_search_settings_have_none(tmp_path: Path):
    config: NeMFConfig = TINY
    checkpoints.save(tmp_path, build(config), config)
    content = json.loads((tmp_path / "config.json").read_text())
    del content["search"]
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert checkpoints.read_search(tmp_path) == {}
    assert checkpoints.read_config(tmp_path) == config
