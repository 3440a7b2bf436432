"""A matcher by its name."""

import importlib
import inspect
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

import torch

from nemf import pretrained
from nemf.matcher import Matcher
from nemf.matchers.identity import IdentityMatcher

_NAMES = (
    "nemf-small, nearest-neighbour:timm/MODEL, nearest-neighbour:torchvision/MODEL, nearest-neighbour:dense-sift, "
    "identity, package.module:factory, the path or URI of a NeMF checkpoint folder, and descriptors:FOLDER of one"
)


def load_matcher(name: str, *, backbone_weights: str | None = None, device: str = "auto") -> Matcher:
    """Build the matcher called `name`.

    name: 'nemf-small', which ships; 'nearest-neighbour:timm/MODEL', 'nearest-neighbour:torchvision/MODEL' or
        'nearest-neighbour:dense-sift', with options as a query string ('...?readout=soft-argmax&image_size=480', see
        NearestNeighbourMatcher);
        'identity', which leaves every point where it is; the path or URI of a NeMF checkpoint folder (see
        nemf.checkpoints), with options of the search ('FOLDER?patchmatch_steps=10&seed=1', see SearchConfig);
        'descriptors:FOLDER', the nearest neighbours of such a network's descriptors, without its field; or
        'package.module:factory' for a matcher of your own, where factory(backbone_weights=..., device=...) returns a
        Matcher. A '?' always begins options: no folder's name may hold one. A folder of yours that is called like
        what ships is './nemf-small'.
    backbone_weights: a local safetensors file, with a .json of the same name beside it saying how to build and feed
        the network; without it the library named loads its own ImageNet weights (it needs to be online once).
    device: 'cpu', 'cuda', 'cuda:1', ... or 'auto' (CUDA where there is one).
    Raises ValueError for a name, an option, weights or a device that will not do, FileNotFoundError for a file that is
    not there, OSError for a store that cannot be reached or says no.
    """
    kind, _, rest = name.partition(":")
    if kind == "nearest-neighbour":
        return _nearest_neighbour(name, rest, backbone_weights, find_device(device))
    if kind == "descriptors":
        _refuse_weights(name, backbone_weights)
        return _descriptors(name, rest, find_device(device))
    if name == "identity":
        _refuse_weights(name, backbone_weights)
        return IdentityMatcher()
    if is_checkpoint(name):
        return _from_checkpoint(name, backbone_weights, find_device(device))
    return _made_by_factory(name, backbone_weights, find_device(device))


def is_checkpoint(name: str) -> bool:
    """Whether load_matcher takes `name` for a checkpoint: what ships, any URI, and a path where there is a folder."""
    if name == "identity" or name.startswith(("nearest-neighbour:", "descriptors:")):
        return False
    folder = name.partition("?")[0]
    return folder in pretrained.NAMES or "://" in folder or (folder != "" and Path(folder).is_dir())


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
    options = _options(name, query, {"readout": str, "image_size": int})
    if backbone_name == "dense-sift":
        _refuse_weights(name, backbone_weights)
        backbone = dense_sift()
    elif "/" in backbone_name:
        backbone = load_backbone(backbone_name, None if backbone_weights is None else Path(backbone_weights))
    else:
        raise ValueError(f"there is no matcher {name!r}; there are {_NAMES}")
    return NearestNeighbourMatcher(name, backbone, device, **options)


def _descriptors(name: str, rest: str, device: torch.device) -> Matcher:
    from nemf import checkpoints
    from nemf.matchers.nearest_neighbour import NearestNeighbourMatcher
    from nemf.model.descriptors import Descriptors

    folder, _, query = rest.partition("?")
    model = checkpoints.load(pretrained.folder(folder) if folder in pretrained.NAMES else folder)
    options = {"image_size": model.image_size} | _options(name, query, {"readout": str, "image_size": int})
    return NearestNeighbourMatcher(name, Descriptors(model).eval().requires_grad_(False), device, **options)


def _refuse_weights(name: str, backbone_weights: str | None) -> None:
    """ValueError where weights are given to a matcher that has its own, or none."""
    if backbone_weights is not None:
        raise ValueError(f"{name} takes no backbone's weights: leave out --backbone-weights {backbone_weights}")


def _from_checkpoint(name: str, backbone_weights: str | None, device: torch.device) -> Matcher:
    from nemf import checkpoints
    from nemf.matchers.nemf import NemfMatcher, SearchConfig

    folder, _, query = name.partition("?")
    _refuse_weights(name, backbone_weights)
    options = search_options(name, query)
    folder = str(pretrained.folder(folder)) if folder in pretrained.NAMES else folder
    saved = checkpoints.read_search(folder)
    try:
        search = SearchConfig(**saved | options)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    model = checkpoints.load(folder)
    try:
        return NemfMatcher(name, model, device, search)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error


def search_options(name: str, query: str) -> dict[str, Any]:
    """Settings of the search, fields of nemf.matchers.nemf.SearchConfig, out of 'refine_steps=5&seed=1'.

    name: what an error begins with. Raises ValueError for fields and values that cannot be.
    """
    from nemf.matchers.nemf import SearchConfig

    options = _options(name, query, get_type_hints(SearchConfig))
    try:
        SearchConfig(**options)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    return options


def _options(name: str, query: str, kinds: Mapping[str, Any]) -> dict[str, Any]:
    """The options after the '?' of a matcher's name, each once and of its type."""
    options: dict[str, Any] = {}
    for part in query.split("&") if query else []:
        key, _, text = part.partition("=")
        if key not in kinds or key in options:
            problem = "given twice" if key in options else "unknown"
            raise ValueError(f"{name}: option {key!r} is {problem}; there are {', '.join(kinds)}")
        try:
            options[key] = _value(kinds[key], text)
        except ValueError as error:
            raise ValueError(f"{name}: option {key} must be {error}; got {text!r}") from error
    return options


def _value(kind: Any, text: str) -> Any:
    """`text` as a str, int, float, bool, Literal of strings or tuple of these; ValueError saying what it must be."""
    if get_origin(kind) is tuple:
        try:
            return tuple(_value(get_args(kind)[0], part) for part in text.split(","))
        except ValueError as error:
            raise ValueError(f"a list such as 4,1, each {error}") from error
    choices = {"true": True, "false": False} if kind is bool else {choice: choice for choice in get_args(kind)}
    if choices:
        if text not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return choices[text]
    with suppress(ValueError):
        value = kind(text)
        if kind is not float or math.isfinite(value):
            return value
    raise ValueError("a whole number" if kind is int else "a finite number")


def _made_by_factory(name: str, backbone_weights: str | None, device: torch.device) -> Matcher:
    module_name, _, factory_name = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), factory_name]):
        folder, mark, _ = name.partition("?")
        hint = f"; what follows the '?' are options, and there is no folder {folder!r}" if mark else ""
        raise ValueError(f"there is no matcher {name!r}; there are {_NAMES}{hint}")
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
