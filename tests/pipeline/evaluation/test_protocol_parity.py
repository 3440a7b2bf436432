"""Every protocol against an independent loop over keypoints, on planted pairs."""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from make import match_rows
from plain_pck import BACK, FORTH, KNOWN_BY, TABLE, plain_pck

from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.keypoint_errors import Failed
from pipeline.evaluation.protocols import PROTOCOLS
from schemas.metrics import MEASURES
from schemas.pairs import PAIRS

OF_KEYPOINTS = {name: PROTOCOLS[name] for name in PROTOCOLS if name not in ("tss", "kap", "geco")}
"""The others have tests of their own: test_flow_errors, test_kap, test_mirror_cases."""
ALPHAS = (0.03, 0.1, 0.15, 0.4)
CASES = [(name, direction) for name, (directions, *_) in TABLE.items() for direction in directions]


@pytest.fixture(scope="module")
def planted() -> tuple[pa.Table, pa.Table]:
    """60 pairs of five categories, one null: some without keypoints, and some failed or missing in either direction."""
    rng = np.random.default_rng(11)
    pairs, matches = [], []
    for index in range(60):
        hw = {side: rng.integers(90, 500, 2).tolist() for side in ("source", "target")}
        count = 0 if index % 15 == 14 else int(rng.integers(2, 9))
        pair: dict[str, Any] = {
            "pair_id": f"p{index:02}",
            "dataset": "toy",
            "category": ["cat", "dog", "bus", "rare", None][rng.choice(5, p=[0.4, 0.2, 0.1, 0.1, 0.2])],
            "keypoint_id": [str(k) for k in range(count)],
            "geometry_groups": [["0", "1", "9"], ["2", "8"], ["3"]],
            "source_visibility": [2] * count,
            "target_visibility": [2] * count,
        }
        if index % 7 == 3:
            pair["target_category"] = "horse"
        for side, (height, width) in hw.items():
            # a sixth beyond the image on every side
            pair[f"{side}_xy_px"] = (rng.uniform(-0.17, 1.17, (count, 2)) * [width, height]).tolist()
            left, top, box_width, box_height = rng.uniform(0.1, 0.5, 4) * [width, height, width, height]
            pair[f"{side}_box_xyxy"] = [left, top, left + box_width, top + box_height]
        pair["target_all_keypoint_id"] = [*pair["keypoint_id"], *(["8"] if index % 2 else [])]
        if count and index % 2:
            # two keypoints that may be mistaken for each other
            x, y = pair["target_xy_px"][0]
            pair["target_xy_px"][1] = [x + 4, y + 3]
        around = rng.uniform(-0.4, 0.4, (count, 3, 2)) * np.array(hw["target"][::-1])
        around[: count // 2, 0] = 0
        valid = np.reshape(pair["target_xy_px"], (-1, 1, 2)) + around
        pair["target_valid_xy_px"] = [points[: 1 + k % 3].tolist() for k, points in enumerate(valid)]
        pairs.append(pair)
        for direction, query, reference in ((FORTH, "source", "target"), (BACK, "target", "source")):
            fate = rng.choice(["ok", "error", "missing"], p=[0.8, 0.1, 0.1])
            if fate == "missing":
                continue
            row = {"pair_id": pair["pair_id"], "direction": direction, "status": fate}
            if fate == "ok":
                far = np.exp(rng.uniform(np.log(0.005), np.log(0.7), (count, 1)))
                off = far * rng.choice([-1, 1], (count, 2)) * rng.uniform(0.1, 1, (count, 2)) * hw[reference][::-1]
                predicted = np.reshape(pair[f"{reference}_xy_px"], (-1, 2)) + off
                predicted[rng.uniform(size=count) < 0.03] = np.nan
                row |= {"query_hw": hw[query], "reference_hw": hw[reference]}
                row |= {"answer_grid_hw": None if index % 5 == 0 else [3 + index % 3, 4]}
                row |= {"query_xy_px": pair[f"{query}_xy_px"], "reference_xy_px": predicted.tolist()}
            matches.append(row)
    assert {pair["category"] for pair in pairs} == {"cat", "dog", "bus", "rare", None}
    return pa.Table.from_pylist(pairs, PAIRS), match_rows(*matches)


@pytest.fixture(scope="module", params=["wrong", "exclude"])
def scored(request: pytest.FixtureRequest, planted: tuple[pa.Table, pa.Table]) -> tuple[Failed, pd.DataFrame]:
    pairs, matches = planted
    metrics = evaluate(matches, pairs, list(OF_KEYPOINTS.values()), ALPHAS, request.param, replicates=0)
    return request.param, metrics.to_pandas()


def test_the_table_of_protocols_is_complete(scored: tuple[Failed, pd.DataFrame]):
    _, metrics = scored
    assert set(metrics[["protocol", "direction"]].itertuples(index=False, name=None)) == set(CASES)
    assert {name: protocol.average for name, protocol in OF_KEYPOINTS.items()} == KNOWN_BY


@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize(("name", "direction"), CASES)
def test_a_protocol_agrees_with_the_plain_loop(
    name: str,
    direction: str,
    alpha: float,
    planted: tuple[pa.Table, pa.Table],
    scored: tuple[Failed, pd.DataFrame],
):
    failed, metrics = scored
    pairs, matches = (table.to_pylist() for table in planted)
    expected = plain_pck(name, direction, pairs, matches, alpha, failed)
    rows = metrics[(metrics["protocol"] == name) & (metrics["direction"] == direction) & (metrics["alpha"] == alpha)]
    overall = rows[rows["group_kind"] == "all"].iloc[0]
    assert overall.pck_image == pytest.approx(expected["image"], abs=1e-9)
    assert overall.pck_point == pytest.approx(expected["point"], abs=1e-9)
    assert overall.pck_class_mean == pytest.approx(expected["class"], abs=1e-9)
    for count in ("n_pairs", "n_points", "n_failed"):
        assert overall[count] == expected[count]
    measures = {name: (overall[f"{name}_image"], overall[f"{name}_point"]) for name in MEASURES}
    known = {name: values for name, values in measures.items() if not np.isnan(values).any()}
    assert known.keys() == expected["measures"].keys()
    for measure, values in known.items():
        assert values == pytest.approx(expected["measures"][measure], abs=1e-9)
    categories = rows[(rows["group_kind"] == "category") & (rows["n_pairs"] > 0)].set_index("group")["pck_image"]
    assert categories.to_dict() == pytest.approx(expected["categories"], abs=1e-9)


def test_the_planted_pairs_tell_the_protocols_apart(scored: tuple[Failed, pd.DataFrame]):
    """The protocols that must give different results: a square's side cancels where T is the image's, and matters
    little where it only scales padding; a letterbox changes ties alone.
    """
    _, metrics = scored
    alike = [f"pf-pascal@{side}" for side in (224, 240, 512)] + ["pf-willow-bbox-legacy@240"]
    alike += ["geoaware-image", "geoaware-point", "marco-ap10k", "ap10k", "ap10k-geoaware", "soco", "cub-dem"]
    alike += ["marco", "cub-geco"]
    overall = metrics[(metrics["group_kind"] == "all") & (metrics["alpha"] == 0.1) & ~metrics["protocol"].isin(alike)]
    assert len(overall) == 17
    assert overall["pck_image"].nunique() == 17
    assert overall["pck_image"].between(10, 90).all()
    assert overall["n_failed"].min() > 0
