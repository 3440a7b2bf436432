"""The network that a training starts from, and the settings of its search."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nemf import checkpoints
from nemf.formats import format_of
from nemf.lpmflow.build import build as build_lpmflow
from nemf.lpmflow.presets import VISION_TRANSFORMER, LPMFlowConfig
from nemf.lpmflow.tokens import load_vision_transformer
from nemf.model.backbone import load_backbone
from nemf.model.build import build
from nemf.model.presets import CostFeatureKind, NeMFConfig, with_cost_features
from nemf.pmnc import network as pmnc_network
from nemf.pmnc.config import pmnc_search_options
from nemf.pmnc.presets import PMNCConfig
from nemf.presets import PRESETS
from nemf.search.config import search_options
from nemf.sizes import seen_size, with_backbone, with_image_size
from nemf.training.initialization import initialize_at_correlation
from nemf.training.systems import system_of
from pipeline.training.config import TrainingConfig


def network_config(
    start: str,
    backbone_weights: str | None,
    cost_features: CostFeatureKind | None,
    image_size: int | None,
    backbone: str | None = None,
) -> Any:
    """The sizes of the network that training starts from, see `initial_network`.

    Logs a warning where the images get another size than was asked for. Raises ValueError for what cannot be built, a
    variant of NeMF where the network is another, and as nemf.checkpoints.read_config and describe_backbone do.
    """
    config = PRESETS[start]() if start in PRESETS else checkpoints.read_config(start)
    if cost_features is not None and not isinstance(config, NeMFConfig):
        raise ValueError(f"--start {start} is no NeMF network: leave out --cost-features")
    if image_size is not None and isinstance(config, LPMFlowConfig):
        raise ValueError(f"--start {start} is an LPMFlow network, whose images have one size: leave out --image-size")
    if cost_features is not None:
        config = with_cost_features(config, cost_features)
    asked = image_size or getattr(config, "image_size", None)
    if backbone is not None:
        weights = None if backbone_weights is None else Path(backbone_weights)
        config = with_backbone(config, backbone, weights, image_size)
    elif image_size is not None:
        config = with_image_size(config, image_size)
    if asked != (size := getattr(config, "image_size", None)):
        logging.getLogger("nemf").warning(
            f"images of {asked} x {asked} pixels become {size} x {size}, which {config.backbone} takes"
        )
    return config


def initial_network(
    start: str,
    backbone_weights: str | None,
    cost_features: CostFeatureKind | None,
    image_size: int | None,
    seed: int,
    backbone: str | None = None,
) -> tuple[nn.Module, Any]:
    """The network that training starts from, and its configuration.

    start: a checkpoint folder, or a key of PRESETS for random weights behind a pretrained backbone.
    cost_features, image_size: a variant of a NeMF network; from a checkpoint of another variant only backbone and neck
        are taken, and of PMNC, which has an image_size too, everything.
    backbone: of a key of PRESETS, to take the place of its own, see nemf.sizes.with_backbone.
    Raises ValueError, FileNotFoundError and OSError as network_config, nemf.checkpoints.load and load_backbone do.
    """
    torch.manual_seed(seed)
    config = network_config(start, backbone_weights, cost_features, image_size, backbone)
    if start in PRESETS:
        model, config = _behind_pretrained_backbone(
            config, None if backbone_weights is None else Path(backbone_weights)
        )
        system_of(model).initialize(model)
        return model, config
    checkpoint = checkpoints.load(start)
    if config == checkpoints.read_config(start):
        return checkpoint, config
    if isinstance(config, PMNCConfig):
        other = pmnc_network.build(config, checkpoint.backbone)
        other.scorer = checkpoint.scorer
        return other, config
    model = build(config, checkpoint.backbone)
    initialize_at_correlation(model)
    model.neck, model.decoder = checkpoint.neck, checkpoint.decoder
    return model, config


def _behind_pretrained_backbone(config: Any, weights: Path | None) -> tuple[nn.Module, Any]:
    """A network with random weights behind a backbone with the given weights, or its library's; and its configuration,
    with that of the backbone."""
    if config.backbone == VISION_TRANSFORMER:
        model = build_lpmflow(config)
        load_vision_transformer(model.backbone, weights)
        return model, config
    described = config.backbone_config
    norm, image_size = bool(described.create_kwargs.get("norm")), seen_size(config)
    backbone = load_backbone(config.backbone, weights, described.out_indices, image_size=image_size, norm=norm)
    config = replace(config, backbone_config=backbone.config)
    return format_of(config).build(config, backbone), config


def search_settings(config: TrainingConfig) -> dict[str, Any]:
    """Fields of SearchConfig, of PMNC of PMNCSearch, for validation and checkpoint: those given, else those of the
    start, else none.

    Raises ValueError for settings that are unknown or out of range, and as nemf.checkpoints.read_search does.
    """
    network, text = network_config(config.start, None, None, None), "&".join(config.search)
    if isinstance(network, PMNCConfig):
        settings = pmnc_search_options("--search", text)
    elif isinstance(network, NeMFConfig):
        settings = search_options("--search", text)
    elif text:
        raise ValueError(f"--start {config.start} is an LPMFlow network, which has no search: leave out --search")
    else:
        return {}
    return settings if settings or config.start in PRESETS else checkpoints.read_search(config.start)
