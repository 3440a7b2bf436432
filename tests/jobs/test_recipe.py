import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from make import encoded, noise_rgb
from planted_run import plant_run, rows_of

from jobs import calibrate, distil, match, prepare, pseudo_label, train
from jobs.recipe import main
from jobs.recipes.stages import RecipeOptions
from jobs.recipes.table import RECIPES
from nemf.presets import PRESETS
from pipeline.datasets.registry import BUILT_IN
from pipeline.io.manifest import read_pairs
from pipeline.training.photographs import Photographs


@pytest.fixture
def options(tmp_path: Path) -> RecipeOptions:
    return RecipeOptions(
        data=tmp_path / "data", out=tmp_path / "out", weights="weights.safetensors", threads=1, bfloat16=True
    )


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_reads_only_what_a_stage_before_it_wrote(name: str, options: RecipeOptions):
    given = {str(options.data / f"{part}.parquet") for part in ("labelled", "calibration", "unlabelled", "val")}
    written = given if name == "self-training" else set()
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
        elif isinstance(stage, match.Config):
            stage.check()
            assert {stage.pairs, stage.matcher} <= written
            written.add(stage.out)
        elif isinstance(stage, calibrate.Config):
            assert {stage.pairs, stage.matches} <= written
            written.add(stage.out)
        elif isinstance(stage, pseudo_label.Config):
            assert {stage.pairs, stage.matches, stage.calibration} <= written
            written.add(stage.out)
        else:
            assert isinstance(stage, train.Config)
            assert {*stage.pairs, *stage.photographs, stage.validation} <= written
            assert stage.start in PRESETS or stage.start in written
            assert stage.backbone_weights in (None, options.weights)
            written.add(f"{stage.out}/checkpoint")


def test_self_training_trains_on_the_labels_of_its_own_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its matches are planted, right with a known probability, and its trainings are not run; all else is."""
    data, out = tmp_path / "data", tmp_path / "out"
    data.mkdir()
    seeds = {str(data / f"{name}.parquet"): seed for seed, name in enumerate(("calibration", "unlabelled"))}
    for manifest, seed in seeds.items():
        plant_run(data, 300, name=Path(manifest).stem, seed=seed)
    trained: list[tuple[str, ...]] = []

    def plant(config: match.Config) -> None:
        run = Path(config.out)
        if not run.exists():
            plant_run(run.parent, 300, name=run.name, seed=seeds[config.pairs], manifest=config.pairs)

    monkeypatch.setattr("jobs.match.run", plant)
    monkeypatch.setattr("jobs.train.run", lambda config: trained.append(config.pairs))

    for _ in range(2):  # a second start keeps what is there
        assert main(["self-training", "--data", str(data), "--out", str(out)]) == 0

    labelled, labels = str(data / "labelled.parquet"), str(out / "round-0" / "labels.parquet")
    assert trained == [(labelled,), (labelled,), (labelled, labels), (labelled, labels)] * 2
    probability = [p for row in rows_of(labels) for p in row["keypoint_probability"]]
    assert np.mean(probability) == pytest.approx(0.8, abs=0.001)
    assert min(len(row["keypoint_probability"]) for row in rows_of(labels)) == 3


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


def _write_published(data: Path, n_images: int = 60) -> None:
    """Animal-Pose as its authors publish it, with small pictures, and a folder of photographs."""
    folder = data / "animal-pose"
    for name in ("animal-pose/images", "photographs"):
        (data / name).mkdir(parents=True)
    images = {str(number): f"2007_{number:06}.jpg" for number in range(1, n_images + 1)}
    keypoints = [[5 + 2 * k, 4 + k, int(k < 12)] for k in range(20)]
    annotations = [
        {
            "image_id": number,
            "bbox": [2, 2, 44, 26],
            "keypoints": keypoints,
            "num_keypoints": 20,
            "category_id": 1 + number % 2,
        }
        for number in range(1, n_images + 1)
    ]
    names = [f"keypoint_{k}" for k in range(20)]
    categories = [
        {"supercategory": "animal", "id": 1 + k, "name": name, "keypoints": names, "skeleton": [[0, 1]]}
        for k, name in enumerate(("dog", "cat"))
    ]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "keypoints.json").write_text(json.dumps(content))
    for number, name in enumerate(images.values()):
        (folder / "images" / name).write_bytes(encoded(noise_rgb(number, (32, 48)), "JPEG"))
    for number in range(5):
        (data / "photographs" / f"{number}.jpg").write_bytes(encoded(noise_rgb(number, (32, 48)), "JPEG"))


def _images_of(manifest: Path) -> set[str]:
    table = read_pairs(str(manifest))
    return {uri for name in ("source_uri", "target_uri") for uri in table[name].to_pylist()}


def test_the_published_downloads_are_all_that_a_recipe_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The trainings get the manifests made from these folders, and can read their images."""
    data, out = tmp_path / "data", tmp_path / "out"
    _write_published(data)
    trained: list[str] = []

    def run(config: train.Config | distil.Config) -> None:
        photographs = Photographs(config.photographs, None, 16, 0)
        assert photographs.batch(0, 4).shape == (4, 3, 16, 16)
        assert photographs.unusable() == []
        trained.append(config.out)

    monkeypatch.setattr("jobs.train.run", run)
    monkeypatch.setattr("jobs.distil.run", run)

    assert main(["nemf-small", "--data", str(data), "--out", str(out), "--weights", "w.safetensors"]) == 0

    assert trained[-1] == str(out / "field")
    train_images, val_images = (_images_of(out / "teacher" / f"{split}.parquet") for split in ("train", "val"))
    assert len(train_images) > len(val_images) > 1
    assert not train_images & val_images
    pairs = read_pairs(str(out / "teacher" / "train.parquet"))
    assert set(pairs["category"].to_pylist()) == {"cat", "dog"}
    assert pairs["keypoint_id"][0].as_py() == [f"keypoint_{k}" for k in range(12)]
    assert pairs["source_box_xyxy"][0].as_py() == [2, 2, 44, 26]
    assert len(_images_of(out / "teacher" / "imagenet.parquet")) == 5


def test_data_in_parquet_are_read_as_before(options: RecipeOptions):
    picture = encoded(np.zeros((16, 16, 3), np.uint8), "JPEG")
    for name in ("animal-pose/train", "animal-pose/val", "imagenet-1000/images"):
        file = options.data / f"{name}.parquet"
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"jpeg": [picture]}), file)

    stages = RECIPES["nemf-small"](options)
    manifests = [stage for stage in stages if isinstance(stage, prepare.Config)]
    distilled = next(stage for stage in stages if isinstance(stage, distil.Config))

    assert [
        (stage.dataset, Path(stage.root).relative_to(options.data), Path(stage.out).name) for stage in manifests
    ] == [
        ("animal-pose", Path("animal-pose"), "train.parquet"),
        ("animal-pose", Path("animal-pose"), "val.parquet"),
        ("photographs", Path("animal-pose/train.parquet"), "animals.parquet"),
        ("photographs", Path("imagenet-1000"), "imagenet.parquet"),
    ]
    assert [Path(manifest).name for manifest in distilled.photographs] == ["imagenet.parquet", "animals.parquet"]
