"""A network's weights in a local safetensors file, and how to build and feed it in a .json of the same name."""

import json
import reprlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as as_tensors
from torch import Tensor, nn

from nemf.model.backbone_config import BackboneConfig


def read_config(weights: Path, model: str) -> BackboneConfig:
    """The configuration in the .json of the same name as the weights file of `model`.

    Raises FileNotFoundError if a file is missing, ValueError naming the field that is missing or wrong.
    """
    path = weights.with_suffix(".json")
    if weights.suffix != ".safetensors":
        raise ValueError(f"backbone weights {weights}: only .safetensors files are read, since others can run code")
    if not weights.is_file():
        raise FileNotFoundError(f"backbone weights {weights}: there is no such file")
    if not path.is_file():
        raise FileNotFoundError(
            f"backbone weights {weights}: {path} is missing; it says how to build and feed the network: "
            '{"create_kwargs": {}, "out_indices": [1, 2, 3], "mean": [r, g, b], "std": [r, g, b]}'
        )
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise ValueError(f"{path}: must be a JSON object; got {reprlib.repr(fields)}")

    def take(name: str, expected: str, holds: Any) -> Any:
        if name not in fields:
            raise ValueError(f"{path}: field {name} is missing; it must be {expected}")
        if not holds(fields[name]):
            raise ValueError(f"{path}: field {name} must be {expected}; got {reprlib.repr(fields[name])}")
        return fields[name]

    if fields.get("model", model) != model:
        raise ValueError(f"{path}: these are weights of {reprlib.repr(fields['model'])}, not of {model!r}")
    values: dict[str, Any] = {name: take(name, *expected) for name, expected in FIELDS.items()}
    return BackboneConfig(**values | {name: tuple(values[name]) for name in ("out_indices", "mean", "std")})


def load_weights(network: nn.Module, weights: Path, spare: Iterable[str] = ()) -> None:
    """Fill `network` with the file's tensors; raises as `read_tensors` and `check_tensors` do."""
    what = f"backbone weights {weights}"
    tensors = read_tensors(weights.read_bytes(), what)
    check_tensors(network.state_dict(), tensors, f"{what} do not fit the network", spare)
    network.load_state_dict(tensors, strict=False)


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
    """Raises ValueError listing the names of each kind of fault, one line a kind, unless all lists are empty."""
    listed = [f"{fault}: {', '.join(names)}" for fault, names in faults.items() if names]
    if listed:
        raise ValueError("\n  ".join([f"{misfit}:", *listed]))


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
"""What JSON must hold for the fields of a BackboneConfig, in words and as a test."""
