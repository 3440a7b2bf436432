"""Recipes of NeMF: the network that ships, its teacher, and the paper's ablation of the cost features."""

from dataclasses import replace

from jobs import distil, train
from jobs.recipes.stages import (
    Recipe,
    RecipeOptions,
    Stage,
    animals_manifest,
    descriptors_stage,
    field_stage,
    manifest_stages,
    photographs_stage,
)
from nemf.model.presets import CostFeatureKind
from nemf.training.config import DistillerConfig


def nemf_small(options: RecipeOptions) -> list[Stage]:
    """The network that ships: nemf_mobilenet with its backbone distilled into one from random weights, then trained on.

    The backbone is distilled twice: from the first descriptors of nemf_mobilenet, then from the second ones, with
    nearly half its photographs from ImageNet. Its own descriptors are trained three times: the second time longer and
    faster, the third on larger images. The field is initialised at the correlation of these.

    Needs: data/animal-pose, data/photographs and weights of timm's mobilenetv1_100, which are not part of the result.
    Cost: docs/measured.md. Result: its model card.
    """
    of_teacher, out = replace(options, out=options.out / "teacher"), options.out
    *manifests, teacher, better_teacher, _, _ = nemf_mobilenet(of_teacher)
    imagenet, animals = photographs_stage(of_teacher).out, animals_manifest(of_teacher)
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
    descriptors = descriptors_stage(of_teacher, f"{again.out}/checkpoint")
    descriptors = replace(
        descriptors,
        out=str(out / "descriptors"),
        trainer=replace(descriptors.trainer, lr=3e-4, backbone_lr=3e-4, steps=1500),
        warp_share=0.4,
        validate_every=500,
    )
    longer = replace(
        descriptors,
        start=f"{descriptors.out}/checkpoint",
        out=f"{descriptors.out}-longer",
        trainer=replace(descriptors.trainer, lr=6e-4, backbone_lr=6e-4, steps=4500, warmup_steps=200, ema_decay=0.999),
        warp_share=0.3,
        validate_every=1000,
    )
    larger = replace(
        longer,
        start=f"{longer.out}/checkpoint",
        out=f"{descriptors.out}-larger",
        image_size=320,
        trainer=replace(longer.trainer, steps=5000, warmup_steps=100, seed=1),
        validate_every=2500,
    )
    field = replace(field_stage(of_teacher, larger), out=str(out / "field"))
    return [*manifests, teacher, better_teacher, distilled, again, descriptors, longer, larger, field]


def nemf_mobilenet(options: RecipeOptions) -> list[Stage]:
    """MobileNetV1 with its ImageNet weights, fine-tuned.

    The descriptors are trained three times, each from the result of the last: the rate falls along three cosines. The
    last training is short, on larger images, with a larger share of warped photographs.

    Needs: data/animal-pose, data/photographs and weights of timm's mobilenetv1_100.
    """
    descriptors = replace(descriptors_stage(options, "nemf-mobilenet"), backbone_weights=options.weights)
    again = replace(descriptors_stage(options, f"{descriptors.out}/checkpoint"), out=f"{descriptors.out}-again")
    larger = replace(
        again,
        start=f"{again.out}/checkpoint",
        out=f"{descriptors.out}-larger",
        image_size=320,
        trainer=replace(again.trainer, lr=5e-4, backbone_lr=1e-4, steps=1200, warmup_steps=50, seed=1),
        warp_share=0.4,
        validate_every=400,
    )
    return [*manifest_stages(options), descriptors, again, larger, field_stage(options, larger)]


def nemf_mobilenet_decoder(options: RecipeOptions) -> list[Stage]:
    """The descriptors of nemf_mobilenet, decoded at any coordinate: nemf.model.descriptor_decoder. No field.

    Needs: data/animal-pose, data/photographs and weights of timm's mobilenetv1_100. Match with descriptors:CHECKPOINT.
    Cost: steps of 2.3 (160 px) to 3.6 times (192 px) the processor time of nemf_mobilenet's first stage. Result: it was
    never run whole; after 300 steps it is no better than that stage, docs/matchers.md.
    """
    descriptors = descriptors_stage(options, "nemf-mobilenet-decoder")
    return [*manifest_stages(options), replace(descriptors, backbone_weights=options.weights)]


def ablation(kind: CostFeatureKind) -> Recipe:
    """Table 3 of the paper: the field on other cost features, behind the first descriptors of `nemf_mobilenet`.

    It uses the descriptors in OUT if that recipe has run there before. Fewer steps than there, the same for all
    variants: a step with a transformer takes 3 s on one CPU core.
    """

    def recipe(options: RecipeOptions) -> list[Stage]:
        *before, descriptors, _, _, _ = nemf_mobilenet(options)
        assert isinstance(descriptors, train.Config)
        field = field_stage(options, descriptors)
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
