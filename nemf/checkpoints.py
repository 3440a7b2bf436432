"""Checkpoints of networks: a folder with model.safetensors and config.json.

Folders are read from any path or URI that fsspec reaches; credentials and endpoints are those of the environment.
`format` in config.json says which kind of network it is, see nemf.formats. Checkpoints of the authors of NeMF and
LPMFlow are turned into such folders by nemf.official.pickles.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import save as as_safetensors
from torch import nn

from nemf.calibration import Calibration, from_json
from nemf.formats import FORMATS, SIZE, Format, format_of
from nemf.io.uri import with_retries
from nemf.model.backbone_config import BackboneConfig
from nemf.model.light_loading import shapes_only
from nemf.model.network import NeMF
from nemf.model.weights_file import check_tensors, read_tensors
from nemf.official.state_dict import from_official_state_dict

__all__ = ["from_official_state_dict", "load", "load_nemf", "read_calibration", "read_config", "read_search", "save"]

MAX_SMALL_FILE_BYTES = 2**20
"""Maximum bytes of config.json and args.pkl; as Python objects they are many times larger."""


def save(
    folder: Path,
    model: nn.Module,
    config: Any,
    *,
    search: Mapping[str, Any] | None = None,
    calibration: Calibration | None = None,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write `model`, built from `config`, as a checkpoint folder; existing files of the two names are replaced.

    config: a NeMFConfig, an LPMFlowConfig or a PMNCConfig.
    search: settings of the search that suit the network, where they are not the published ones; by the names of
        nemf.search.config.SearchConfig, for PMNC of nemf.pmnc.config.PMNCSearch.
    calibration: of the network's confidence, where it was fitted.
    dtype: of the weights in the file: torch.float32, or torch.float16 for half the size.
    Raises ValueError for settings that cannot be and weights that are not finite in that type.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    if lost := [name for name, tensor in stored.items() if not tensor.isfinite().all()]:
        raise ValueError(f"weights that are not finite in {dtype}: {', '.join(lost)}")
    format_of(config).search(dict(search or {}))
    (folder / "model.safetensors").write_bytes(as_safetensors(stored))
    content = {"format": format_of(config).name, **asdict(config), "search": dict(search or {})}
    if calibration is not None:
        content["confidence"] = calibration.to_json()
    (folder / "config.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load(folder: str | Path) -> Any:
    """The network of a checkpoint folder, path or URI, in eval mode: a NeMF, an LPMFlow or a PMNC, as config.json says.

    Raises FileNotFoundError listing the files of the folder where one is missing, ValueError naming the field or the
    tensors that do not fit, and OSError where a store cannot be reached or refuses access.
    """
    config = read_config(folder)
    with errors_about(f"checkpoint folder {folder}"):
        tensors = read_tensors(read_file(folder, "model.safetensors"), "model.safetensors")
        with errors_about("config.json: no network can be built of these sizes"):
            expected = check_sizes(config)
        misfit = "model.safetensors does not fit the network of config.json; both must be of one checkpoint"
        check_tensors(expected, tensors, misfit)
    model = format_of(config).build(config)
    model.load_state_dict(tensors, strict=False)
    return model


def load_nemf(folder: str | Path, purpose: str) -> NeMF:
    """The network of a checkpoint folder that must hold a NeMF.

    purpose: what needs one, the beginning of the error for any other. Raises ValueError for one, and as `load` does.
    """
    model = load(folder)
    if not isinstance(model, NeMF):
        raise ValueError(f"{purpose} needs a NeMF network; checkpoint folder {folder} holds a {type(model).__name__}")
    return model


def check_sizes(config: Any) -> dict[str, torch.Tensor]:
    """The tensors of the network of these sizes by name, on the meta device: they take no memory, whatever their size.

    Raises ValueError where no network can be built, and for one that no machine can run (nemf.formats).
    """
    format = format_of(config)
    with shapes_only():
        empty = format.build(config).state_dict()
    format.check(config, empty)
    return empty


def read_config(folder: str | Path) -> Any:
    """The configuration of a checkpoint folder, of the class that its format names; raises as `load` does."""
    with errors_about(f"checkpoint folder {folder}"):
        format, content = _read_json(folder)
        for extra in ("search", "confidence"):
            content.pop(extra, None)
        of_backbone = content.pop("backbone_config", None)
        backbone = _checked("backbone_config.", BackboneConfig, of_backbone, format)
        own = _checked("", format.config, {**format.defaults, **content}, format)
        return format.config(**own, backbone_config=BackboneConfig(**backbone))


def read_format(folder: str | Path) -> Format:
    """The kind of network that a checkpoint folder holds; raises as `load` does."""
    with errors_about(f"checkpoint folder {folder}"):
        return _read_json(folder)[0]


def read_search(folder: str | Path) -> dict[str, Any]:
    """The search settings in a checkpoint folder, fields of SearchConfig or of another network's settings, lists as
    tuples; raises as `load` does."""
    with errors_about(f"checkpoint folder {folder}"):
        format, content = _read_json(folder)
        with errors_about("config.json"):
            return format.search(content.get("search", {}))


def read_calibration(folder: str | Path) -> Calibration | None:
    """What makes a probability of the network's confidence, from a checkpoint folder; None where it was not fitted.

    Raises as `load` does.
    """
    with errors_about(f"checkpoint folder {folder}"):
        content = _read_json(folder)[1].get("confidence")
        with errors_about("config.json"):
            return None if content is None else from_json(content)


def _read_json(folder: str | Path) -> tuple[Format, dict[str, Any]]:
    """The format that config.json names, and its other content."""
    data = read_file(folder, "config.json", MAX_SMALL_FILE_BYTES)
    with errors_about("config.json: not JSON"):
        content = json.loads(data)
    name = content.pop("format", None) if isinstance(content, dict) else None
    if not isinstance(name, str) or name not in FORMATS:
        raise ValueError(f"config.json: must be a JSON object whose format is {' or '.join(map(repr, FORMATS))}")
    return FORMATS[name], content


def _checked(prefix: str, kind: type[Any], content: Any, format: Format) -> dict[str, Any]:
    """The fields of a dataclass as JSON gave them, lists as tuples; ValueError for unknown, missing or odd ones."""
    if not isinstance(content, dict):
        raise ValueError(f"config.json: {prefix.rstrip('.')} must be a JSON object; got {json.dumps(content)[:80]}")
    names = {field.name for field in fields(kind)} - {"backbone_config"}
    wrong = {"missing": names - content.keys(), "unexpected": content.keys() - names}
    if any(wrong.values()):
        listed = "; ".join(f"{fault}: {', '.join(prefix + n for n in sorted(ns))}" for fault, ns in wrong.items() if ns)
        raise ValueError(f"config.json: fields do not fit: {listed}")
    for name, value in content.items():
        expected, holds = format.requirements.get(name, SIZE)
        if not holds(value):
            raise ValueError(f"config.json: field {prefix}{name} must be {expected}; got {json.dumps(value)[:80]}")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def read_file(folder: str | Path, name: str, max_bytes: int | None = None) -> bytes:
    """The content of one of the folder's files.

    Raises FileNotFoundError listing the files of the folder where it is missing, ValueError where it is larger than
    `max_bytes`, and OSError where a store cannot be reached or refuses access.
    """

    def read(fs: Any, path: str) -> bytes | None:
        file = f"{path.rstrip('/')}/{name}"
        try:
            if max_bytes is not None and fs.isfile(file) and fs.size(file) > max_bytes:
                return None
            return fs.cat_file(file)
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            if not fs.isdir(path):
                raise FileNotFoundError(f"checkpoint folder {folder}: there is no such folder") from error
            files = sorted(PurePosixPath(file).name for file in fs.ls(path, detail=False))[:20]
            content = f"there is {', '.join(files)}" if files else "the folder is empty"
            raise FileNotFoundError(f"checkpoint folder {folder}: {name} is missing; {content}") from error

    data = with_retries(str(folder), read)
    if data is None:
        raise ValueError(f"{name}: larger than the {max_bytes} bytes that are read at most")
    return data


@contextmanager
def errors_about(what: str) -> Iterator[None]:
    """Turns a ValueError or RecursionError into a ValueError whose text begins with `what`."""
    try:
        yield
    except (RecursionError, ValueError) as error:
        raise ValueError(f"{what}: {error}") from error
