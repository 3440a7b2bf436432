"""Recipes of large vision transformers, fine-tuned by LoRA for SPair-71k. Neither was ever run on a GPU or whole."""

from jobs import prepare, train
from jobs.recipes.stages import Recipe, RecipeOptions, Stage
from nemf.training.config import LossConfig, TrainerConfig


def fine_tuned_for_spair(start: str) -> Recipe:
    """Descriptors at any coordinate of 896 x 896 images behind a ViT-B whose attention is fine-tuned by LoRA.

    start: nemf-dinov2-base, patch 14 and 64 x 64 cells, or nemf-dinov3-base, patch 16 and 56 x 56.
    Needs: data/SPair-71k and weights of the preset's backbone, which timm downloads; a GPU of 80 GB, or several
    (--workers). Cost, by arithmetic alone: 3.4e13 operations a step of 4 pairs (transformer 3.2e13, decoder .2e13), so
    20,000 steps are some 3 hours at 60 TFLOP/s; the authors of ImCorr trained 30 hours on an A100.
    Aim: ImCorr's record, DINOv2-B with LoRA, PCK@.01/.05/.10 33.2 / 78.9 / 86.2 on SPair-71k's test pairs; for DINOv3
    there is no such row. Here only miniatures were run: tests/jobs/test_vision_transformer_recipes.py. What is not
    published is ours: steps, rank 16, the neck, AdamW for Adam.
    """

    def recipe(options: RecipeOptions) -> list[Stage]:
        manifests = {split: str(options.out / f"spair-{split}.parquet") for split in ("trn", "val")}
        folder = str(options.data / "SPair-71k")
        prepared = [
            prepare.make_config("spair", root=folder, split=split, out=manifest)
            for split, manifest in manifests.items()
        ]
        descriptors = train.Config(
            pairs=(manifests["trn"],),
            validation=manifests["val"],
            validation_pairs=500,
            protocol="spair",
            out=str(options.out / "descriptors"),
            start=start,
            backbone_weights=options.weights,
            trainer=TrainerConfig(
                steps=20_000,
                lr=6e-4,
                backbone_lr=6e-4,
                lora_rank=16,
                warmup_steps=500,
                final_lr_share=0.02,
                bfloat16=options.bfloat16,
                loss=LossConfig(field_weight=0.0, flow_weight=0.0, descriptor_weight=1.0),
            ),
            batch_size=4,
            validate_every=2000,
            threads=options.threads,
            workers=options.workers,
        )
        return [*prepared, descriptors]

    return recipe
