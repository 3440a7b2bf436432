"""Recipes: whole trainings as configurations, stage by stage. `python -m jobs.recipe NAME` runs one.

Each says what it needs, what it costs and what comes out. A stage is the Config of a job.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from jobs import distil, prepare, train
from nemf import pretrained
from nemf.model.presets import CostFeatureKind
from nemf.search.config import as_options

Stage: TypeAlias = prepare.Config | distil.Config | train.Config


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    """Where a recipe finds its data and leaves its folders."""

    data: Path
    """Folder of the data sets."""
    out: Path
    """Folder for manifests and runs."""
    weights: str | None
    """Local safetensors file of ImageNet weights, with a .json beside it; None for the library's own."""
    threads: int
    """Threads to compute with."""
    bfloat16: bool
    """Mixed precision; the paper's recipes do without."""
    workers: int = 1
    """Processes that share the work of the paper's recipes, one per GPU."""


Recipe: TypeAlias = Callable[[RecipeOptions], list[Stage]]


def nemf_small(options: RecipeOptions) -> list[Stage]:
    """The network that ships: nemf_mobilenet, given a backbone from random weights and trained on.

    Its backbone learns twice: from the first descriptors of nemf_mobilenet, then from the second ones and with nearly
    half its photographs from ImageNet. Its field starts at the correlation of its own descriptors.

    Needs: data/animal-pose (train.parquet, val.parquet), data/imagenet-1000 (images.parquet), and weights of timm's
    mobilenetv1_100, of which nothing is in the result. Cost: README.md, Training. Result: its model card.
    """
    of_teacher, out = replace(options, out=options.out / "teacher"), options.out
    *manifests, teacher, better_teacher, _, _ = nemf_mobilenet(of_teacher)
    imagenet, animals = str(of_teacher.out / "imagenet.parquet"), str(of_teacher.out / "animals.parquet")
    distilled = distil.Config(
        photographs=(imagenet, animals),
        out=str(out / "distilled"),
        teacher=f"{teacher.out}/checkpoint",
        student="nemf-small",
        steps=3000,
        warmup_steps=100,
        bfloat16=options.bfloat16,
        threads=options.threads,
    )
    again = replace(
        distilled,
        photographs=(imagenet, imagenet, imagenet, animals),
        out=str(out / "distilled-again"),
        teacher=f"{better_teacher.out}/checkpoint",
        student=f"{distilled.out}/checkpoint",
        steps=2500,
    )
    descriptors = replace(
        _descriptors(of_teacher, f"{again.out}/checkpoint"),
        out=str(out / "descriptors"),
        lr=3e-4,
        backbone_lr=3e-4,
        steps=1500,
        warp_share=0.4,
        validate_every=500,
    )
    field = replace(_field(of_teacher, descriptors), out=str(out / "field"))
    return [*manifests, teacher, better_teacher, distilled, again, descriptors, field]


def nemf_mobilenet(options: RecipeOptions) -> list[Stage]:
    """MobileNetV1 with its ImageNet weights, fine-tuned: how good the head is when the backbone is real.

    Its descriptors are trained three times, each time from where the last left them: the rate falls along three
    cosines. The last time is short, on larger images, and on more photographs of no animals.

    Needs: data/animal-pose, data/imagenet-1000 and weights of timm's mobilenetv1_100.
    """
    descriptors = replace(_descriptors(options, "nemf-mobilenet"), backbone_weights=options.weights)
    again = replace(_descriptors(options, f"{descriptors.out}/checkpoint"), out=f"{descriptors.out}-again")
    larger = replace(
        again,
        start=f"{again.out}/checkpoint",
        out=f"{descriptors.out}-larger",
        image_size=320,
        lr=5e-4,
        backbone_lr=1e-4,
        steps=1200,
        warmup_steps=50,
        warp_share=0.4,
        validate_every=400,
        seed=1,
    )
    return [*_manifests(options), descriptors, again, larger, _field(options, larger)]


def ablation(kind: CostFeatureKind) -> Recipe:
    """Table 3 of the paper: the field on other cost features, behind the first descriptors of `nemf_mobilenet`.

    It goes on from the descriptors in OUT, where that recipe has run before.

    Fewer steps than there, the same for all variants: a step with a transformer takes 3 s on one CPU core.
    """

    def recipe(options: RecipeOptions) -> list[Stage]:
        *before, descriptors, _, _, _ = nemf_mobilenet(options)
        assert isinstance(descriptors, train.Config)
        variant = replace(
            _field(options, descriptors),
            out=str(options.out / f"field-{kind}"),
            cost_features=kind,
            steps=300,
            warmup_steps=30,
            warp_share=0.2,
            validation_pairs=100,
            validate_every=300,
        )
        return [*before, descriptors, variant]

    return recipe


