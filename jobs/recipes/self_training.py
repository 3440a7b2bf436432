"""The recipe of a network that learns from its own labels."""

from dataclasses import replace

from jobs import calibrate, match, pseudo_label
from jobs.recipes.stages import RecipeOptions, Stage, descriptors_stage, field_stage


def self_training(options: RecipeOptions) -> list[Stage]:
    """A network trained on its own labels: on a few annotated pairs, then on these and on what it finds in others.

    Each of ROUNDS rounds trains nemf_mobilenet's descriptors and field anew, on the annotated pairs and on the labels
    of the round before, weighted by their probability. What is kept of the matches is expected to be right to 80 %, as
    pairs say that neither training nor validation has seen; where the network has no labels as good, the recipe ends
    with an error that says how good they are. Worse labels do harm: docs/pseudo-labels.md.

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
            descriptors_stage(of_round, "nemf-mobilenet"),
            pairs=(manifest["labelled"], *labels),
            photographs=(),
            validation=manifest["val"],
            backbone_weights=options.weights,
        )
        stages += [descriptors, field_stage(of_round, descriptors)]
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
