"""A matcher by its name."""

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import torch

from nemf.matcher import Matcher
from nemf.matchers.identity import IdentityMatcher

_NAMES = (
    "nearest-neighbour:timm/MODEL, nearest-neighbour:torchvision/MODEL, nearest-neighbour:dense-sift, identity, "
    "package.module:factory, and the path of a NeMF checkpoint folder"
)
_OPTIONS = {"readout": str, "image_size": int}


def load_matcher(name: str, *, backbone_weights: str | None = None, device: str = "auto") -> Matcher:
    """Build the matcher called `name`.

    name: 'nearest-neighbour:timm/MODEL', 'nearest-neighbour:torchvision/MODEL' or 'nearest-neighbour:dense-sift',
        with options as a query string ('...?readout=soft-argmax&image_size=480', see NearestNeighbourMatcher);
        'identity', which leaves every point where it is; the path of a NeMF checkpoint folder (see nemf.checkpoints);
        or 'package.module:factory' for a matcher of your own, where factory(backbone_weights=..., device=...) returns
        a Matcher.
    backbone_weights: a local safetensors file, with a .json of the same name beside it saying how to build and feed
        the network; without it the library named loads its own ImageNet weights (it needs to be online once).
    device: 'cpu', 'cuda', 'cuda:1', ... or 'auto' (CUDA where there is one).
    Raises ValueError for a name, an option, weights or a device that will not do, FileNotFoundError for a weights
    file that is not there.
    """
    kind, _, rest = name.partition(":")
    if kind == "nearest-neighbour":
        return _nearest_neighbour(name, rest, backbone_weights, find_device(device))
    if name == "identity":
        if backbone_weights is not None:
            raise ValueError(f"identity has no weights to load: leave out --backbone-weights {backbone_weights}")
        return IdentityMatcher()
    if name and Path(name).is_dir():
        return _from_checkpoint(name, backbone_weights, find_device(device))
    return _made_by_factory(name, backbone_weights, find_device(device))


def find_device(device: str) -> torch.device:
    """The torch device of that name; 'auto' is CUDA where there is one, else the CPU. ValueError if it is not there."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise ValueError(f"device must be auto, cpu, cuda or cuda:N; got {device!r}")
    found = torch.device(device)
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"device {device}: this machine has {torch.cuda.device_count()} CUDA devices")
    return found


def _nearest_neighbour(name: str, rest: str, backbone_weights: str | None, device: torch.device) -> Matcher:
    # timm and torchvision take 2 s and 200 MB: only where a matcher needs them
    from nemf.matchers.nearest_neighbour import NearestNeighbourMatcher
    from nemf.model.backbone import load_backbone
    from nemf.model.dense_sift import dense_sift

    backbone_name, _, query = rest.partition("?")
    options = _options(name, query)
    if backbone_name == "dense-sift":
        if backbone_weights is not None:
            raise ValueError(f"{name} has no weights to load: leave out --backbone-weights {backbone_weights}")
        backbone = dense_sift()
    elif "/" in backbone_name:
        backbone = load_backbone(backbone_name, None if backbone_weights is None else Path(backbone_weights))
    else:
        raise ValueError(f"there is no matcher {name!r}; there are {_NAMES}")
    return NearestNeighbourMatcher(name, backbone, device, **options)


def _from_checkpoint(name: str, backbone_weights: str | None, device: torch.device) -> Matcher:
    from nemf import checkpoints
    from nemf.matchers.nemf import NemfMatcher

    if backbone_weights is not None:
        raise ValueError(f"{name} holds its backbone's weights: leave out --backbone-weights {backbone_weights}")
    return NemfMatcher(name, checkpoints.load(Path(name)), device)


def _options(name: str, query: str) -> dict[str, Any]:
    """The options after the '?' of a matcher's name, each once and of its type."""
    options: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        key, _, value = part.partition("=")
        if key not in _OPTIONS or key in options:
            problem = "given twice" if key in options else "unknown"
            raise ValueError(f"{name}: option {key!r} is {problem}; there are {', '.join(_OPTIONS)}")
        try:
            options[key] = _OPTIONS[key](value)
        except ValueError as error:
            raise ValueError(f"{name}: option {key} must be a whole number; got {value!r}") from error
    return options


def _made_by_factory(name: str, backbone_weights: str | None, device: torch.device) -> Matcher:
    module_name, _, factory_name = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), factory_name]):
        raise ValueError(f"there is no matcher {name!r}; there are {_NAMES}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"matcher {name!r}: there is no module {error.name!r} on Python's path") from error
    factory = getattr(module, factory_name, None)
    if not callable(factory):
        raise ValueError(f"matcher {name!r}: {module_name} has no function {factory_name}")
    try:
        inspect.signature(factory).bind(backbone_weights=backbone_weights, device=str(device))
    except (TypeError, ValueError) as error:
        raise ValueError(f"matcher {name!r}: it must take backbone_weights=... and device=...: {error}") from error
    matcher = factory(backbone_weights=backbone_weights, device=str(device))
    missing = [member for member in ("name", "fingerprint", "match_batch") if not hasattr(matcher, member)]
    if missing:
        raise ValueError(
            f"matcher {name!r}: {factory_name} returned a {type(matcher).__name__} without {', '.join(missing)}; "
            "it must return a nemf.Matcher"
        )
    return matcher
