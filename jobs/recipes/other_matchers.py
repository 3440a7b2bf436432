"""Recipes of LPMFlow and PMNC, and of the comparison of both with NeMF."""

from dataclasses import replace

from jobs import train
from jobs.recipes.stages import Recipe, RecipeOptions, Stage, descriptors_stage, field_stage, manifest_stages
from nemf.training.config import LossConfig


def lpmflow(start: str, contrast_weight: float = LossConfig().contrast_weight) -> Recipe:
    """LPMFlow on four-legged animals: the tokens of its backbone first, by the descriptor loss, then all of it.

    start: a preset of nemf.lpmflow.presets. The variants are rows of the authors' table of modules, each without the
    module of its name; ablation-lpmflow-contrast is without the loss that replaces tokens.
    Needs: data/animal-pose, data/photographs and weights of the preset's backbone. Result: docs/results.md.
    """

    def recipe(options: RecipeOptions) -> list[Stage]:
        descriptors = replace(
            descriptors_stage(options, start),
            backbone_weights=options.weights,
            out=str(options.out / start / "descriptors"),
            image_size=None,
        )
        trained = replace(
            descriptors,
            start=f"{descriptors.out}/checkpoint",
            backbone_weights=None,
            out=str(options.out / start / "flow"),
            trainer=replace(
                descriptors.trainer, lr=2e-4, backbone_lr=5e-5, loss=LossConfig(contrast_weight=contrast_weight)
            ),
            batch_size=4,
        )
        return [*manifest_stages(options), descriptors, trained]

    return recipe


def pmnc(start: str) -> Recipe:
    """PMNC, scorer and features together, by the paper's proxy: on four-legged animals, as nemf_mobilenet.

    start: a preset of nemf.pmnc.presets. The variants are its ablation of the patch; that of the iterations needs no
    training: FOLDER?iterations=1.
    Needs: data/animal-pose, data/photographs and weights of the preset's backbone. Result: docs/results.md.
    """

    def recipe(options: RecipeOptions) -> list[Stage]:
        descriptors = descriptors_stage(options, start)
        trained = replace(
            descriptors,
            backbone_weights=options.weights,
            out=str(options.out / start),
            trainer=replace(descriptors.trainer, steps=4000, loss=LossConfig()),
        )
        return [*manifest_stages(options), trained]

    return recipe


def comparison(steps: int = 4000) -> Recipe:
    """NeMF, PMNC and LPMFlow alike: from one backbone's weights, on the same data, by as many steps of 4 pairs each.

    All see images of 256 pixels a side, and each has the rates of its own recipe. NeMF's steps are those of its
    descriptors and, the last quarter, of its field, LPMFlow's those of its tokens and, the second half, of all of it.
    `python -m benchmarks.comparison` measures the results.

    Needs: data/animal-pose, data/photographs and weights of timm's mobilenetv1_100. Cost, result: docs/results.md.
    """

    def recipe(options: RecipeOptions) -> list[Stage]:
        *manifests, of_pmnc = pmnc("pmnc-small")(options)
        *_, tokens, flow = lpmflow("lpmflow-small")(options)
        of_nemf = replace(options, out=options.out / "nemf-mobilenet")
        descriptors = replace(
            descriptors_stage(options, "nemf-mobilenet"),
            backbone_weights=options.weights,
            out=str(of_nemf.out / "descriptors"),
        )
        field_steps, flow_steps = steps // 4, steps // 2
        trainings = [
            (descriptors, steps - field_steps),
            (field_stage(of_nemf, descriptors), field_steps),
            (of_pmnc, steps),
            (tokens, steps - flow_steps),
            (flow, flow_steps),
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
