"""What pseudo-labels are worth to a training: the recipe self-training beside few and beside all annotations.

    python -m benchmarks.self_training --animal-pose data/animal-pose --out runs/self-training \\
        --weights mobilenetv1_100.safetensors

Of Animal-Pose's training images a share is annotated, a fifth of these for calibration; the keypoints of the others are
not read, their boxes and categories are. Trains with the same steps `self-training` (its first round knows the
annotations without those for calibration; the second, one for each of --precisions, also the labels), `few` (all
annotations of the share) and `all`. Run again, it goes on. `nemf match` and `nemf evaluate --compare` say how good the
checkpoints are that it lists.
"""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from jobs import match, prepare, pseudo_label, train
from jobs.command import Names, run_command
from jobs.recipe import run_stage
from jobs.recipes.self_training import self_training
from jobs.recipes.stages import RecipeOptions, Stage
from pipeline.io.uri_field import LocalPath

PARTS = ("self-training", "few", "all")


@dataclass(frozen=True, kw_only=True)
class Config:
    """The data, the sizes of the trainings, and the folder for all that is made."""

    animal_pose: LocalPath
    """Folder with train.parquet and val.parquet."""
    out: LocalPath
    weights: LocalPath | None = None
    """Weights of timm's mobilenetv1_100; default: the library's own."""
    share: float = 0.2
    """Share of the training images that is annotated, of which a fifth is for calibration."""
    unlabelled_pairs: int = 2000
    """Pairs to label, a fifth of them of each category."""
    precisions: tuple[float, ...] = (0.8,)
    """Expected precisions of the labels."""
    steps: int = 1500
    """Steps of the descriptors' training."""
    field_steps: int = 60
    """Steps of the field's training."""
    image_size: int = 160
    parts: Names = PARTS
    """What to train, of self-training, few and all."""


def run(config: Config) -> list[str]:
    """Train; returns the checkpoint folders."""
    out = Path(config.out).resolve()
    _make_manifests(config, out)
    options = RecipeOptions(data=out, out=out / "self-training", weights=config.weights, threads=1, bfloat16=True)
    stages = [_shortened(stage, config) for stage in self_training(options)]
    by_part = {
        "self-training": [*stages[:-3], *(s for p in config.precisions for s in _last_round(stages, p))],
        **{name: _supervised(stages, name, out) for name in ("few", "all")},
    }
    checkpoints = []
    for part in config.parts:
        for stage in by_part[part]:
            print(f"{part}: {stage.out}", flush=True)
            run_stage(stage)
            checkpoints += [f"{stage.out}/checkpoint"] * (Path(stage.out).name == "field")
    print("\n".join(checkpoints))
    return checkpoints


def _make_manifests(config: Config, out: Path) -> None:
    """The manifests that the recipe reads, and few.parquet and all.parquet, in `out`."""
    images = pq.read_table(Path(config.animal_pose) / "train.parquet")
    order = sorted(range(images.num_rows), key=lambda row: _hash(images["image_id"][row].as_py()))
    n_few = round(config.share * len(order))
    few, unlabelled = order[:n_few], order[n_few:]
    parts = {
        "labelled": (few[n_few // 5 :], 4000),
        "calibration": (few[: n_few // 5], 120),
        "few": (few, 4000),
        "unlabelled": (unlabelled, config.unlabelled_pairs // 5),
        "all": (order, 4000),
    }
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for name, (rows, _) in parts.items():
        if not (folder / f"{name}.parquet").exists():
            pq.write_table(images.take(pa.array(sorted(rows))), folder / f"{name}.parquet", row_group_size=64)
    for name, pairs_per_category in {**{name: n for name, (_, n) in parts.items()}, "val": 100}.items():
        root = config.animal_pose if name == "val" else str(folder)
        options = {"split": name, "pairs_per_category": pairs_per_category, "out": str(out / f"{name}.parquet")}
        run_stage(prepare.make_config("animal-pose", root=root, **options))


def _hash(image_id: object) -> str:
    return hashlib.sha256(str(image_id).encode()).hexdigest()


def _shortened(stage: Stage, config: Config) -> Stage:
    """The stage with the steps of `config`; a match with one worker."""
    if isinstance(stage, match.Config):
        return replace(stage, workers=(1, 1))
    if not isinstance(stage, train.Config):
        return stage
    is_field = Path(stage.out).name == "field"
    steps = config.field_steps if is_field else config.steps
    trainer = replace(stage.trainer, steps=steps, warmup_steps=steps // 20)
    return replace(stage, trainer=trainer, image_size=config.image_size, validate_every=max(steps // 2, 1))


def _last_round(stages: Sequence[Stage], precision: float) -> list[Stage]:
    """The labels and the trainings of the recipe's last round, for labels of this precision."""
    labels, descriptors, field = stages[-3:]
    assert isinstance(labels, pseudo_label.Config)
    assert isinstance(descriptors, train.Config)
    assert isinstance(field, train.Config)
    chosen = replace(labels, precision=precision, out=labels.out.replace(".parquet", f"-{precision}.parquet"))
    pairs, folder = (descriptors.pairs[0], chosen.out), str(Path(descriptors.out).parent) + f"-{precision}"
    first = replace(descriptors, pairs=pairs, out=f"{folder}/descriptors")
    return [chosen, first, replace(field, pairs=pairs, start=f"{first.out}/checkpoint", out=f"{folder}/field")]


def _supervised(stages: Sequence[Stage], name: str, out: Path) -> list[Stage]:
    """The first round's trainings on the manifest of this name alone."""
    descriptors, field = (stage for stage in stages[:2] if isinstance(stage, train.Config))
    pairs = (str(out / f"{name}.parquet"),)
    first = replace(descriptors, pairs=pairs, out=str(out / name / "descriptors"))
    start = f"{first.out}/checkpoint"
    return [first, replace(field, pairs=pairs, start=start, out=str(out / name / "field"))]


def main(argv: Sequence[str] | None = None) -> int:
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
