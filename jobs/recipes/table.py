"""All recipes by name."""

from jobs.recipes.nemf import ablation, nemf_mobilenet, nemf_mobilenet_decoder, nemf_small
from jobs.recipes.other_matchers import comparison, lpmflow, pmnc
from jobs.recipes.papers import paper_pf_pascal, paper_spair
from jobs.recipes.self_training import self_training
from jobs.recipes.stages import Recipe
from jobs.recipes.vision_transformers import fine_tuned_for_spair

RECIPES: dict[str, Recipe] = {
    "nemf-small": nemf_small,
    "nemf-mobilenet": nemf_mobilenet,
    "nemf-mobilenet-decoder": nemf_mobilenet_decoder,
    "nemf-dinov2-base": fine_tuned_for_spair("nemf-dinov2-base"),
    "nemf-dinov3-base": fine_tuned_for_spair("nemf-dinov3-base"),
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
