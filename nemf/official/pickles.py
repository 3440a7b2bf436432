"""Checkpoints of the authors of NeMF and LPMFlow: a folder with model_best.pth and args.pkl, both pickles.

Neither is unpickled freely: the weights are read with weights_only, the arguments by an unpickler that knows
argparse.Namespace and plain values only. No code in them runs; but a hostile model_best.pth can still take much memory,
since torch lets it make bytearrays.
"""

import argparse
import io
import json
import pickle
import pickletools
import reprlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nemf.checkpoints import MAX_SMALL_FILE_BYTES, errors_about, read_file
from nemf.formats import SIZE, is_size
from nemf.lpmflow.flow import FLOW_CELLS
from nemf.lpmflow.network import LPMFlow
from nemf.lpmflow.presets import LPMFlowConfig
from nemf.model.network import NeMF
from nemf.model.presets import NeMFConfig
from nemf.official.lpmflow_names import is_lpmflow, lpmflow_config, lpmflow_network
from nemf.official.names import official_config, official_network

_MAKE_NUMBER = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS: list[Any] = [
    (_MAKE_NUMBER, "numpy.core.multiarray.scalar"),  # the name in NumPy 1
    (_MAKE_NUMBER, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)),
]
"""Types of other values that training scripts save with the weights, such as the best loss; torch.load refuses
others."""


def import_official(folder: str | Path) -> tuple[NeMF, NeMFConfig] | tuple[LPMFlow, LPMFlowConfig]:
    """The network of an official checkpoint folder, path or URI, in eval mode, and its configuration.

    The names of its tensors tell which system it is of. Raises FileNotFoundError listing the files of the folder where
    model_best.pth or args.pkl is missing, ValueError where one holds something else than it should, or where they
    contradict each other.
    """
    with errors_about(f"checkpoint folder {folder}"):
        arguments = read_arguments(read_file(folder, "args.pkl", MAX_SMALL_FILE_BYTES))
        state_dict = _read_state_dict(read_file(folder, "model_best.pth"))
        if is_lpmflow(state_dict):
            return _import_lpmflow(state_dict, arguments)
        heads = arguments.get("num_heads", 6)
        hyperpixels = _hyperpixels(arguments.get("hyperpixel"))
        if not is_size(heads):
            raise ValueError(f"args.pkl: num_heads must be {SIZE[0]}; got {reprlib.repr(heads)}")
        config = official_config(state_dict, heads, hyperpixels)
        sizes = {
            "feature_size": config.feature_size,
            "feature_proj_dim": config.projection_dim,
            "depth": config.depth,
            "mlp_ratio": config.mlp_ratio,
        }
        _check_arguments(arguments, sizes)
        return official_network(state_dict, config), config


def _import_lpmflow(state_dict: dict[str, torch.Tensor], arguments: dict[str, Any]) -> tuple[LPMFlow, LPMFlowConfig]:
    """`depth` is not compared: the authors' code takes it and builds six blocks whatever it says."""
    config = lpmflow_config(state_dict)
    flow_side = 2 * FLOW_CELLS * config.cells
    sizes = {"feature_size": flow_side, "num_heads": config.heads, "mlp_ratio": config.mlp_ratio}
    _check_arguments(arguments, sizes)
    return lpmflow_network(state_dict, config), config


def _check_arguments(arguments: dict[str, Any], sizes: dict[str, int]) -> None:
    for name, size in sizes.items():
        if arguments.get(name, size) != size:
            raise ValueError(f"args.pkl: {name} is {reprlib.repr(arguments[name])}, but model_best.pth has {size}")


def read_arguments(data: bytes) -> dict[str, Any]:
    """The attributes of a pickled argparse.Namespace of plain values; ValueError for any other pickle. Runs nothing."""
    try:
        _check_memo(data)
        arguments = _NamespaceUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # a hostile stream can break the unpickler in any way
        raise ValueError(f"args.pkl: not a pickled argparse.Namespace of plain values: {_first_line(error)}") from error
    if not isinstance(arguments, argparse.Namespace):
        raise ValueError(f"args.pkl: must hold an argparse.Namespace; holds a {type(arguments).__name__}")
    return vars(arguments)


def _check_memo(data: bytes) -> None:
    """Refuses memo indices beyond the stream's length: no pickler writes them, and each takes memory."""
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > len(data):
            raise pickle.UnpicklingError(f"memo index {reprlib.repr(argument)} at byte {position} is refused")


class _Sealed(type):
    """Metaclass of a class whose attributes a stream cannot set: pickles may set those of classes too."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"setting {cls.__name__}.{name} is refused")


class _Namespace(argparse.Namespace, metaclass=_Sealed):
    __repr__ = object.__repr__  # a hostile one could write out without end


class _NamespaceUnpickler(pickle.Unpickler):
    """Finds no name but argparse.Namespace, so a stream has nothing else to call."""

    def find_class(self, module_name: str, global_name: str) -> Any:
        if (module_name, global_name) != ("argparse", "Namespace"):
            raise pickle.UnpicklingError(f"{module_name}.{global_name} is refused")
        return _Namespace

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("persistent ids are refused")


def _read_state_dict(data: bytes) -> dict[str, torch.Tensor]:
    """The tensors of a model_best.pth."""
    try:
        with torch.serialization.safe_globals(_NUMPY_NUMBERS):
            checkpoint = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a hostile stream can break torch's unpickler in any way too
        raise ValueError(f"model_best.pth: not a file of tensors that is safe to read: {_first_line(error)}") from error
    state_dict = checkpoint.get("state_dict") if isinstance(checkpoint, dict) else None
    if not isinstance(state_dict, dict) or not all(
        isinstance(name, str) and _is_whole(value) for name, value in state_dict.items()
    ):
        raise ValueError("model_best.pth: must hold a dict whose 'state_dict' is a dict of whole tensors by name")
    return state_dict


def _is_whole(value: Any) -> bool:
    """Whether `value` is a tensor whose storage holds all of its elements; a hostile one may claim any shape."""
    return (
        isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and value.nbytes <= value.untyped_storage().nbytes()
    )


def _hyperpixels(text: Any) -> list[int] | None:
    """The numbers of '[3,7,30,33]'; None where there is no such argument."""
    if text is None:
        return None
    try:
        numbers = json.loads(text) if isinstance(text, str) else text
    except ValueError:
        numbers = None
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise ValueError(
            f"args.pkl: hyperpixel must be a list of whole numbers such as '[3,7,30,33]'; got {reprlib.repr(text)}"
        )
    return numbers


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
