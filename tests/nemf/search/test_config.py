"""The one judge of search settings, whether they come from Python, a query string or a checkpoint's JSON."""

import json
from dataclasses import asdict, fields
from typing import Any

import pytest

from nemf import pretrained
from nemf.search.config import (
    CHECKPOINT_SETTINGS,
    SearchConfig,
    as_options,
    search_options,
    setting_fault,
    settings_from_json,
)

BOUNDS: dict[str, tuple[list[Any], list[Any]]] = {
    "patchmatch_steps": ([0, 1000], [-1, 1001, 10**12, 3.0, True, "3", None]),
    "refine_steps": ([0, 1000], [-1, 1001, 5.0, False]),
    "refine_lr": ([1e-9, 999_999.0], [0, 0.0, -1e-3, 1e6, float("inf"), float("nan"), True, "1"]),
    "radius_norm": ([1e-9, 2.0], [0, -0.1, 2.0001, float("nan"), True]),
    "radius_decay": ([1e-9, 1.0], [0, -0.1, 1.5, float("nan"), True]),
    "seed": ([0, -(2**63) + 1, 2**63 - 1], [2**63, -(2**63), 0.5, True, "0"]),
    "positional_gradient": ([True, False], [0, 1, "true"]),
    "neighbour_offset": ([True, False], [0, 1, None]),
    "grid_strides": (
        [(1,), (4096, 1), (8, 7, 6, 5, 4, 3, 2, 1)],
        [(), (4, 0), (2, 4, 1), (2, 1, 1), (4097,), (9, 8, 7, 6, 5, 4, 3, 2, 1), (8.0,), (True,), 8, "4"],
    ),
    "point_search": (["patchmatch", "map", "mirrored-map"], ["mirror", None, True]),
    "flow_nodes": ([0, 2, 128], [1, -1, 129, 32.0, True, "32"]),
    "precision": (["float32", "bfloat16"], ["half", None]),
}


def test_every_setting_is_judged():
    assert [field.name for field in fields(SearchConfig)] == [
        "patchmatch_steps",
        "refine_steps",
        "refine_lr",
        "radius_norm",
        "seed",
        "positional_gradient",
        "neighbour_offset",
        "radius_decay",
        "grid_strides",
        "point_search",
        "flow_nodes",
        "precision",
    ]
    assert BOUNDS.keys() == {field.name for field in fields(SearchConfig)}


@pytest.mark.parametrize("name", BOUNDS)
def test_the_same_bounds_from_everywhere(name: str):
    allowed, refused = BOUNDS[name]
    for value in allowed:
        assert getattr(SearchConfig(**{name: value}), name) == value
        assert search_options("x", as_options({name: value})[0]) == {name: value}
        if name in CHECKPOINT_SETTINGS:
            assert settings_from_json(json.loads(json.dumps({name: value}))) == {name: value}
    for value in refused:
        fault = setting_fault(name, value)
        assert fault is not None
        with pytest.raises((ValueError, TypeError)) as refusal:  # the tests check types before anything is judged
            SearchConfig(**{name: value})
        assert isinstance(refusal.value, TypeError) or str(refusal.value) == f"{name} {fault}"
        if name in CHECKPOINT_SETTINGS:
            with pytest.raises(ValueError, match=rf"^field search\.{name} must be"):
                settings_from_json({name: value})


def test_messages():
    with pytest.raises(ValueError, match=r"^refine_lr must be a number above 0 and below 1e6; got 0\.0$"):
        SearchConfig(refine_lr=0.0)
    with pytest.raises(ValueError, match=r"^radius_decay must be a number above 0 and at most 1; got 1\.5$"):
        SearchConfig(radius_decay=1.5)
    falling = r"^grid_strides must be a list of 1 to 8 falling whole numbers from 1 to 4096; got \(2, 4, 1\)$"
    with pytest.raises(ValueError, match=falling):
        SearchConfig(grid_strides=(2, 4, 1))
    with pytest.raises(ValueError, match=r"^--search: patchmatch_steps must be a whole number from 0 to 1000; got -1$"):
        search_options("--search", "patchmatch_steps=-1")
    with pytest.raises(ValueError, match=r"^search has unknown fields: precision, speed$"):
        settings_from_json({"speed": 3, "precision": "bfloat16"})
    with pytest.raises(ValueError, match=r"^search must be a JSON object; got \[\]$"):
        settings_from_json([])


def test_a_number_without_fraction_is_a_number_in_json():
    assert settings_from_json({"radius_norm": 2}) == {"radius_norm": 2}


def test_settings_there_and_back():
    everything = asdict(SearchConfig(neighbour_offset=True, grid_strides=(4, 1), seed=-3))
    assert search_options("x", "&".join(as_options(everything))) == everything


def test_the_shipped_search():
    shipped = pretrained.search_settings("nemf-small")
    assert as_options(shipped) == (
        "patchmatch_steps=3",
        "flow_nodes=32",
        "grid_strides=4",
        "radius_norm=0.8",
        "radius_decay=0.5",
        "refine_steps=5",
        "refine_lr=0.02",
        "point_search=map",
    )
