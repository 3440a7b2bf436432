"""KAP against a plain loop, and by hand."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from make import match_rows

from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.kap import add_counts, average_precision
from pipeline.evaluation.protocols import Protocol, protocol
from schemas.matches import SCORE_ALPHAS
from schemas.pairs import PAIRS

FORTH, BACK = "source_to_target", "target_to_source"
SIDES = {FORTH: ("source", "target"), BACK: ("target", "source")}
ALPHAS = (0.01, 0.05, 0.07, 0.1)


def _planted() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """60 pairs of three categories whose images have keypoints of their own: some have none in common, some failed."""
    rng = np.random.default_rng(3)
    pairs, matches = [], []
    for index in range(60):
        ids = {side: [str(k) for k in range(9) if rng.uniform() < 0.4] for side in ("source", "target")}
        common = [name for name in ids["source"] if name in ids["target"]]
        points = {side: rng.uniform(0, 90, (len(common), 2)).tolist() for side in ids}
        pair: dict[str, Any] = {"pair_id": f"p{index:02}", "dataset": "toy", "category": "abc"[index % 3]}
        pair |= {"keypoint_id": common, "target_category": "z" if index % 10 == 0 else None}
        for side in ids:
            pair |= {f"{side}_xy_px": points[side], f"{side}_box_xyxy": [0, 0, 50, 60]}
            pair |= {f"{side}_all_keypoint_id": ids[side]}
        pairs.append(pair)
        for direction, (query, reference) in SIDES.items():
            asked = pair[f"{query}_all_keypoint_id"]
            found = pair[f"{reference}_all_keypoint_id"]
            scores = np.round(rng.normal(5, 2, (2, len(asked), 3)) * 4) / 4  # with equal ones
            scores[0] += 2
            row = {"pair_id": pair["pair_id"], "direction": direction, "status": "ok" if index % 7 else "error"}
            if index % 7:
                row |= {"query_xy_px": points[query], "reference_xy_px": points[reference], "scored_keypoint_id": asked}
                inside = [
                    list(own) if name in found else [None] * 3 for name, own in zip(asked, scores[0], strict=True)
                ]
                outside = [list(row) if k % 5 else [None] * 3 for k, row in enumerate(scores[1])]
                row |= {"score_inside": inside, "score_outside": outside, "score_lowest": -4.0}
            if index % 11:
                matches.append(row)
    return pairs, matches


def _plain(pairs: list[Any], matches: list[Any], direction: str, column: int, failed: str) -> dict[str, float]:
    """KAP by category, percent: one loop over pairs and keypoints, and one over thresholds."""
    query, reference = SIDES[direction]
    answers = {row["pair_id"]: row for row in matches if row["direction"] == direction and row["status"] == "ok"}
    positives: dict[str, list[int]] = {}
    negatives: dict[str, list[int]] = {}
    for pair in pairs:
        category = pair["category"] + (" -> z" if pair["target_category"] else "")
        asked = pair[f"{query}_all_keypoint_id"]
        found = pair[f"{reference}_all_keypoint_id"]
        answer = answers.get(pair["pair_id"])
        right, wrong = positives.setdefault(category, []), negatives.setdefault(category, [])
        if answer is None:
            right += [-1 for name in asked if name in found and failed == "wrong"]
            continue
        low = answer["score_lowest"]
        lists = [*answer["score_inside"], *answer["score_outside"]]
        high = max([score for scores in lists for score in scores if score is not None], default=low)
        for name, inside, outside in zip(asked, answer["score_inside"], answer["score_outside"], strict=True):
            if name in found:
                right.append(round((inside[column] - low) / (high - low) * 65535))
            if outside[column] is not None:
                wrong.append(round((outside[column] - low) / (high - low) * 65535))
    percents = {}
    for category, right in positives.items():
        if not right:
            continue
        area, recall_before = 0.0, 0.0
        for threshold in sorted({score for score in right if score >= 0}, reverse=True):
            n_found = sum(score >= threshold for score in right)
            n_false = sum(score >= threshold for score in negatives[category])
            area += n_found / (n_found + n_false) * (n_found / len(right) - recall_before)
            recall_before = n_found / len(right)
        percents[category] = 100 * area
    return percents


@pytest.mark.parametrize("failed", ["wrong", "exclude"])
@pytest.mark.parametrize("direction", SIDES)
def test_it_agrees_with_the_plain_loop(direction: str, failed: Any):
    pairs, matches = _planted()
    table = pa.Table.from_pylist(pairs, PAIRS)
    metrics = evaluate(match_rows(*matches), table, [protocol("kap")], ALPHAS, failed, replicates=0).to_pandas()
    metrics = metrics[metrics["direction"] == direction]
    for alpha in ALPHAS:
        rows = metrics[metrics["alpha"] == alpha].set_index(["group_kind", "group"])["kap"]
        if alpha == 0.07:
            assert rows.isna().all()  # matches hold no scores for it
            continue
        expected = _plain(pairs, matches, direction, SCORE_ALPHAS.index(alpha), failed)
        assert len(expected) == 6
        assert all(5 < expected[name] < 95 for name in "abc")
        assert rows["category"].to_dict() == pytest.approx(expected, abs=1e-9)
        assert rows["all", "all"] == pytest.approx(np.mean(list(expected.values())), abs=1e-9)
        assert rows["pair"].isna().all()


def _match(**columns: Any) -> dict[str, Any]:
    points: dict[str, Any] = {"query_xy_px": [[1.0, 1.0]], "reference_xy_px": [[1.0, 1.0]]}
    scores = {"score_inside": [[3, 3, 3], [None] * 3], "score_outside": [[2, 2, 5], [4, 4, 4]], "score_lowest": 1}
    return {"pair_id": "1", "scored_keypoint_id": ["nose", "tail"], **points, **scores, **columns}


def _pair(**columns: Any) -> dict[str, Any]:
    pair = {"pair_id": "1", "dataset": "toy", "category": "cat", "keypoint_id": ["nose"]}
    pair |= {"source_all_keypoint_id": ["nose", "tail"], "target_all_keypoint_id": ["nose"]}
    pair |= {"source_xy_px": [[1.0, 1.0]], "target_xy_px": [[1.0, 1.0]], "target_box_xyxy": [0, 0, 9, 9]}
    return pair | columns


def _kap(match: dict[str, Any], pair: dict[str, Any]) -> list[float]:
    metrics = evaluate(match_rows(match), pa.Table.from_pylist([pair], PAIRS), [protocol("kap")], SCORE_ALPHAS)
    rows = metrics.to_pandas()
    return rows[rows["group_kind"] == "all"]["kap"].tolist()


def test_by_hand():
    """The nose has a match, the tail has none. At .01 and .05 one score, the tail's, is above the nose's; at .1 two."""
    assert _kap(_match(), _pair()) == pytest.approx([50, 50, 100 / 3])


def test_a_pair_whose_images_share_no_keypoint_counts():
    nothing = {"source_xy_px": [], "target_xy_px": [], "keypoint_id": []}
    other = _pair(pair_id="2", target_all_keypoint_id=[], **nothing)
    match = _match(pair_id="2", query_xy_px=[], reference_xy_px=[], score_inside=[[None] * 3] * 2)
    table = pa.Table.from_pylist([_pair(), other], PAIRS)
    metrics = evaluate(match_rows(_match(), match), table, [protocol("kap")], (0.01,)).to_pandas()
    overall = metrics[metrics["group_kind"] == "all"].iloc[0]
    # the other pair's scores 2 and 4, of 1 to 4, are 1/3 and 1: one more is above the nose's 2/3
    assert (overall["n_pairs"], overall["kap"]) == (1, pytest.approx(100 / 3))


@pytest.mark.parametrize(
    ("match", "pair", "why"),
    [
        ({"score_lowest": None}, {}, "has no scores in the matches"),
        ({"scored_keypoint_id": None}, {}, "has no scores in the matches"),
        ({"scored_keypoint_id": ["nose", "paw"]}, {}, "was matched at other query points"),
        ({"score_inside": [[3, 3, 3], [1, 1, 1]]}, {}, "was matched at other query points"),
        ({"score_inside": [[None] * 3] * 2}, {}, "was matched at other query points"),
        ({"score_outside": [[2, 2, 5]]}, {}, "has not 3 numbers for each keypoint in score_outside"),
        ({"score_outside": [[2, 2, 5], [4, 4]]}, {}, "has not 3 numbers for each keypoint in score_outside"),
        ({}, {"source_all_keypoint_id": None}, "has no source_all_keypoint_id, which KAP needs"),
        ({}, {"target_all_keypoint_id": None}, "has no target_all_keypoint_id, which KAP needs"),
    ],
)
def test_what_cannot_be_scored_is_named(match: dict[str, Any], pair: dict[str, Any], why: str):
    with pytest.raises(ValueError, match=f"pair 1 {why}"):
        _kap(_match(**match), _pair(**pair))


def test_it_needs_the_radii_of_the_matches():
    with pytest.raises(ValueError, match="T of the reference's box alone"):
        Protocol(name="own", directions=(FORTH,), base="image", kap=True)


def test_alphas_without_scores_are_refused_where_there_is_no_other():
    matches, pairs = match_rows(_match()), pa.Table.from_pylist([_pair()], PAIRS)
    with pytest.raises(ValueError, match=r"protocol kap: KAP is known at the alphas 0.01, 0.05, 0.1 alone"):
        evaluate(matches, pairs, [protocol("spair"), protocol("kap")], (0.03, 0.2))
    kap = evaluate(matches, pairs, [protocol("kap")], (0.03, 0.1)).to_pandas()
    assert kap[kap["group_kind"] == "all"].set_index("alpha")["kap"].notna().to_dict() == {0.03: False, 0.1: True}


def test_counts_of_parts_add_up():
    counts = np.array([[0, -1, 1, 0], [0, 3, 1, 1], [1, 2, 0, 1]], np.float64)
    assert add_counts([counts, counts[1:]]).tolist() == [[0, -1, 1, 0], [0, 3, 2, 2], [1, 2, 0, 2]]
    # one of two positives is never found; the other has a negative beside it
    assert average_precision(counts, 3) == pytest.approx([25, np.nan, np.nan], nan_ok=True)
