"""The matcher of a checkpoint folder: its config.json says which network it holds."""

import importlib

import torch

from nemf import checkpoints, pretrained
from nemf.matcher import Matcher

_BUILDERS = {"nemf-1": "nemf.matchers.nemf:build"}
"""What builds the matcher of each format, as in nemf.matchers.table."""


def build(name: str, *, backbone_weights: None, device: torch.device) -> Matcher:
    """The matcher of a checkpoint folder, or of a network that ships, with options after a '?'.

    Raises ValueError for an unknown format, and as the builders of the networks do.
    """
    folder = name.partition("?")[0]
    found = checkpoints.read_format(pretrained.folder(folder) if folder in pretrained.NAMES else folder)
    if found not in _BUILDERS:
        raise ValueError(
            f"checkpoint folder {folder}: config.json: must be a JSON object whose format is one of "
            f"{', '.join(_BUILDERS)}; got {found!r:.80}"
        )
    module_name, _, function_name = _BUILDERS[found].partition(":")
    build_network = getattr(importlib.import_module(module_name), function_name)
    matcher: Matcher = build_network(name, backbone_weights=backbone_weights, device=device)
    return matcher
