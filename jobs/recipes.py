"""Recipes: whole trainings as configurations, stage by stage. `nemf recipe NAME` runs one.

Each docstring states the data needed, the cost and the result; docs/training.md, where the data are from and the
commands of each stage. A stage is the Config of a job.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeAlias

from jobs import calibrate, distil, match, prepare, pseudo_label, train
from nemf import pretrained
from nemf.model.presets import CostFeatureKind
from nemf.search.config import as_options
from nemf.training.config import DistillerConfig, LossConfig, TrainerConfig

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


def nemf_small(options: RecipeOptions) -> list[Stage]:
    """The network that ships: nemf_mobilenet with its backbone distilled into one from random weights, then trained on.

    The backbone is distilled twice: from the first descriptors of nemf_mobilenet, then from the second ones, with
    nearly half its photographs from ImageNet. The field is initialised at the correlation of its own descriptors.

    Needs: data/animal-pose, data/photographs and weights of timm's mobilenetv1_100, which are not part of the result.
    Cost: docs/measured.md. Result: its model card.
    """
    of_teacher, out = replace(options, out=options.out / "teacher"), options.out
    *manifests, teacher, better_teacher, _, _ = nemf_mobilenet(of_teacher)
    imagenet, animals = _photographs(of_teacher).out, _animals(of_teacher)
    distilled = distil.Config(
        photographs=(imagenet, animals),
        out=str(out / "distilled"),
        teacher=f"{teacher.out}/checkpoint",
        student="nemf-small",
        distiller=DistillerConfig(steps=3000, warmup_steps=100, bfloat16=options.bfloat16),
        threads=options.threads,
    )
    again = replace(
        distilled,
        photographs=(imagenet, imagenet, imagenet, animals),
        out=str(out / "distilled-again"),
        teacher=f"{better_teacher.out}/checkpoint",
        student=f"{distilled.out}/checkpoint",
        distiller=replace(distilled.distiller, steps=2500),
    )
    descriptors = _descriptors(of_teacher, f"{again.out}/checkpoint")
    descriptors = replace(
        descriptors,
        out=str(out / "descriptors"),
        trainer=replace(descriptors.trainer, lr=3e-4, backbone_lr=3e-4, steps=1500),
        warp_share=0.4,
        validate_every=500,
    )
    field = replace(_field(of_teacher, descriptors), out=str(out / "field"))
    return [*manifests, teacher, better_teacher, distilled, again, descriptors, field]


def nemf_mobilenet(options: RecipeOptions) -> list[Stage]:
    """MobileNetV1 with its ImageNet weights, fine-tuned.

    The descriptors are trained three times, each from the result of the last: the rate falls along three cosines. The
    last training is short, on larger images, with a larger share of warped photographs.

    Needs: data/animal-pose, data/photographs and weights of timm's mobilenetv1_100.
    """
    descriptors = replace(_descriptors(options, "nemf-mobilenet"), backbone_weights=options.weights)
    again = replace(_descriptors(options, f"{descriptors.out}/checkpoint"), out=f"{descriptors.out}-again")
    larger = replace(
        again,
        start=f"{again.out}/checkpoint",
        out=f"{descriptors.out}-larger",
        image_size=320,
        trainer=replace(again.trainer, lr=5e-4, backbone_lr=1e-4, steps=1200, warmup_steps=50, seed=1),
        warp_share=0.4,
        validate_every=400,
    )
    return [*_manifests(options), descriptors, again, larger, _field(options, larger)]


def ablation(kind: CostFeatureKind) -> Recipe:
    """Table 3 of the paper: the field on other cost features, behind the first descriptors of `nemf_mobilenet`.

    It uses the descriptors in OUT if that recipe has run there before. Fewer steps than there, the same for all
    variants: a step with a transformer takes 3 s on one CPU core.
    """

    def recipe(options: RecipeOptions) -> list[Stage]:
        *before, descriptors, _, _, _ = nemf_mobilenet(options)
        assert isinstance(descriptors, train.Config)
        field = _field(options, descriptors)
        variant = replace(
            field,
            out=str(options.out / f"field-{kind}"),
            cost_features=kind,
            trainer=replace(field.trainer, steps=300, warmup_steps=30),
            warp_share=0.2,
            validation_pairs=100,
            validate_every=300,
        )
        return [*before, descriptors, variant]

    return recipe


def paper_spair(options: RecipeOptions) -> list[Stage]:
    """The published training for SPair-71k: ResNet-101, frozen, both losses, AdamW at 3e-5, negatives all random.

    Needs: data/SPair-71k and weights of torchvision's resnet101. Not run here: the paper reports PCK@.1 53.6 (protocol
    nemf); on the CPU of docs/measured.md a step of 8 pairs takes minutes, so it needs GPUs (--workers).
    The paper does not give steps and batch size; these are ours: about 15 epochs.
    """
    return _paper(options, dataset="spair", root="SPair-71k", training="trn", protocol="nemf", steps=100_000)


def paper_pf_pascal(options: RecipeOptions) -> list[Stage]:
    """The published training for PF-PASCAL; the paper measures its network on PF-WILLOW too.

    Needs: data/PF-PASCAL and weights of torchvision's resnet101. Not run here: the paper reports PCK@.1 93.6 (protocol
    pf-pascal), on PF-WILLOW 75.0 (pf-willow-bbox-kp). Steps and batch size are ours: about 50 epochs.
    """
    return _paper(options, dataset="pf-pascal", root="PF-PASCAL", training="train", protocol="pf-pascal", steps=18_000)


def lpmflow(start: str, contrast_weight: float = LossConfig().contrast_weight) -> Recipe:
    """LPMFlow on four-legged animals, from the correlation of its backbone's features on.

    start: a preset of nemf.lpmflow.presets. The variants are rows of the authors' table of modules, each without the
    module of its name; ablation-lpmflow-contrast is without the loss that replaces tokens.
    Needs: data/animal-pose, data/photographs and weights of the preset's backbone. Result: none measured yet.
    """

    def recipe(options: RecipeOptions) -> list[Stage]:
        descriptors = _descriptors(options, start)
        losses = LossConfig(contrast_weight=contrast_weight)
        trained = replace(
            descriptors,
            backbone_weights=options.weights,
            out=str(options.out / start),
            image_size=None,
            trainer=replace(descriptors.trainer, lr=3e-4, backbone_lr=1e-4, loss=losses),
        )
        return [*_manifests(options), trained]

    return recipe


def pmnc(start: str) -> Recipe:
    """PMNC, scorer and features together, by the paper's proxy: on four-legged animals, as nemf_mobilenet.

    start: a preset of nemf.pmnc.presets. The variants are its ablation of the patch; that of the iterations needs no
    training: FOLDER?iterations=1.
    Needs: data/animal-pose, data/photographs and weights of the preset's backbone. Result: none measured yet.
    """

    def recipe(options: RecipeOptions) -> list[Stage]:
        descriptors = _descriptors(options, start)
        trained = replace(
            descriptors,
            backbone_weights=options.weights,
            out=str(options.out / start),
            trainer=replace(descriptors.trainer, steps=4000, loss=LossConfig()),
        )
        return [*_manifests(options), trained]

    return recipe


def comparison(steps: int = 4000) -> Recipe:
    """NeMF, PMNC and LPMFlow alike: from one backbone's weights, on the same data, by as many steps of 4 pairs each.

    All see images of 256 pixels a side, and each has the rates of its own recipe. NeMF's steps are those of its
    descriptors and, the last quarter, of its field. `python -m benchmarks.comparison` measures the results.

    Needs: data/animal-pose, data/photographs and weights of timm's mobilenetv1_100. Cost, result: docs/results.md.
    """

    def recipe(options: RecipeOptions) -> list[Stage]:
        *manifests, of_pmnc = pmnc("pmnc-small")(options)
        of_lpmflow = lpmflow("lpmflow-small")(options)[-1]
        of_nemf = replace(options, out=options.out / "nemf-mobilenet")
        descriptors = replace(
            _descriptors(options, "nemf-mobilenet"),
            backbone_weights=options.weights,
            out=str(of_nemf.out / "descriptors"),
        )
        field_steps = steps // 4
        trainings = [
            (descriptors, steps - field_steps),
            (_field(of_nemf, descriptors), field_steps),
            (of_pmnc, steps),
            (of_lpmflow, steps),
        ]
        return [*manifests, *(_alike(stage, n_steps) for stage, n_steps in trainings)]

    return recipe


def _alike(stage: Stage, steps: int) -> train.Config:
    assert isinstance(stage, train.Config)
    return replace(
        stage,
        trainer=replace(stage.trainer, steps=steps, warmup_steps=steps // 20),
        batch_size=4,
        validation_pairs=100,
        validate_every=max(steps // 4, 1),
    )


def self_training(options: RecipeOptions) -> list[Stage]:
    """A network trained on its own labels: on a few annotated pairs, then on these and on what it finds in others.

    Each of ROUNDS rounds trains nemf_mobilenet's descriptors and field anew, on the annotated pairs and on the labels
    of the round before, weighted by their probability. What is kept of the matches is expected to be right to 80 %, as
    pairs say that neither training nor validation has seen.

    Needs manifests: data/labelled.parquet, to train on; data/calibration.parquet, annotated pairs of other images;
    data/unlabelled.parquet, pairs whose keypoints, if any, are not read; data/val.parquet, to choose checkpoints by;
    and weights of timm's mobilenetv1_100. Cost: two trainings of nemf_mobilenet's first descriptors and field a round,
    and a match of the unlabelled pairs.
    """
    manifest = {
        name: str(options.data / f"{name}.parquet") for name in ("labelled", "calibration", "unlabelled", "val")
    }
    stages: list[Stage] = []
    labels: tuple[str, ...] = ()
    for number in range(ROUNDS + 1):
        of_round = replace(options, out=options.out / f"round-{number}")
        descriptors = replace(
            _descriptors(of_round, "nemf-mobilenet"),
            pairs=(manifest["labelled"], *labels),
            photographs=(),
            validation=manifest["val"],
            backbone_weights=options.weights,
        )
        stages += [descriptors, _field(of_round, descriptors)]
        if number < ROUNDS:
            labels = (str(of_round.out / "labels.parquet"),)
            stages += _labels(of_round, manifest["calibration"], manifest["unlabelled"], labels[0])
    return stages


ROUNDS = 1
"""Number of times that self_training labels the unlabelled pairs."""


def _labels(options: RecipeOptions, annotated: str, unlabelled: str, labels: str) -> list[Stage]:
    """What makes labels of the unlabelled pairs with the network of OUT/field."""
    known = match.Config(
        pairs=annotated,
        out=str(options.out / "matched-annotated"),
        matcher=f"{options.out}/field/checkpoint",
        outputs=("keypoints", "confidence"),
    )
    found = replace(known, pairs=unlabelled, out=str(options.out / "matched"), points="grid:6")
    calibration = calibrate.Config(matches=known.out, pairs=annotated, out=str(options.out / "calibration.json"))
    labelled = pseudo_label.Config(
        pairs=unlabelled, matches=found.out, calibration=calibration.out, precision=0.8, min_points=3, out=labels
    )
    return [known, calibration, found, labelled]


RECIPES: dict[str, Recipe] = {
    "nemf-small": nemf_small,
    "nemf-mobilenet": nemf_mobilenet,
    "self-training": self_training,
    "ablation-raw": ablation("raw"),
    "ablation-convolution": ablation("convolution"),
    "ablation-attention": ablation("attention"),
    "ablation-both": ablation("both"),
    "lpmflow-small": lpmflow("lpmflow-small"),
    "ablation-lpmflow-encoder": lpmflow("lpmflow-small-no-encoder"),
    "ablation-lpmflow-upsampler": lpmflow("lpmflow-small-no-upsampler"),
    "ablation-lpmflow-integration": lpmflow("lpmflow-small-no-integration"),
    "ablation-lpmflow-window-16": lpmflow("lpmflow-small-no-window-16"),
    "ablation-lpmflow-window-4": lpmflow("lpmflow-small-no-window-4"),
    "ablation-lpmflow-contrast": lpmflow("lpmflow-small", contrast_weight=0.0),
    "pmnc-small": pmnc("pmnc-small"),
    "ablation-pmnc-patch-1": pmnc("pmnc-small-patch-1"),
    "ablation-pmnc-patch-3": pmnc("pmnc-small-patch-3"),
    "ablation-pmnc-patch-7": pmnc("pmnc-small-patch-7"),
    "comparison": comparison(),
    "paper-spair": paper_spair,
    "paper-pf-pascal": paper_pf_pascal,
}


def _manifests(options: RecipeOptions) -> list[Stage]:
    """The manifests train.parquet, val.parquet and imagenet.parquet, and animals.parquet where _animals names it."""
    return [*_animal_pose(options), _photographs(options)]


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
    return [*pairs, prepare.make_config("photographs", root=f"{folder}/train.parquet", out=_animals(options))]


def _animals(options: RecipeOptions) -> str:
    """A manifest whose images are the photographs of Animal-Pose's training part."""
    name = "animals" if _has_parquet(options.data / "animal-pose") else "train"
    return str(options.out / f"{name}.parquet")


