"""Checkpoints of NeMF networks: a folder with model.safetensors and config.json, and official ones turned into it.

Folders are read from any path or URI that fsspec reaches; credentials and endpoints are those of the environment.
An official checkpoint is a folder with model_best.pth and args.pkl, both pickles. Neither is unpickled freely: the
weights are read with weights_only, the arguments by an unpickler that knows argparse.Namespace and plain values only.
No code of theirs runs; but a hostile model_best.pth can still take much memory, since torch lets it make bytearrays.
"""

import argparse
import io
import json
import pickle
import pickletools
import reprlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from safetensors.torch import save as as_safetensors

from nemf.io.uri import with_retries
from nemf.model.network import NeMF
from nemf.model.presets import NeMFConfig, build
from nemf.model.weights_file import FIELDS, BackboneConfig, check_tensors, read_tensors
from nemf.official.names import from_official_state_dict, official_config, official_network
from nemf.search.config import settings_from_json

__all__ = ["from_official_state_dict", "import_official", "load", "read_config", "read_search", "save"]

_FORMAT = "nemf-1"

_MAKE_NUMBER = np.float64(0).__reduce__()[0]
_NUMPY_NUMBERS: list[Any] = [
    (_MAKE_NUMBER, "numpy.core.multiarray.scalar"),  # as NumPy 1 called it
    (_MAKE_NUMBER, "numpy._core.multiarray.scalar"),
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)),
]
"""What training scripts leave beside the weights, such as the best loss; torch.load refuses it unless told."""


_MOST_BYTES = {"config.json": 2**20, "args.pkl": 2**20}
"""Of the small files; as Python objects they are many times larger."""
_MOST_VALUES = 2**28
"""Of a 4D volume, 1 GiB in float32; the published network has 2^26 in this count."""


def _is_size(value: Any) -> bool:
    return type(value) is int and 1 <= value <= 4096


_SIZE = ("a whole number from 1 to 4096", _is_size)
_DEPTH = ("a whole number from 0 to 64", lambda value: type(value) is int and 0 <= value <= 64)
_FLAG = ("true or false", lambda value: type(value) is bool)
_INDICES, _are_indices = FIELDS["out_indices"]
_EXPECTED = FIELDS | {
    "backbone": ("the name of a backbone", lambda value: isinstance(value, str)),
    "neck_channels": (
        "0, or a whole number from 2 to 4096",
        lambda value: type(value) is int and (value == 0 or 2 <= value <= 4096),
    ),
    "neck_blocks": _DEPTH,
    "cost_channels": ("a whole number from 1 to 4096, or null", lambda value: value is None or _is_size(value)),
    "keep_correlation": _FLAG,
    "embedding_channels": (
        "two whole numbers from 1 to 4096, or none",
        lambda value: isinstance(value, list) and len(value) in (0, 2) and all(map(_is_size, value)),
    ),
    "depth": _DEPTH,
    "field_blocks": ("a whole number from 1 to 64", lambda value: _is_size(value) and value <= 64),
    "out_indices": (f"{_INDICES}, or null", lambda value: value is None or _are_indices(value)),
}
"""What the fields of config.json hold; those not named hold a _SIZE."""


