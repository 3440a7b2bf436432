"""The network that a training starts from, and the settings of its search."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from nemf import checkpoints
from nemf.model import presets
from nemf.model.backbone import load_backbone
from nemf.model.build import build
from nemf.model.network import NeMF
from nemf.model.presets import PRESETS, CostFeatureKind, NeMFConfig
from nemf.search.config import search_options
from nemf.training.initialization import initialize_at_correlation
from pipeline.training.config import TrainingConfig


def network_config(start: str, cost_features: CostFeatureKind | None, image_size: int | None) -> NeMFConfig:
    """The sizes of the network that training starts from, see `initial_network`.

    Raises ValueError for an image size that does not fit, and as nemf.checkpoints.read_config does.
    """
    config = PRESETS[start]() if start in PRESETS else checkpoints.read_config(start)
    if image_size is not None:
        config = presets.with_image_size(config, image_size)
    return config if cost_features is None else presets.with_cost_features(config, cost_features)


def initial_network(
    start: str, backbone_weights: str | None, cost_features: CostFeatureKind | None, image_size: int | None, seed: int
) -> tuple[NeMF, NeMFConfig]:
    """The network that training starts from.

    start: a checkpoint folder, or a key of PRESETS for random weights behind a pretrained backbone.
    cost_features, image_size: a variant of the network; from a checkpoint of another variant only backbone and neck
        are taken.
    Raises ValueError, FileNotFoundError and OSError as network_config, nemf.checkpoints.load and load_backbone do.
    """
    torch.manual_seed(seed)
    config = network_config(start, cost_features, image_size)
    checkpoint = None
    if start in PRESETS:
        weights = None if backbone_weights is None else Path(backbone_weights)
        backbone = load_backbone(config.backbone, weights, config.backbone_config.out_indices)
        config = replace(config, backbone_config=backbone.config)
    else:
        checkpoint = checkpoints.load(start)
        if config == checkpoints.read_config(start):
            return checkpoint, config
        backbone = checkpoint.backbone
    model = build(config, backbone)
    initialize_at_correlation(model)
    if checkpoint is not None:
        model.neck = checkpoint.neck
    return model, config


def search_settings(config: TrainingConfig) -> dict[str, Any]:
    """Fields of SearchConfig for validation and checkpoint: those given, else those of the start, else none.

    Raises ValueError for settings that are unknown or out of range, and as nemf.checkpoints.read_search does.
    """
    settings = search_options("--search", "&".join(config.search))
    return settings if settings or config.start in PRESETS else checkpoints.read_search(config.start)
