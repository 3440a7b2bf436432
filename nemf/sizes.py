"""The sizes of a network on another backbone, or for images of another size: what patch, maps and cells need."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from nemf.lpmflow.presets import LPMFlowConfig
from nemf.lpmflow.tokens import PATCH_PX, seen_side
from nemf.model.backbone import build_backbone, describe_backbone, every_layer
from nemf.model.backbone_config import BACKBONE_OPTIONS, BackboneConfig
from nemf.model.image_sizes import fitting_size
from nemf.model.light_loading import shapes_only
from nemf.model.presets import NeMFConfig
from nemf.options import parse_options

_CELL_PX = (8, 16)
"""Cells of the maps that are read unless `layers` says which: those of the small presets."""


def with_backbone(config: Any, text: str, weights: Path | None = None, image_size: int | None = None) -> Any:
    """The configuration of a network on another backbone, and the sizes that it needs.

    config: a NeMFConfig, a PMNCConfig or an LPMFlowConfig. text: 'timm/MODEL' or 'torchvision/MODEL', as nearest
        neighbours are named, with `layers` and `norm` after a '?' (BACKBONE_OPTIONS). weights: the file that will fill
        it; what a .json next to it says of the network holds, but for out_indices.
    image_size: side of the images that is asked for, pixels; by default that of `config`, and then the one size that a
        network takes instead of an error.
    By default the maps whose cells are 8 and 16 pixels wide are read, where there are some; of a vision transformer,
    whose maps have one size, those of two blocks, at two thirds of its depth and the last.
    Raises ValueError for a name, options and sizes that cannot be, FileNotFoundError for a missing file.
    """
    name, _, options_text = text.partition("?")
    options = parse_options(f"--backbone {text}", options_text, BACKBONE_OPTIONS)
    asked = image_size or seen_size(config)
    described = describe_backbone(name, weights, image_size=asked, norm=options.get("norm", False))
    layers = options.get("layers") or _default_layers(name, described, asked)
    config = replace(config, backbone=name, backbone_config=replace(described, out_indices=layers))
    if isinstance(config, LPMFlowConfig):
        with shapes_only():
            seen_side(build_backbone(name, config.backbone_config), config.cells)
        return config
    return with_image_size(config, asked, insist=image_size is not None)


def with_image_size(config: Any, image_size: int, *, insist: bool = True) -> Any:
    """The configuration of a NeMF or PMNC network for square images of another side, in pixels.

    The side is the nearest to `image_size` that cells of the backbone's maps tile; the network has about as many pixels
    a cell as before, as far as its maps have so many cells.
    insist: not to fall back on the one size that a backbone was trained for where it takes no other.
    Raises ValueError for a size out of range, and where the backbone cannot take it.
    """
    asked_cells = config.feature_size / config.image_size
    with shapes_only():
        backbone = build_backbone(config.backbone, config.backbone_config)
        # without a neck maps of all levels are brought to one size, by factors of two
        multiple_of = 1
        if isinstance(config, NeMFConfig) and not config.neck_channels:
            size, cells = fitting_size(config.backbone, backbone, image_size, insist=insist)
            multiple_of = math.ceil(size / min(cells) / backbone.size_step) * backbone.size_step
        size, cells = fitting_size(config.backbone, backbone, image_size, multiple_of=multiple_of, insist=insist)
    most = round(asked_cells * size)
    return replace(config, image_size=size, feature_size=_feature_size(config, max(cells), most))


def _feature_size(config: Any, finest: int, most: int) -> int:
    """Cells a side for a finest map of so many: at most as many as asked for. NeMF pools the finest map's by twos, and
    keeps them where they are odd."""
    if not isinstance(config, NeMFConfig):
        return min(finest, most)
    while finest > most and finest % 2 == 0:
        finest //= 2
    return finest


def seen_size(config: Any) -> int:
    """Side of the images that the configuration's backbone sees, pixels."""
    return PATCH_PX * config.cells if isinstance(config, LPMFlowConfig) else config.image_size


def _default_layers(name: str, described: BackboneConfig, image_size: int) -> tuple[int, ...]:
    """The numbers of the maps to read."""
    every = every_layer(name)
    with shapes_only():
        backbone = build_backbone(name, replace(described, out_indices=every))
        size, cells = fitting_size(name, backbone, image_size, insist=False)
    info: Any = getattr(backbone.network, "feature_info", None)
    numbers = list(info.out_indices if every is None else every)
    if every is None and len({*cells}) == 1:
        n_blocks = len(info.info)
        return (max(2 * n_blocks // 3 - 1, 0), n_blocks - 1) if n_blocks > 1 else (0,)
    finest, coarsest = (math.ceil(size / px) for px in _CELL_PX)
    chosen = [number for number, side in zip(numbers, cells, strict=True) if coarsest <= side <= finest]
    return tuple(chosen) or (numbers[min(range(len(cells)), key=lambda level: abs(cells[level] - coarsest))],)
