"""A matcher by its name."""

import importlib
import re

import torch

from nemf.matcher import Matcher
from nemf.matchers.table import find_entry, split_common
from nemf.matchers.zoom import ZoomMatcher


def load_matcher(name: str, *, backbone_weights: str | None = None, device: str = "auto") -> Matcher:
    """Build the matcher called `name`.

    name: one of those in nemf.matchers.table, such as 'nemf-small', which ships, or the path or URI of a NeMF
        checkpoint folder. Options follow a '?': those of NearestNeighbourMatcher
        ('nearest-neighbour:dense-sift?window=0&image_size=480') or of the search
        ('FOLDER?patchmatch_steps=10&seed=1', see nemf.search.config.SearchConfig). Every matcher takes 'zoom=1', a
        second look at crops of the images (see nemf.matchers.zoom). A '?' always begins options: no
        folder's name may hold one. A folder of yours that is called like what ships is './nemf-small'.
    backbone_weights: a local safetensors file of the model's state dict, as timm or torchvision publish it; a .json of
        the same name next to it may state how to build and feed the network (see nemf.model.weights_file). Without it
        the library named loads its own weights (it needs to be online once).
    device: 'cpu', 'cuda', 'cuda:1', ... or 'auto' (CUDA where there is one).
    Raises ValueError for an unusable name, option, weights file or device, FileNotFoundError for a file that is
    not there, OSError for a store that cannot be reached or refuses access.
    """
    entry = find_entry(name)
    if backbone_weights is not None and not entry.takes_backbone_weights:
        raise ValueError(f"{name} takes no backbone's weights: leave out --backbone-weights {backbone_weights}")
    module_name, _, function_name = entry.builder.partition(":")
    # only now, since timm and torchvision take 2 s and 200 MB
    build = getattr(importlib.import_module(module_name), function_name)
    own_name, common = split_common(name)
    matcher: Matcher = build(own_name, backbone_weights=backbone_weights, device=find_device(device))
    return ZoomMatcher(name, matcher) if common.get("zoom") == "1" else matcher


def find_device(device: str) -> torch.device:
    """The torch device of that name; 'auto' is CUDA where there is one, else the CPU. ValueError if it is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N; got {device!r}")
    torch_device = torch.device(device)
    if torch_device.type == "cuda" and (torch_device.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device}: this machine has {torch.cuda.device_count()} CUDA devices")
    return torch_device
