"""The folder of a training run.

    <out>/run.json       created once: the settings, and digests of the inputs. Other settings are refused.
    <out>/state.pt       the state from which an interrupted run resumes; replaced atomically
    <out>/history.json   losses, validations and unusable rows, up to the last state.pt
    <out>/curves.png     the history as curves
    <out>/tensorboard/   event files, one for each attempt
    <out>/checkpoint/    the network to keep: the best on the validation pairs, or the last without validation
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
from torch import nn

import nemf
from nemf import checkpoints
from pipeline.io import storage
from pipeline.io.manifest import Manifest
from pipeline.runs.folder import OtherRunError
from pipeline.training.model_card import CARD, PCKResult, model_card


def describe_run(settings: dict[str, Any], manifests: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
    """The content of run.json: settings, digests of the inputs, versions of packages.

    manifests: PAIRS manifests. files: weights and configurations. Reads every input, so that a bad one is an error
    before training starts; raises as reading them does.
    """
    inputs = {}
    for uri in manifests:
        with Manifest(uri) as manifest:
            manifest.ids()
            inputs[uri] = manifest.digest()
    inputs |= {file: hashlib.sha256(storage.read_bytes(file)).hexdigest()[:16] for file in files}
    packages = ("torch", "torchvision", "timm", "numpy", "pillow", "pyarrow", "ray")
    versions = {"python": platform.python_version(), "nemf": nemf.__version__}
    versions |= {name: importlib.metadata.version(name) for name in packages}
    return {"settings": settings, "inputs": inputs, "versions": versions}


def weights_files(weights: str | None) -> list[str]:
    """The weights file of a backbone and the configuration file next to it, if it exists; [] for None."""
    if weights is None:
        return []
    config = Path(weights).with_suffix(".json")
    return [weights, *([str(config)] if config.is_file() else [])]


def checkpoint_files(folder: str) -> list[str]:
    """The files of a checkpoint folder that define its network."""
    return [storage.join(folder, name) for name in ("config.json", "model.safetensors")]


def merge_unusable(*unusable: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Unusable rows of several attempts or workers, each once, sorted by manifest and pair_id."""
    rows = {(row["pairs"], row["pair_id"]): row for table in unusable for row in table}
    return [rows[key] for key in sorted(rows)]


def open_training(out: str, description: dict[str, Any]) -> None:
    """Create `<out>/run.json`, or check that the folder holds the same run.

    description: as describe_run gives it; `settings` and `inputs` must be equal. Raises OtherRunError naming the
    differences, ValueError for a folder of another job.
    """
    file = storage.join(out, "run.json")
    if storage.write_if_absent(file, json.dumps(description, indent=2).encode()):
        return
    saved = storage.read_json(file)
    if not isinstance(saved, dict) or not {"settings", "inputs"} <= saved.keys():
        raise ValueError(f"{out} is no folder of a training run: {file} is of another job; give another --out")
    now, then = (_flat(json.loads(json.dumps(description))), _flat(saved))
    names = sorted(now.keys() | then.keys())
    changed = [f"{name}: {then.get(name)} -> {now.get(name)}" for name in names if then.get(name) != now.get(name)]
    if changed:
        raise OtherRunError(
            f"{out} holds another training run (changed: {', '.join(changed)}); give a new --out, or the settings "
            "and files the run began with"
        )


def _flat(description: dict[str, Any]) -> dict[str, Any]:
    """Settings and digests of inputs as one dict."""
    return description["settings"] | {f"content of {name}": digest for name, digest in description["inputs"].items()}


def read_state(out: str) -> dict[str, Any] | None:
    """The last state written by write_state, on the CPU; None before the first. ValueError for a damaged file."""
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
    """Replace the state, plain values and tensors; its `history` is written to history.json too."""
    with storage.atomic_writer(storage.join(out, "state.pt")) as file:
        torch.save(state, file)
    storage.write_bytes(_history_file(out), json.dumps(state["history"], indent=1).encode())


def read_history(out: str) -> dict[str, list[dict[str, Any]]]:
    """Rows of `training`, `validation` and `unusable`. FileNotFoundError before the first state."""
    return storage.read_json(_history_file(out))


def write_checkpoint(
    out: str, model: nn.Module, config: Any, search: Mapping[str, Any], results: Sequence[PCKResult]
) -> None:
    """Replace the checkpoint and its model card; each file is written atomically.

    search: settings of the search that are saved with the network. results: measured PCK, for the card.
    """
    name = storage.absolute(out).rstrip("/").rpartition("/")[2]
    settings = storage.read_json(storage.join(out, "run.json"))["settings"]
    card = model_card(name, model, config, results=results, training_data=None, settings=settings)
    with tempfile.TemporaryDirectory() as folder:
        checkpoints.save(Path(folder), model, config, search=search)
        (Path(folder) / CARD).write_text(card, encoding="utf-8")
        for file in sorted(Path(folder).iterdir()):
            storage.write_bytes(storage.join(out, "checkpoint", file.name), file.read_bytes())


def write_success(out: str, totals: dict[str, Any]) -> None:
    """Mark the run as finished."""
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
