from dataclasses import replace
from pathlib import Path

import pytest

from jobs import distil, prepare, train
from jobs.recipe import main
from jobs.recipes import RECIPES, RecipeOptions
from pipeline.datasets.registry import BUILT_IN


@pytest.fixture
def options(tmp_path: Path) -> RecipeOptions:
    return RecipeOptions(
        data=tmp_path / "data", out=tmp_path / "out", weights="weights.safetensors", threads=1, bfloat16=True
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_reads_only_what_a_stage_before_it_wrote(name: str, options: RecipeOptions):
    written = set()
    for stage in RECIPES[name](options):
        if isinstance(stage, prepare.Config):
            assert stage.dataset in BUILT_IN
            written.add(stage.out)
        elif isinstance(stage, distil.Config):
            assert set(stage.photographs) <= written
            assert stage.teacher in written
            assert stage.student == "nemf-small" or stage.student in written
            replace(stage, student="nemf-small").check()
            written.add(f"{stage.out}/checkpoint")
        else:
            assert isinstance(stage, train.Config)
            assert {*stage.pairs, *stage.photographs, stage.validation} <= written
            assert stage.start in ("paper", "nemf-small", "nemf-mobilenet") or stage.start in written
            assert stage.backbone_weights in (None, options.weights)
            written.add(f"{stage.out}/checkpoint")


def test_the_paper_recipe_has_the_papers_settings(options: RecipeOptions):
    *_, stage = RECIPES["paper-spair"](options)
    assert isinstance(stage, train.Config)
    loss = stage.trainer.loss
    assert (stage.start, stage.trainer.lr, stage.trainer.backbone_lr, loss.hard, loss.descriptor_weight) == (
        "paper",
        3e-5,
        None,
        0,
        0,
    )
    assert 1 + loss.negatives == 100


def test_an_unknown_recipe_is_answered_with_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["nemf-large", "--data", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "there is no recipe 'nemf-large'; there are: nemf-small, nemf-mobilenet" in capsys.readouterr().err


def test_missing_data_are_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["nemf-small", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "out")]) == 2
    assert "animal-pose" in capsys.readouterr().err
