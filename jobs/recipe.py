"""Run a whole training by its name, from data sets to a checkpoint.

    nemf recipe nemf-small --data data --out runs/nemf-small --weights mobilenetv1_100.safetensors

All but the paper's recipes read two folders, which docs/training.md says where to get:

    data/animal-pose/keypoints.json     Animal-Pose as published: its annotations,
    data/animal-pose/images/            and its photographs
    data/photographs/                   a thousand photographs or more, of anything, as image files or in Parquet

The paper's read data/SPair-71k or data/PF-PASCAL; self-training reads four manifests, which its docstring names.
`nemf prepare` makes manifests of these, `nemf train` and `nemf distil` the networks, each in OUT. The recipes are
functions of jobs/recipes, whose docstrings state the cost. Existing manifests and calibrations are kept, and every
run resumes: run the same command again after any interruption.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from jobs import calibrate, distil, prepare, pseudo_label, train
from jobs import match as matching
from jobs.command import run_command
from jobs.recipes.stages import RecipeOptions, Stage
from jobs.recipes.table import RECIPES
from pipeline.io.uri_field import LocalPath, Uri


@dataclass(frozen=True, kw_only=True)
class Config:
    """Name of the recipe, its folders and hardware."""

    name: tyro.conf.Positional[str]
    """nemf-small, nemf-mobilenet, nemf-mobilenet-decoder, nemf-dinov2-base, nemf-dinov3-base, self-training,
    ablation-raw, ablation-convolution, ablation-attention, ablation-both, pmnc-small, ablation-pmnc-patch-1 (-3, -7),
    lpmflow-small, ablation-lpmflow-encoder (-upsampler, -integration, -window-16, -window-4, -contrast), comparison,
    paper-spair or paper-pf-pascal."""
    data: Uri
    """Folder of the data sets."""
    out: Uri
    """Folder for manifests and runs."""
    weights: LocalPath | None = None
    """Local safetensors file of weights, as timm or torchvision publish them; default: the library's own."""
    threads: int = 1
    """Computing threads."""
    workers: int = 1
    """Processes that share each batch of the paper's recipes and of the vision transformers', one per GPU."""
    bfloat16: bool = True
    """Mixed precision: faster on GPUs, and on CPUs that multiply bfloat16 (AMX)."""


def run(config: Config) -> str:
    """Run the stages, and return the run folder of the last. Raises as the jobs do."""
    if config.name not in RECIPES:
        raise ValueError(f"there is no recipe {config.name!r}; there are: {', '.join(RECIPES)}")
    options = RecipeOptions(
        data=Path(config.data).resolve(),
        out=Path(config.out).resolve(),
        weights=config.weights and str(Path(config.weights).resolve()),
        threads=config.threads,
        bfloat16=config.bfloat16,
        workers=config.workers,
    )
    stages = RECIPES[config.name](options)
    for number, stage in enumerate(stages, 1):
        print(f"stage {number} of {len(stages)}: {stage.out}", flush=True)
        run_stage(stage)
    return stages[-1].out


def run_stage(stage: Stage) -> None:
    """Run a stage; a file that is there already is kept, and a folder is continued."""
    match stage:
        case prepare.Config() | calibrate.Config() | pseudo_label.Config() if Path(stage.out).exists():
            return
        case prepare.Config():
            prepare.run(stage)
        case calibrate.Config():
            calibrate.run(stage)
        case pseudo_label.Config():
            pseudo_label.run(stage)
        case matching.Config():
            matching.run(stage)
        case distil.Config():
            distil.run(stage)
        case train.Config():
            train.run(stage)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
