"""The matcher of a checkpoint folder, whichever system its network is of."""

import torch

from nemf import checkpoints, pretrained
from nemf.matcher import Matcher
from nemf.plugins import load_attribute


def build(name: str, *, backbone_weights: None, device: torch.device) -> Matcher:
    """The matcher of a checkpoint folder, or of a network that ships, with options after a '?'.

    Raises ValueError for options that cannot be, and as nemf.checkpoints.load does.
    """
    folder = name.partition("?")[0]
    folder = str(pretrained.folder(folder)) if folder in pretrained.NAMES else folder
    of_system = load_attribute(checkpoints.read_format(folder).matcher, name)
    matcher: Matcher = of_system(name, backbone_weights=backbone_weights, device=device)
    return matcher
