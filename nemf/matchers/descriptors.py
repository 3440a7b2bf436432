"""'descriptors:FOLDER': nearest neighbours of the descriptors of a NeMF checkpoint, without its field."""

from typing import Any

import torch

from nemf import checkpoints, pretrained
from nemf.matchers.decoded import DecodedMatcher
from nemf.matchers.nearest_neighbour import NearestNeighbourMatcher, matcher_options
from nemf.model.descriptors import Descriptors
from nemf.model.network import NeMF


def build(name: str, *, backbone_weights: None, device: torch.device) -> NearestNeighbourMatcher:
    """The matcher called 'descriptors:FOLDER', with options as NearestNeighbourMatcher has; raises as loading does."""
    folder, _, text = name.removeprefix("descriptors:").partition("?")
    model = checkpoints.load_nemf(pretrained.folder(folder) if folder in pretrained.NAMES else folder, name)
    options = matcher_options(name, text)
    if model.decoder is not None and options.get("fit", "squash") != "squash":
        raise ValueError(f"{name}: fit=letterbox is for networks without a decoder: leave it out")
    return descriptors_matcher(name, model, device, **({"image_size": model.image_size} | options))


def descriptors_matcher(name: str, model: NeMF, device: torch.device, **options: Any) -> NearestNeighbourMatcher:
    """The matcher of a network's descriptors, decoded where it has a decoder."""
    matcher = NearestNeighbourMatcher if model.decoder is None else DecodedMatcher
    return matcher(name, Descriptors(model).eval().requires_grad_(False), device, **options)