def paper_spair(options: RecipeOptions) -> list[Stage]:
    """The published training for SPair-71k: ResNet-101, frozen, both losses, AdamW at 3e-5, negatives all random.

    Needs: data/SPair-71k and weights of torchvision's resnet101. Not run here: the paper reports PCK@.1 53.6 (protocol
    nemf); on the CPU of the README's tables a step of 8 pairs takes minutes, so it wants GPUs (--workers).
    The paper does not tell steps and batch size; these are ours: about 15 times through the training pairs.
    """
    return _paper(options, dataset="spair", root="SPair-71k", training="trn", protocol="nemf", steps=100_000)


def paper_pf_pascal(options: RecipeOptions) -> list[Stage]:
    """The published training for PF-PASCAL, whose network the paper also measures on PF-WILLOW.

    Needs: data/PF-PASCAL and weights of torchvision's resnet101. Not run here: the paper reports PCK@.1 93.6 (protocol
    pf-pascal), on PF-WILLOW 75.0 (pf-willow-bbox-kp). Steps and batch size are ours: about 50 times through.
    """
    return _paper(options, dataset="pf-pascal", root="PF-PASCAL", training="train", protocol="pf-pascal", steps=18_000)


RECIPES: dict[str, Recipe] = {
    "nemf-small": nemf_small,
    "nemf-mobilenet": nemf_mobilenet,
    "ablation-raw": ablation("raw"),
    "ablation-convolution": ablation("convolution"),
    "ablation-attention": ablation("attention"),
    "ablation-both": ablation("both"),
    "paper-spair": paper_spair,
    "paper-pf-pascal": paper_pf_pascal,
}


def _manifests(options: RecipeOptions) -> list[Stage]:
    animals, out = str(options.data / "animal-pose"), options.out
    return [
        prepare.Config(
            dataset="animal-pose", root=animals, split="train", pairs_per_category=4000, out=str(out / "train.parquet")
        ),
        prepare.Config(
            dataset="animal-pose", root=animals, split="val", pairs_per_category=100, out=str(out / "val.parquet")
        ),
        prepare.Config(dataset="photographs", root=f"{animals}/train.parquet", out=str(out / "animals.parquet")),
        prepare.Config(
            dataset="photographs", root=str(options.data / "imagenet-1000"), out=str(out / "imagenet.parquet")
        ),
    ]


def _descriptors(options: RecipeOptions, start: str) -> train.Config:
    """Backbone and neck learn to match by their descriptors alone, on small images, which are fast."""
    return train.Config(
        pairs=(str(options.out / "train.parquet"),),
        photographs=(str(options.out / "imagenet.parquet"),),
        validation=str(options.out / "val.parquet"),
        out=str(options.out / "descriptors"),
        start=start,
        names_across_categories=True,
        field_weight=0.0,
        flow_weight=0.0,
        descriptor_weight=1.0,
        image_size=256,
        lr=1e-3,
        backbone_lr=2e-4,
        steps=4000,
        warmup_steps=100,
        final_lr_share=0.02,
        ema_decay=0.99,
        warp_share=0.2,
        validation_pairs=500,
        validate_every=1000,
        bfloat16=options.bfloat16,
        threads=options.threads,
    )


def _field(options: RecipeOptions, descriptors: train.Config) -> train.Config:
    """The field learns, and the cost encoder if it has weights, on descriptors that stay as they are.

    Images, rate and seed are those that the descriptors had last.
    """
    return replace(
        descriptors,
        start=f"{descriptors.out}/checkpoint",
        backbone_weights=None,
        out=str(options.out / "field"),
        field_weight=1.0,
        flow_weight=1.0,
        descriptor_weight=0.0,
        backbone_lr=None,
        batch_size=4,
        steps=200,
        warmup_steps=50,
        warp_share=0.5,
        validate_every=200,
        search=as_options(pretrained.search_settings("nemf-small")),
    )


def _paper(options: RecipeOptions, *, dataset: str, root: str, training: str, protocol: str, steps: int) -> list[Stage]:
    manifests = {split: str(options.out / f"{dataset}-{split}.parquet") for split in (training, "val")}
    folder = str(options.data / root)
    prepared = [
        prepare.Config(dataset=dataset, root=folder, split=split, out=manifest) for split, manifest in manifests.items()
    ]
    published = train.Config(
        pairs=(manifests[training],),
        validation=manifests["val"],
        validation_pairs=500,
        protocol=protocol,
        out=str(options.out / "field"),
        start="paper",
        backbone_weights=options.weights,
        steps=steps,
        lr=3e-5,
        hard=0.0,
        negatives=99,
        ema_decay=0.0,
        validate_every=2000,
        threads=options.threads,
        workers=options.workers,
    )
    return [*prepared, published]
