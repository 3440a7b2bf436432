"""Checkpoints of NeMF networks: a folder with model.safetensors and config.json, and official ones turned into it.

An official checkpoint is a folder with model_best.pth and args.pkl, both pickles. Neither is unpickled freely: the
weights are read with weights_only, the arguments by an unpickler that knows argparse.Namespace and plain values only.
"""

import argparse
import io
import json
import pickle
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as as_safetensors

from nemf.model.network import NeMF
from nemf.model.official import from_official_state_dict, official_config
from nemf.model.presets import NeMFConfig, build
from nemf.model.weights_file import BackboneConfig, load_weights

__all__ = ["from_official_state_dict", "import_official", "load", "read_config", "save"]

_FORMAT = "nemf-1"

_MAKE_NUMBER = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS: list[Any] = [
    (_MAKE_NUMBER, "numpy.core.multiarray.scalar"),  # as NumPy 1 called it
    (_MAKE_NUMBER, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)),
]
"""What training scripts leave beside the weights, such as the best loss; torch.load refuses it unless told."""


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 4096


def _is_list(value: Any, kinds: tuple[type, ...], length: int | None = None) -> bool:
    return isinstance(value, list) and all(type(v) in kinds for v in value) and length in (None, len(value))


_SIZE = ("a whole number from 1 to 4096", _is_size)
_THREE = ("three numbers", lambda value: _is_list(value, (int, float), 3))
_EXPECTED = {
    "backbone": ("the name of a backbone", lambda value: isinstance(value, str)),
    "embedding_channels": (
        "two whole numbers from 1 to 4096",
        lambda value: _is_list(value, (int,), 2) and all(map(_is_size, value)),
    ),
    "create_kwargs": ("a JSON object", lambda value: isinstance(value, dict)),
    "out_indices": ("a list of whole numbers or null", lambda value: value is None or _is_list(value, (int,))),
    "mean": _THREE,
    "std": _THREE,
}
"""What the fields of config.json hold; those not named hold a _SIZE."""


def save(folder: Path, model: NeMF, config: NeMFConfig) -> None:
    """Write `model`, built from `config`, as a checkpoint folder; existing files of the two names are replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    (folder / "model.safetensors").write_bytes(as_safetensors(tensors))
    content = json.dumps({"format": _FORMAT, **asdict(config)}, indent=1)
    (folder / "config.json").write_text(content + "\n", encoding="utf-8")


def load(folder: Path) -> NeMF:
    """The network of a checkpoint folder, in eval mode.

    Raises FileNotFoundError listing what is there where a file is missing, ValueError naming the field or the tensors
    that do not fit.
    """
    config = read_config(folder)
    try:
        model = build(config)
    except (RuntimeError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'}: no network can be built of these sizes: {error}") from error
    load_weights(model, _file(folder, "model.safetensors"))
    return model


def read_config(folder: Path) -> NeMFConfig:
    """The configuration of a checkpoint folder; raises as `load` does."""
    path = _file(folder, "config.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        raise ValueError(f"{path}: must be a JSON object whose format is {_FORMAT!r}")
    backbone = _checked(path, "backbone_config.", BackboneConfig, content.pop("backbone_config", None))
    return NeMFConfig(**_checked(path, "", NeMFConfig, content), backbone_config=BackboneConfig(**backbone))


def import_official(folder: Path) -> tuple[NeMF, NeMFConfig]:
    """The network of an official checkpoint folder, in eval mode, and its configuration.

    Raises FileNotFoundError listing what is there where model_best.pth or args.pkl is missing, ValueError where one
    holds something else than it should, or where they contradict each other.
    """
    weights = _file(folder, "model_best.pth")
    arguments_file = _file(folder, "args.pkl")
    arguments = read_arguments(arguments_file)
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            checkpoint = torch.load(weights, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise ValueError(f"{weights}: not a file of tensors that is safe to read: {_first_line(error)}") from error
    state_dict = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state_dict, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in state_dict.values()):
        raise ValueError(f"{weights}: must hold a dict whose 'state_dict' is a dict of tensors")
    heads = arguments.get("num_heads", 6)
    if not _is_size(heads):
        raise ValueError(f"{arguments_file}: num_heads must be {_SIZE[0]}; got {heads!r}")
    hyperpixels = _hyperpixels(arguments_file, arguments.get("hyperpixel"))
    config = official_config(state_dict, heads, hyperpixels)
    told = {
        "feature_size": config.feature_size,
        "feature_proj_dim": config.projection_dim,
        "depth": config.depth,
        "mlp_ratio": config.mlp_ratio,
    }
    for name, found in told.items():
        if arguments.get(name, found) != found:
            raise ValueError(f"{arguments_file}: {name} is {arguments[name]!r}, but {weights.name} has {found}")
    return from_official_state_dict(state_dict, heads, hyperpixels), config


def read_arguments(path: Path) -> dict[str, Any]:
    """What is in a pickled argparse.Namespace of plain values; ValueError for any other pickle, which runs nothing."""
    try:
        arguments = _NamespaceUnpickler(io.BytesIO(path.read_bytes())).load()
    except Exception as error:  # a hostile stream can break the unpickler in any way
        raise ValueError(f"{path}: not a pickled argparse.Namespace of plain values: {_first_line(error)}") from error
    if not isinstance(arguments, argparse.Namespace):
        raise ValueError(f"{path}: must hold an argparse.Namespace; holds a {type(arguments).__name__}")
    return vars(arguments)


class _NamespaceUnpickler(pickle.Unpickler):
    """Knows no name but argparse.Namespace, so a stream has nothing else to call."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) != ("argparse", "Namespace"):
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is refused")
        return argparse.Namespace

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("persistent ids are refused")


def _hyperpixels(path: Path, text: Any) -> list[int] | None:
    """The numbers of '[3,7,30,33]'; None where there is no such argument."""
    if text is None:
        return None
    try:
        numbers = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        numbers = None
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise ValueError(f"{path}: hyperpixel must be a list of whole numbers such as '[3,7,30,33]'; got {text!r}")
    return numbers


def _checked(path: Path, prefix: str, kind: type[Any], content: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON gave them, lists as tuples; ValueError for unknown, missing or odd ones."""
    if not isinstance(content, dict):
        raise ValueError(f"{path}: {prefix.rstrip('.')} must be a JSON object; got {json.dumps(content)[:80]}")
    names = {field.name for field in fields(kind)} - {"backbone_config"}
    wrong = {"missing": names - content.keys(), "unexpected": content.keys() - names}
    if any(wrong.values()):
        listed = "; ".join(f"{fault}: {', '.join(prefix + n for n in sorted(ns))}" for fault, ns in wrong.items() if ns)
        raise ValueError(f"{path}: fields do not fit: {listed}")
    for name, value in content.items():
        expected, holds = _EXPECTED.get(name, _SIZE)
        if not holds(value):
            raise ValueError(f"{path}: field {prefix}{name} must be {expected}; got {json.dumps(value)[:80]}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def _file(folder: Path, name: str) -> Path:
    if not folder.is_dir():
        raise FileNotFoundError(f"checkpoint folder {folder}: there is no such folder")
    if not (folder / name).is_file():
        there = ", ".join(sorted(path.name for path in folder.iterdir())[:20]) or "nothing"
        raise FileNotFoundError(f"checkpoint folder {folder}: {name} is missing; there is {there}")
    return folder / name


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
