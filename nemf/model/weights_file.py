"""A network's weights in a local safetensors file, and how to build and feed it in a .json of the same name.

The file holds the tensors of the library's whole model, as it publishes them, or of the network that gives its feature
maps. All names may begin alike, as in 'module.' or 'backbone.'; tensors that no map needs may be there or not.
The .json may be left out, and so may each of its fields: the library's own configuration of its weights stands in.
"""

import json
import reprlib
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as as_tensors
from torch import Tensor, nn

from nemf.model.backbone_config import BackboneConfig
from nemf.model.transformers_names import authors_names

_CONVERSION = (
    "import sys, torch, safetensors.torch as s; d = torch.load(sys.argv[1], map_location='cpu', weights_only=True); "
    "d = d.get('state_dict', d.get('model', d)); "
    "s.save_file({k: v.clone().contiguous() for k, v in d.items() if torch.is_tensor(v)}, sys.argv[2])"
)
"""A Python program that converts a pickled state dict, wrapped or not, to safetensors; it runs no code of the
pickle."""


_MAX_LISTED = 20
"""Maximum number of tensors of one fault that an error names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """The names under which a library publishes the tensors of a network."""

    own_names: Mapping[str, str]
    """The names of the whole model's tensors, each with its name in the network; those that it lacks keep theirs."""
    convert: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None
    """The library's own rule that turns other names, such as those of the model's authors, into those above, and tables
    of positions of another size of images into those of the network's."""
    shapes: Mapping[str, torch.Size] = field(default_factory=dict)
    """The shapes of the tensors that are published, where the network is built for another size of images."""


def check_file(weights: Path) -> None:
    """Raises ValueError for a file that is no .safetensors, FileNotFoundError for one that is not there."""
    if weights.suffix != ".safetensors":
        command = shlex.join(["python", "-c", _CONVERSION, str(weights), str(weights.with_suffix(".safetensors"))])
        raise ValueError(
            f"backbone weights {weights}: only .safetensors files are read, since others can run code; "
            f"convert it once: {command}"
        )
    if not weights.is_file():
        raise FileNotFoundError(f"backbone weights {weights}: there is no such file")


def config_file(weights: Path) -> Path | None:
    """The .json of the same name as the weights file, if there is one."""
    path = weights.with_suffix(".json")
    return path if path.is_file() else None


def read_config(path: Path | None, model: str, default_config: Callable[[str], BackboneConfig]) -> BackboneConfig:
    """The configuration of `model` in a .json, with fields of default_config(model) where it lacks them.

    Raises ValueError naming the field that is wrong.
    """
    if path is None:
        return default_config(model)
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: must be a JSON object; got {reprlib.repr(fields)}")

    if fields.get("model", model) not in (model, model.partition(".")[0]):
        raise ValueError(f"{path}: these are weights of {reprlib.repr(fields['model'])}, not of {model!r}")
    given = {name: fields[name] for name in FIELDS if name in fields}
    for name, value in given.items():
        expected, holds = FIELDS[name]
        if not holds(value):
            raise ValueError(f"{path}: field {name} must be {expected}; got {reprlib.repr(value)}")
    given |= {name: tuple(value) for name, value in given.items() if isinstance(value, list)}
    if {"out_indices", "mean", "std"} <= given.keys():
        return BackboneConfig(**given)
    return replace(default_config(model), **given)


def load_weights(network: nn.Module, weights: Path, name: str, published: Published) -> None:
    """Fill `network`, called `name`, with the file's tensors.

    Raises ValueError as `read_tensors` and `check_tensors` do, and for a file that holds more than one such network.
    """
    what = f"backbone weights {weights}"
    published_names = {own: whole for whole, own in published.own_names.items()}
    expected = {published_names.get(own, own): tensor for own, tensor in network.state_dict().items()}

    def published_name(name: str) -> str:
        return published_names.get(name, name)

    tensors = read_tensors(weights.read_bytes(), what)
    try:
        tensors = authors_names(tensors)
    except ValueError as error:
        raise ValueError(f"{what} {error}") from error
    tensors = _without_prefix(tensors, published_name, expected.keys(), what)
    tensors = {published_name(name): tensor for name, tensor in tensors.items()}
    spare = published.own_names.keys()
    named = expected.keys() <= tensors.keys() <= expected.keys() | spare
    of_another_size = any(
        tensor.shape == published.shapes.get(name) != expected[name].shape
        for name, tensor in tensors.items()
        if name in expected
    )
    if published.convert is not None and (of_another_size or not named):
        with suppress(Exception):  # the library's rule may raise anything for tensors of other models
            converted = published.convert(dict(tensors))
            if expected.keys() <= converted.keys():
                tensors = converted
    misfit = f"{what} do not fit {name} by its library's names of tensors"
    check_tensors(expected, tensors, misfit, spare)
    network.load_state_dict({published.own_names.get(n, n): tensor for n, tensor in tensors.items()}, strict=False)


