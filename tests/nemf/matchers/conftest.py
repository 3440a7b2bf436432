"""A small network of the published architecture with random weights, and its matcher; nothing is kept between calls."""

import pytest
import torch
from official_nemf import SMALL, official_shapes, official_state_dict

from nemf.matchers.nemf import NemfMatcher
from nemf.model.network import NeMF
from nemf.official.names import from_official_state_dict
from nemf.search.config import SearchConfig


@pytest.fixture(scope="package")
def model() -> NeMF:
    return from_official_state_dict(official_state_dict(official_shapes(**SMALL), seed=3), 2)


@pytest.fixture(scope="package")
def matcher(model: NeMF) -> NemfMatcher:
    search = SearchConfig(patchmatch_steps=3, refine_steps=2)
    return NemfMatcher("nemf", model, torch.device("cpu"), search)


@pytest.fixture(autouse=True)
def _nothing_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that tests which compare calls of a matcher compare what each of them encodes; test_feature_cache.py keeps."""
    monkeypatch.setattr("nemf.matchers.feature_cache.KEPT_BYTES", 0)
