"""The package against the plain implementation in tests/support: first its stored answers, then the answers anew."""

from functools import partial

import numpy as np
import plain_nemf
import pytest
import torch
import torch.nn.functional as F
from official_nemf import SMALL, official_shapes, official_state_dict

from nemf.checkpoints import from_official_state_dict
from nemf.model.network import Encoded, NeMF, initial_field
from nemf.search.patchmatch import patchmatch
from nemf.search.refine import refine


@pytest.fixture(scope="module")
def golden() -> dict[str, torch.Tensor]:
    with np.load(plain_nemf.GOLDEN) as arrays:
        return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def model() -> NeMF:
    state_dict = official_state_dict(official_shapes(**SMALL), plain_nemf.SEED)
    return from_official_state_dict(state_dict, plain_nemf.HEADS).requires_grad_(False)


@pytest.fixture(scope="module")
def encoded(golden: dict[str, torch.Tensor], model: NeMF) -> Encoded:
    with torch.no_grad():
        return model.encode(golden["source"][None], golden["target"][None])


@pytest.mark.parametrize("name", ["correlation", "refined", "refined_mean", "coarse_flow", "cost_features"])
def test_encoding(golden: dict[str, torch.Tensor], encoded: Encoded, name: str):
    actual, expected = getattr(encoded, name)[0], golden[name]
    assert (actual - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_logits(golden: dict[str, torch.Tensor], model: NeMF, encoded: Encoded):
    logits = model.score(encoded, golden["query_source_xy"][None], golden["query_target_xy"][None])[0]
    assert (logits - golden["query_logits"]).abs().max() <= 1e-3


def test_patchmatch(golden: dict[str, torch.Tensor], model: NeMF, encoded: Encoded):
    start = F.interpolate(golden["coarse_flow"][None], (5, 7), mode="bilinear", align_corners=True)
    assert torch.allclose(initial_field(encoded, (5, 7)), start, atol=1e-4)
    actual = patchmatch(partial(model.score, encoded), start, iterations=4, noise=golden["noise"][:, None])
    assert (actual[0] - golden["field"]).abs().max() <= 1e-4


def test_coordinate_optimisation(golden: dict[str, torch.Tensor], model: NeMF, encoded: Encoded):
    score = partial(model.score, encoded, target_xy_norm=golden["target_xy"][None])
    actual = refine(score, golden["start_xy"][None], steps=12, lr=2e-3)
    assert (actual[0] - golden["start_xy"]).abs().min() > 1e-3
    assert (actual[0] - golden["optimised_xy"]).abs().max() <= 2e-4


def test_the_stored_answers_are_those_of_the_plain_implementation(golden: dict[str, torch.Tensor]):
    made = plain_nemf.make_golden()
    assert made.keys() == golden.keys()
    for name, array in made.items():
        assert np.allclose(array, golden[name].numpy(), rtol=1e-4, atol=1e-4), name
