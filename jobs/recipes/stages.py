"""What recipes are made of: their options, and the stages that several share."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from jobs import calibrate, distil, match, prepare, pseudo_label, train
from nemf import pretrained
from nemf.search.config import as_options
from nemf.training.config import LossConfig, TrainerConfig

Stage: TypeAlias = prepare.Config | distil.Config | train.Config | match.Config | calibrate.Config | pseudo_label.Config


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Folders and hardware of a recipe."""

    data: Path
    """Folder of the data sets."""
    out: Path
    """Folder for manifests and runs."""
    weights: str | None
    """Local safetensors file of weights, as timm or torchvision publish them; None for the library's own."""
    threads: int
    """Computing threads."""
    bfloat16: bool
    """Mixed precision; the paper's recipes do not use it."""
    workers: int = 1
    """Processes that share each batch of the paper's recipes, one per GPU."""


Recipe: TypeAlias = Callable[[RecipeOptions], list[Stage]]


def manifest_stages(options: RecipeOptions) -> list[Stage]:
    """The manifests train, val and imagenet.parquet, and animals.parquet where animals_manifest names it."""
    return [*_animal_pose(options), photographs_stage(options)]


def _animal_pose(options: RecipeOptions) -> list[Stage]:
    """Pairs of Animal-Pose: of keypoints.json and images/, as published, or of train.parquet and val.parquet."""
    folder, out = options.data / "animal-pose", options.out
    numbers = {"train": 4000, "val": 100}
    if not _has_parquet(folder):
        return [
            prepare.make_config(
                "coco",
                root=str(folder / "images"),
                annotations=str(folder / "keypoints.json"),
                split=split,
                pairs_per_category=pairs_per_category,
                on_error="skip",
                out=str(out / f"{split}.parquet"),
            )
            for split, pairs_per_category in numbers.items()
        ]
    pairs = [
        prepare.make_config(
            "animal-pose",
            root=str(folder),
            split=split,
            pairs_per_category=pairs_per_category,
            out=str(out / f"{split}.parquet"),
        )
        for split, pairs_per_category in numbers.items()
    ]
    return [*pairs, prepare.make_config("photographs", root=f"{folder}/train.parquet", out=animals_manifest(options))]


def animals_manifest(options: RecipeOptions) -> str:
    """A manifest whose images are the photographs of Animal-Pose's training part."""
    name = "animals" if _has_parquet(options.data / "animal-pose") else "train"
    return str(options.out / f"{name}.parquet")


def photographs_stage(options: RecipeOptions) -> prepare.Config:
    """Photographs of anything, as image files or in Parquet: in data/photographs, or else in data/imagenet-1000."""
    folder, out = options.data / "photographs", str(options.out / "imagenet.parquet")
    if not folder.exists() and (options.data / "imagenet-1000").exists():
        folder = options.data / "imagenet-1000"
    if _has_parquet(folder):
        return prepare.make_config("photographs", root=str(folder), out=out)
    return prepare.make_config("folder", root=str(folder), pairing="sequential", out=out)


def _has_parquet(folder: Path) -> bool:
    return any(folder.glob("*.parquet"))


def descriptors_stage(options: RecipeOptions, start: str) -> train.Config:
    """Training of backbone and neck by the descriptor loss alone, on small images, which are fast."""
    return train.Config(
        pairs=(str(options.out / "train.parquet"),),
        photographs=(str(options.out / "imagenet.parquet"),),
        validation=str(options.out / "val.parquet"),
        out=str(options.out / "descriptors"),
        start=start,
        names_across_categories=True,
        image_size=256,
        trainer=TrainerConfig(
            steps=4000,
            lr=1e-3,
            backbone_lr=2e-4,
            warmup_steps=100,
            final_lr_share=0.02,
            ema_decay=0.99,
            bfloat16=options.bfloat16,
            loss=LossConfig(field_weight=0.0, flow_weight=0.0, descriptor_weight=1.0),
        ),
        warp_share=0.2,
        validation_pairs=500,
        validate_every=1000,
        threads=options.threads,
    )


def field_stage(options: RecipeOptions, descriptors: train.Config) -> train.Config:
    """Training of the field, and of the cost encoder if it has weights, on frozen descriptors.

    Images, rate and seed are those of the descriptors' training.
    """
    return replace(
        descriptors,
        start=f"{descriptors.out}/checkpoint",
        backbone_weights=None,
        out=str(options.out / "field"),
        trainer=replace(descriptors.trainer, backbone_lr=None, steps=200, warmup_steps=50, loss=LossConfig()),
        batch_size=4,
        warp_share=0.5,
        validate_every=200,
        search=as_options(pretrained.search_settings("nemf-small")),
    )
