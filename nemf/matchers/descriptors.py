"""'descriptors:FOLDER': nearest neighbours of the descriptors of a NeMF checkpoint, without its field."""

import torch

from nemf import checkpoints, pretrained
from nemf.matchers.nearest_neighbour import NearestNeighbourMatcher, matcher_options
from nemf.model.descriptors import Descriptors


def build(name: str, *, backbone_weights: None, device: torch.device) -> NearestNeighbourMatcher:
    """The matcher called 'descriptors:FOLDER', with options as NearestNeighbourMatcher has; raises as loading does."""
    folder, _, text = name.removeprefix("descriptors:").partition("?")
    model = checkpoints.load_nemf(pretrained.folder(folder) if folder in pretrained.NAMES else folder, name)
    options = {"image_size": model.image_size} | matcher_options(name, text)
    return NearestNeighbourMatcher(name, Descriptors(model).eval().requires_grad_(False), device, **options)
