"""Fixtures of these tests: one thread, and generated weights files, so that no test needs a download."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from official_nemf import SMALL, official_shapes, official_state_dict
from safetensors.torch import save_file

MOBILENET_CONFIG = {
    "model": "mobilenetv1_100",
    "create_kwargs": {"pad_type": "same", "bn_eps": 0.001},
    "out_indices": [1, 2, 3],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Threads wait for each other at every small operation where the machine is busy."""
    torch.set_num_threads(1)


@pytest.fixture
def write_weights(tmp_path: Path) -> Callable[..., Path]:
    """Writes tensors and a configuration (a dict, or the text of the .json; None for no .json) as a weights file."""

    def write(tensors: dict[str, torch.Tensor], config: Any = None, name: str = "weights") -> Path:
        path = tmp_path / f"{name}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
        if config is None:
            return path
        path.with_suffix(".json").write_text(config if isinstance(config, str) else json.dumps(config))
        return path

    return write


@pytest.fixture(scope="session")
def mobilenet_tensors() -> dict[str, torch.Tensor]:
    """Random weights of a whole MobileNetV1 in timm's layout."""
    torch.manual_seed(0)
    network = timm.create_model("mobilenetv1_100", features_only=True, **MOBILENET_CONFIG["create_kwargs"])
    return network.state_dict()


@pytest.fixture
def mobilenet_file(write_weights: Callable[..., Path], mobilenet_tensors: dict[str, torch.Tensor]) -> Path:
    """The MobileNetV1 weights without the last stage, which no map of the configuration needs."""
    kept = {name: tensor for name, tensor in mobilenet_tensors.items() if not name.startswith("blocks.4.")}
    return write_weights(kept, MOBILENET_CONFIG)


@pytest.fixture(scope="session")
def official_tensors() -> dict[str, torch.Tensor]:
    """The state dict of a small official network; must not be changed."""
    return official_state_dict(official_shapes(**SMALL), seed=1)


@pytest.fixture
def state_dict(official_tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A copy of that state dict, which a test may change."""
    return dict(official_tensors)