def _without_prefix(
    tensors: dict[str, Tensor], published_name: Callable[[str], str], expected: Set[str], what: str
) -> dict[str, Tensor]:
    """The tensors of the network that the file holds, without what the names of them all begin with, as in 'module.'.

    Where that is not '', other tensors are parts of a larger model and left out. Raises ValueError where the network is
    there more than once.
    """
    found = Counter[str]()
    for name in tensors:
        parts = name.split(".")
        for i in range(len(parts)):
            if published_name(".".join(parts[i:])) in expected:
                found["".join(f"{part}." for part in parts[:i])] += 1
    best = max(found.values(), default=0)
    if 2 * best <= len(expected):  # another network
        return tensors
    prefixes = sorted(prefix for prefix, count in found.items() if count == best)
    prefix = max(prefixes, key=len)  # where the network itself is called 'model', '' and 'model.' both fit
    if not all(prefix.startswith(other) for other in prefixes):
        raise ValueError(f"{what} hold the network more than once, below {', '.join(prefixes)}: keep one")
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def read_tensors(data: bytes, what: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file; ValueError naming `what` if it is none, or not whole."""
    try:
        return as_tensors(data)
    except (SafetensorError, KeyError) as error:  # KeyError: a type of number that torch has no name for
        raise ValueError(
            f"{what}: not a readable safetensors file, perhaps not whole: {error}; copy or convert it again"
        ) from error


def check_tensors(
    expected: Mapping[str, Tensor], actual: Mapping[str, Tensor], misfit: str, spare: Iterable[str] = ()
) -> None:
    """Raises ValueError naming every tensor that is missing, unexpected, of another shape or type, or not finite.

    expected: the tensors of a network by name; only shapes and types matter.
    misfit: what does not fit what, the first line of the error.
    spare: names that are allowed though the network does not have them, such as a classifier.
    """
    shared = [name for name in expected if name in actual]
    typed = [name for name in shared if actual[name].is_floating_point() == expected[name].is_floating_point()]
    refuse(
        misfit,
        {
            "missing": [name for name in expected if name not in actual and not name.endswith("num_batches_tracked")],
            "unexpected": sorted(actual.keys() - expected.keys() - set(spare)),
            "wrong shape": [
                f"{name} {list(actual[name].shape)} instead of {list(expected[name].shape)}"
                for name in shared
                if actual[name].shape != expected[name].shape
            ],
            "wrong type": [
                f"{name} {actual[name].dtype} instead of {expected[name].dtype}" for name in shared if name not in typed
            ],
            "not finite": [name for name in typed if not actual[name].to(expected[name].dtype).isfinite().all()],
        },
    )


def refuse(misfit: str, faults: Mapping[str, Sequence[str]]) -> None:
    """Raises ValueError listing names of each kind of fault, one line a kind, unless all lists are empty."""
    listed = [f"{fault}: {_listed(names)}" for fault, names in faults.items() if names]
    if listed:
        raise ValueError("\n  ".join([f"{misfit}:", *listed]))


def _listed(names: Sequence[str]) -> str:
    return ", ".join([*names[:_MAX_LISTED], *([f"{len(names) - _MAX_LISTED} more"] if names[_MAX_LISTED:] else [])])


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and abs(value) <= torch.finfo(torch.float32).max


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _is_rising(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(index, int) and not isinstance(index, bool) and index >= 0 for index in value)
        and sorted(set(value)) == value
    )


_MOST = {"layers": 64, "channels": 8192}
"""Arguments that are lists of sizes, such as the blocks of each stage, and the most that they may add up to: a small
file could ask for networks that take hours to build."""


def _is_flat_object(value: Any) -> bool:
    return isinstance(value, dict) and all(
        _is_sizes(item, _MOST[name]) if name in _MOST else item is None or isinstance(item, str | bool | int | float)
        for name, item in value.items()
    )


def _is_sizes(value: Any, most: int) -> bool:
    return (
        isinstance(value, list)
        and 0 < len(value) <= 8
        and all(type(item) is int and item > 0 for item in value)
        and sum(value) <= most
    )


FIELDS: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "create_kwargs": (
        "an object of numbers, strings and booleans, and of lists of sizes for layers and channels",
        _is_flat_object,
    ),
    "out_indices": ("a rising list of whole numbers from 0", _is_rising),
    "mean": ("three numbers", _is_triple),
    "std": ("three numbers above 0", lambda value: _is_triple(value) and min(value) > 0),
}
"""The requirement on each field of a BackboneConfig in JSON, in words and as a test."""
