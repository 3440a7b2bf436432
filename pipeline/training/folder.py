"""What is in the folder of a training run.

    <out>/run.json       created once: the settings, and digests of what is read. Other settings are refused.
    <out>/state.pt       from where the run goes on after an interruption; replaced as a whole
    <out>/history.json   losses, validations and rows that could not be used, up to the last state.pt
    <out>/curves.png     the same as a picture
    <out>/tensorboard/   event files, one for each attempt
    <out>/checkpoint/    the network to keep: the best on the validation pairs, the last where there are none
    <out>/_SUCCESS       written last

(attempts/ is pipeline.runs.lease.)
"""

import hashlib
import importlib.metadata
import io
import json
import platform
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import nemf
from nemf import checkpoints
from nemf.model.network import NeMF
from nemf.model.presets import NeMFConfig
from pipeline.io import storage
from pipeline.io.manifest import manifest_digest, manifest_files, read_ids
from pipeline.runs.folder import OtherRunError
from pipeline.training.model_card import CARD, Measured, model_card


def describe(settings: dict[str, Any], manifests: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
    """What run.json is to say; reads every input, so that one that will not do is an error before anything starts.

    manifests: PAIRS manifests. files: weights and the like. Raises as reading them does.
    """
    for uri in manifests:
        read_ids(uri)
    inputs = {uri: manifest_digest(manifest_files(uri)) for uri in manifests}
    inputs |= {file: hashlib.sha256(storage.read_bytes(file)).hexdigest()[:16] for file in files}
    packages = ("torch", "torchvision", "timm", "numpy", "pillow", "pyarrow", "ray")
    versions = {"python": platform.python_version(), "nemf": nemf.__version__}
    versions |= {name: importlib.metadata.version(name) for name in packages}
    return {"settings": settings, "inputs": inputs, "versions": versions}


def with_configuration(weights: str | None) -> list[str]:
    """The files that a backbone's weights come in; none of none."""
    return [] if weights is None else [weights, str(Path(weights).with_suffix(".json"))]


def files_of_checkpoint(folder: str) -> list[str]:
    """The files of a checkpoint folder that shape its network."""
    return [storage.join(folder, name) for name in ("config.json", "model.safetensors")]


def united(*unusable: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Rows that could not be used, met at different times or by different processes, each once and in order."""
    rows = {(row["pairs"], row["pair_id"]): row for met in unusable for row in met}
    return [rows[key] for key in sorted(rows)]


def open_training(out: str, description: dict[str, Any]) -> None:
    """Create `<out>/run.json`, or find there the same run.

    description: `settings` and `inputs`, which must be the same, and what else is to be told. Raises OtherRunError
    naming what differs, ValueError for a folder of another job.
    """
    file = storage.join(out, "run.json")
    if storage.write_if_absent(file, json.dumps(description, indent=2).encode()):
        return
    found = storage.read_json(file)
    if not isinstance(found, dict) or not {"settings", "inputs"} <= found.keys():
        raise ValueError(f"{out} is no folder of a training run: {file} is of another job; give another --out")
    now, then = (_flat(json.loads(json.dumps(description))), _flat(found))
    names = sorted(now.keys() | then.keys())
    changed = [f"{name}: {then.get(name)} -> {now.get(name)}" for name in names if then.get(name) != now.get(name)]
    if changed:
        raise OtherRunError(
            f"{out} holds another training run (changed: {', '.join(changed)}); give a new --out, or the settings "
            "and files the run began with"
        )


def _flat(description: dict[str, Any]) -> dict[str, Any]:
    return description["settings"] | {f"content of {name}": digest for name, digest in description["inputs"].items()}


def read_state(out: str) -> dict[str, Any] | None:
    """What write_state wrote last, on the CPU; None before that. Raises ValueError for a damaged file."""
    file = storage.join(out, "state.pt")
    try:
        data = storage.read_bytes(file)
    except FileNotFoundError:
        return None
    try:
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can break the reader in any way
        reason = str(error).partition("\n")[0]
        raise ValueError(f"{file} is damaged ({type(error).__name__}: {reason}); give a new --out") from error


def write_state(out: str, state: dict[str, Any]) -> None:
    """Replace the state: plain values and tensors, with `history`, which is also written to be read."""
    with storage.atomic_writer(storage.join(out, "state.pt")) as file:
        torch.save(state, file)
    storage.write_bytes(_history_file(out), json.dumps(state["history"], indent=1).encode())


def read_history(out: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of `training`, `validation` and `unusable`. Raises FileNotFoundError before the first state."""
    return storage.read_json(_history_file(out))


def write_checkpoint(
    out: str, model: NeMF, config: NeMFConfig, search: Mapping[str, Any], numbers: Sequence[Measured]
) -> None:
    """Replace the network to keep and its model card; each file is there entirely or not at all.

    search: settings of the search that suit it. numbers: what it was measured at.
    """
    name = storage.absolute(out).rstrip("/").rpartition("/")[2]
    settings = storage.read_json(storage.join(out, "run.json"))["settings"]
    card = model_card(name, model, config, numbers=numbers, training_data=None, settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(Path(folder), model, config, search=search)
        (Path(folder) / CARD).write_text(card, encoding="utf-8")
        for file in sorted(Path(folder).iterdir()):
            storage.write_bytes(storage.join(out, "checkpoint", file.name), file.read_bytes())


def write_success(out: str, totals: dict[str, Any]) -> None:
    """Say that the run is finished."""
    storage.write_bytes(_success_file(out), json.dumps(totals, indent=1).encode())


def read_success(out: str) -> dict[str, Any] | None:
    """The totals of a finished run; None if it is not finished."""
    try:
        return storage.read_json(_success_file(out))
    except FileNotFoundError:
        return None


def _history_file(out: str) -> str:
    return storage.join(out, "history.json")


def _success_file(out: str) -> str:
    return storage.join(out, "_SUCCESS")