def save(
    folder: Path,
    model: NeMF,
    config: NeMFConfig,
    *,
    search: Mapping[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `model`, built from `config`, as a checkpoint folder; existing files of the two names are replaced.

    search: settings of the search that suit the network, where they are not the published ones; by the names of
        nemf.search.config.SearchConfig.
    dtype: of the weights in the file: torch.float32, or torch.float16 for half the size.
    Raises ValueError for settings that cannot be and weights that are not finite in that type.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if lost := [name for name, tensor in stored.items() if not tensor.isfinite().all()]:
        raise ValueError(f"weights that are not finite in {dtype}: {', '.join(lost)}")
    settings_from_json(dict(search or {}))
    (folder / "model.safetensors").write_bytes(as_safetensors(stored))
    content = json.dumps({"format": _FORMAT, **asdict(config), "search": dict(search or {})}, indent=1)
    (folder / "config.json").write_text(content + "\n", encoding="utf-8")


def load(folder: str | Path) -> NeMF:
    """The network of a checkpoint folder, path or URI, in eval mode.

    Raises FileNotFoundError listing what is there where a file is missing, ValueError naming the field or the tensors
    that do not fit, and OSError where a store cannot be reached or says no.
    """
    config = read_config(folder)
    with _about(f"checkpoint folder {folder}"):
        tensors = read_tensors(_read(folder, "model.safetensors"), "model.safetensors")
        with _about("config.json: no network can be built of these sizes"):
            wanted = check_sizes(config)
        misfit = "model.safetensors does not fit the network of config.json; both must be of one checkpoint"
        check_tensors(wanted, tensors, misfit)
    model = build(config)
    model.load_state_dict(tensors, strict=False)
    return model


def check_sizes(config: NeMFConfig) -> dict[str, torch.Tensor]:
    """The tensors of the network of these sizes, without their values: that takes no memory, whatever is claimed.

    Raises ValueError where no network can be built, and for one whose 4D volumes no machine holds: with no weight that
    depends on their size, a small file may ask for any.
    """
    with torch.device("meta"):
        wanted = build(config).state_dict()
    channels = wanted["field.embedding.conv.over_source.weight"].shape[0] + config.keep_correlation
    values = channels * max(config.feature_size, config.image_size // 8) ** 4
    if values > _MOST_VALUES:
        raise ValueError(
            f"{channels} cost channels, feature_size {config.feature_size} and image_size {config.image_size} ask for "
            f"volumes of up to {values:.1e} values; at most {_MOST_VALUES:.1e} are allowed"
        )
    return wanted


def read_config(folder: str | Path) -> NeMFConfig:
    """The configuration of a checkpoint folder; raises as `load` does."""
    with _about(f"checkpoint folder {folder}"):
        content = _read_json(folder)
        content.pop("search", None)
        backbone = _checked("backbone_config.", BackboneConfig, content.pop("backbone_config", None))
        return NeMFConfig(**_checked("", NeMFConfig, content), backbone_config=BackboneConfig(**backbone))


def read_search(folder: str | Path) -> dict[str, Any]:
    """The settings of the search that a checkpoint folder brings along, lists as tuples; raises as `load` does."""
    with _about(f"checkpoint folder {folder}"):
        content = _read_json(folder).get("search", {})
        with _about("config.json"):
            return settings_from_json(content)


def _read_json(folder: str | Path) -> dict[str, Any]:
    """What config.json holds, but for its format."""
    data = _read(folder, "config.json")
    with _about("config.json: not JSON"):
        content = json.loads(data)
    if not isinstance(content, dict) or content.pop("format", None) != _FORMAT:
        raise ValueError(f"config.json: must be a JSON object whose format is {_FORMAT!r}")
    return content


def import_official(folder: str | Path) -> tuple[NeMF, NeMFConfig]:
    """The network of an official checkpoint folder, path or URI, in eval mode, and its configuration.

    Raises FileNotFoundError listing what is there where model_best.pth or args.pkl is missing, ValueError where one
    holds something else than it should, or where they contradict each other.
    """
    with _about(f"checkpoint folder {folder}"):
        arguments = read_arguments(_read(folder, "args.pkl"))
        state_dict = _read_state_dict(_read(folder, "model_best.pth"))
        heads = arguments.get("num_heads", 6)
        hyperpixels = _hyperpixels(arguments.get("hyperpixel"))
        if not _is_size(heads):
            raise ValueError(f"args.pkl: num_heads must be {_SIZE[0]}; got {reprlib.repr(heads)}")
        config = official_config(state_dict, heads, hyperpixels)
        told = {
            "feature_size": config.feature_size,
            "feature_proj_dim": config.projection_dim,
            "depth": config.depth,
            "mlp_ratio": config.mlp_ratio,
        }
        for name, found in told.items():
            if arguments.get(name, found) != found:
                raise ValueError(f"args.pkl: {name} is {reprlib.repr(arguments[name])}, but model_best.pth has {found}")
        return official_network(state_dict, config), config


def read_arguments(data: bytes) -> dict[str, Any]:
    """What is in a pickled argparse.Namespace of plain values; any other pickle is a ValueError and runs nothing."""
    try:
        _check_memo(data)
        arguments = _NamespaceUnpickler(io.BytesIO(data)).load()
    except Exception as error:  # a hostile stream can break the unpickler in any way
        raise ValueError(f"args.pkl: not a pickled argparse.Namespace of plain values: {_first_line(error)}") from error
    if not isinstance(arguments, argparse.Namespace):
        raise ValueError(f"args.pkl: must hold an argparse.Namespace; holds a {type(arguments).__name__}")
    return vars(arguments)


def _check_memo(data: bytes) -> None:
    """Refuses what no pickler writes: places in the memo beyond the stream's length, each of which takes memory."""
    for opcode, argument, position in pickletools.genops(data):
        if opcode.name.endswith("PUT") and isinstance(argument, int) and argument > len(data):
            raise pickle.UnpicklingError(f"memo index {reprlib.repr(argument)} at byte {position} is refused")


class _Sealed(type):
    """A class that a stream cannot change: pickles may set attributes, of classes too."""

    def __setattr__(cls, name: str, value: Any) -> None:
        raise pickle.UnpicklingError(f"setting {cls.__name__}.{name} is refused")


class _Namespace(argparse.Namespace, metaclass=_Sealed):
    __repr__ = object.__repr__  # a hostile one could write out without end


class _NamespaceUnpickler(pickle.Unpickler):
    """Knows no name but argparse.Namespace, so a stream has nothing else to call."""

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
    """Whether it is a tensor with a number in memory for each of its elements; a hostile one may claim any shape."""
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


def _checked(prefix: str, kind: type[Any], content: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON gave them, lists as tuples; ValueError for unknown, missing or odd ones."""
    if not isinstance(content, dict):
        raise ValueError(f"config.json: {prefix.rstrip('.')} must be a JSON object; got {json.dumps(content)[:80]}")
    names = {field.name for field in fields(kind)} - {"backbone_config"}
    wrong = {"missing": names - content.keys(), "unexpected": content.keys() - names}
    if any(wrong.values()):
        listed = "; ".join(f"{fault}: {', '.join(prefix + n for n in sorted(ns))}" for fault, ns in wrong.items() if ns)
        raise ValueError(f"config.json: fields do not fit: {listed}")
    for name, value in content.items():
        expected, holds = _EXPECTED.get(name, _SIZE)
        if not holds(value):
            raise ValueError(f"config.json: field {prefix}{name} must be {expected}; got {json.dumps(value)[:80]}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def _read(folder: str | Path, name: str) -> bytes:
    """The content of one of the folder's files. Raises ValueError for a small file that is large."""

    def read(fs: Any, path: str) -> bytes | None:
        file = f"{path.rstrip('/')}/{name}"
        try:
            if name in _MOST_BYTES and fs.isfile(file) and fs.size(file) > _MOST_BYTES[name]:
                return None
            return fs.cat_file(file)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            if not fs.isdir(path):
                raise FileNotFoundError(f"checkpoint folder {folder}: there is no such folder") from error
            there = sorted(PurePosixPath(found).name for found in fs.ls(path, detail=False))[:20]
            listed = ", ".join(there) or "nothing"
            raise FileNotFoundError(f"checkpoint folder {folder}: {name} is missing; there is {listed}") from error

    data = with_retries(str(folder), read)
    if data is None:
        raise ValueError(f"{name}: larger than the {_MOST_BYTES[name]} bytes that are read at most")
    return data


@contextmanager
def _about(what: str) -> Iterator[None]:
    """Errors of what was read begin with `what`."""
    try:
        yield
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
