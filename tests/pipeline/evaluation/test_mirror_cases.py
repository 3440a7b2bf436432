"""The cases of left and right against a plain loop."""

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from make import match_rows

from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.protocols import protocol
from schemas.pairs import PAIRS

MIRRORED = [["0", "1"], ["2", "3"], ["4", "5"]]
ALPHAS = (0.05, 0.1, 0.3)


@pytest.fixture(scope="module")
def planted() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """40 pairs of eight keypoints, of which 6 and 7 have no twin; an answer is near the truth, its twin or both."""
    rng = np.random.default_rng(2)
    pairs, matches = [], []
    for index in range(40):
        labelled = [str(k) for k in range(8) if rng.uniform() < 0.7]
        places = rng.uniform(0, 200, (len(labelled), 2)).astype(np.float32).tolist()
        common = [k for k, name in enumerate(labelled) if name in "67" or rng.uniform() < 0.8]
        truth = [places[k] for k in common]
        pair: dict[str, Any] = {"pair_id": f"p{index:02}", "dataset": "toy", "category": "ab"[index % 2]}
        pair |= {"keypoint_id": [labelled[k] for k in common], "mirror_keypoint_ids": MIRRORED}
        pair |= {"source_xy_px": truth, "target_xy_px": truth, "target_box_xyxy": [0, 0, 100, 80]}
        pair |= {"target_all_keypoint_id": labelled, "target_all_xy_px": places}
        pairs.append(pair)
        if index % 9:
            answers = [places[k] if rng.uniform() < 0.7 else places[rng.integers(len(places))] for k in common]
            answers = (np.reshape(answers, (-1, 2)) + rng.normal(0, 8, (len(common), 2))).astype(np.float32).tolist()
            row = {"pair_id": pair["pair_id"], "query_xy_px": truth, "reference_xy_px": answers}
            matches.append(row if index % 7 else {"pair_id": pair["pair_id"], "status": "error"})
    return pairs, matches


def _plain(pairs: list[Any], matches: list[Any], alpha: float, failed: str) -> dict[str, list[int]]:
    """By case: keypoints, those that are right, those at the twin alone, and at both."""
    counts = {case: [0, 0, 0, 0] for case in ("n11", "n10", "n1x")}
    answers = {row["pair_id"]: row for row in matches if row.get("status") != "error"}
    for pair in pairs:
        for k, name in enumerate(pair["keypoint_id"]):
            twin = {"0": "1", "1": "0", "2": "3", "3": "2", "4": "5", "5": "4"}.get(name)
            is_there = twin in pair["target_all_keypoint_id"]
            case = counts["n1x" if twin is None else "n11" if is_there else "n10"]
            if pair["pair_id"] not in answers:
                case[0] += failed == "wrong"
                continue
            found = answers[pair["pair_id"]]["reference_xy_px"][k]
            near = math.dist(found, pair["target_xy_px"][k]) <= alpha * 100
            case[0] += 1
            case[1] += near
            if is_there:
                place = pair["target_all_xy_px"][pair["target_all_keypoint_id"].index(twin)]
                near_twin = math.dist(found, place) <= alpha * 100
                case[2] += near_twin and not near
                case[3] += near_twin and near
    return counts


@pytest.mark.parametrize("failed", ["wrong", "exclude"])
@pytest.mark.parametrize("alpha", ALPHAS)
def test_it_agrees_with_the_plain_loop(planted: Any, alpha: float, failed: Any):
    pairs, matches = planted
    table = pa.Table.from_pylist(pairs, PAIRS)
    metrics = evaluate(match_rows(*matches), table, [protocol("geco")], ALPHAS, failed, replicates=20).to_pandas()
    rows = metrics[(metrics["alpha"] == alpha) & (metrics["subset"] == "all")]
    cases = rows[rows["group_kind"] == "mirror_case"].set_index("group")
    overall = rows[rows["group_kind"] == "all"].iloc[0]
    expected = _plain(pairs, matches, alpha, failed)
    assert cases["n_points"].to_dict() == {case: counts[0] for case, counts in expected.items()}
    right = {case: 100 * counts[1] / counts[0] for case, counts in expected.items()}
    assert cases["pck_point"].to_dict() == pytest.approx(right, abs=1e-9)
    assert cases["pck_point_low"].notna().all()
    n11 = expected["n11"]
    for row in (overall, cases.loc["n11"]):
        assert row["twin_point"] == pytest.approx(100 * n11[2] / n11[0], abs=1e-9)
        assert row["both_point"] == pytest.approx(100 * n11[3] / n11[0], abs=1e-9)
    assert cases.loc[["n10", "n1x"], "twin_point"].isna().all()
    assert n11[2] > 0
    n_right, n_points = (sum(counts[i] for counts in expected.values()) for i in (1, 0))
    assert overall["pck_point"] == pytest.approx(100 * n_right / n_points, abs=1e-9)


@pytest.mark.parametrize("column", ["keypoint_id", "target_all_keypoint_id", "target_all_xy_px", "mirror_keypoint_ids"])
def test_a_pair_without_what_is_needed_is_named(planted: Any, column: str):
    pairs, matches = planted
    table = pa.Table.from_pylist([{**pairs[1], column: None}], PAIRS)
    with pytest.raises(ValueError, match=f"pair p01 has no {column}, which the cases of left and right need"):
        evaluate(match_rows(matches[0]), table, [protocol("geco")])


@pytest.mark.parametrize(
    ("column", "value", "why"),
    [
        ("mirror_keypoint_ids", [["0", "1"], None], "has a null in the list of its mirror_keypoint_ids"),
        ("target_all_xy_px", [None], "has a null in the list of its target_all_xy_px"),
        ("target_all_keypoint_id", [None], "has a null in the list of its target_all_keypoint_id"),
        ("keypoint_id", [None], "has a null in the list of its keypoint_id"),
        ("target_all_xy_px", [], "has another number of target_all_keypoint_id than of target_all_xy_px"),
    ],
)
def test_a_pair_whose_lists_do_not_fit_is_named(planted: Any, column: str, value: Any, why: str):
    pairs, matches = planted
    table = pa.Table.from_pylist([pairs[2], {**pairs[1], column: value}], PAIRS)
    with pytest.raises(ValueError, match=f"pair p01 {why}"):
        evaluate(match_rows(matches[0]), table, [protocol("geco")])