def _photographs(options: RecipeOptions) -> prepare.Config:
    """Photographs of anything, as image files or in Parquet: in data/photographs, or else in data/imagenet-1000."""
    folder, out = options.data / "photographs", str(options.out / "imagenet.parquet")
    if not folder.exists() and (options.data / "imagenet-1000").exists():
        folder = options.data / "imagenet-1000"
    if _has_parquet(folder):
        return prepare.make_config("photographs", root=str(folder), out=out)
    return prepare.make_config("folder", root=str(folder), pairing="sequential", out=out)


def _has_parquet(folder: Path) -> bool:
    return any(folder.glob("*.parquet"))


def _descriptors(options: RecipeOptions, start: str) -> train.Config:
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


def _field(options: RecipeOptions, descriptors: train.Config) -> train.Config:
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


def _paper(options: RecipeOptions, *, dataset: str, root: str, training: str, protocol: str, steps: int) -> list[Stage]:
    manifests = {split: str(options.out / f"{dataset}-{split}.parquet") for split in (training, "val")}
    folder = str(options.data / root)
    prepared = [
        prepare.make_config(dataset, root=folder, split=split, out=manifest) for split, manifest in manifests.items()
    ]
    published = train.Config(
        pairs=(manifests[training],),
        validation=manifests["val"],
        validation_pairs=500,
        protocol=protocol,
        out=str(options.out / "field"),
        start="paper",
        backbone_weights=options.weights,
        trainer=TrainerConfig(steps=steps, lr=3e-5, ema_decay=0.0, loss=LossConfig(hard=0.0, negatives=99)),
        validate_every=2000,
        threads=options.threads,
        workers=options.workers,
    )
    return [*prepared, published]
