from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.keypoint_errors import count_without_keypoints
from pipeline.evaluation.protocols import protocol
from schemas.matches import MATCHES
from schemas.metrics import METRICS
from schemas.pairs import PAIRS

SPAIR, NEMF, WILLOW, PASCAL = (protocol(name) for name in ("spair", "nemf", "pf-willow-bbox-kp", "pf-pascal"))
CORNERS = [[10, 10], [60, 10], [10, 40], [60, 40]]


def _pair(pair_id: str, category: str | None, points: Sequence[Sequence[float]] | None = CORNERS, **more: Any):
    """Source and target show the points at the same position; T of spair is 100, of nemf 200."""
    row = {"pair_id": pair_id, "category": category, "dataset": "toy", "source_xy_px": points, "target_xy_px": points}
    boxes = {"source_box_xyxy": [0, 0, 200, 80], "target_box_xyxy": [0, 10, 100, 60]}
    return {**row, **boxes, **more}


def _answer(pair: dict[str, Any], off_px: Sequence[float] = (), direction: str = "source_to_target", **more: Any):
    """A match whose k-th prediction is off_px[k] right of the truth."""
    query, reference = ("source", "target") if direction == "source_to_target" else ("target", "source")
    truth = pair[f"{reference}_xy_px"] or []
    row = {"pair_id": pair["pair_id"], "direction": direction, "attempt": 1, "status": "ok"}
    row |= {"matcher": "planted", "fingerprint": "f", "query_hw": [90, 300], "reference_hw": [90, 300]}
    row["query_xy_px"] = pair[f"{query}_xy_px"]
    row["reference_xy_px"] = [[x + off, y] for (x, y), off in zip(truth, off_px, strict=True)]
    return {**row, **more}


def _error(pair: dict[str, Any]) -> dict[str, Any]:
    nothing = {"query_xy_px": None, "reference_xy_px": None, "reference_hw": None}
    why = {"status": "error", "error_stage": "decode", "error_kind": "truncated"}
    return {**_answer(pair, [0] * len(pair["target_xy_px"] or [])), **nothing, **why}


def _pairs(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), PAIRS)


def _matches(*rows: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), MATCHES)


def _one(metrics: pa.Table, alpha: float = 0.1, kind: str = "all", group: str = "all", **more: str) -> pd.Series:
    frame = metrics.to_pandas()
    for name, value in {"alpha": alpha, "group_kind": kind, "group": group, "subset": "all", **more}.items():
        frame = frame[frame[name] == value]
    assert len(frame) == 1
    return frame.iloc[0]


def _three() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    a, b = _pair("a", "cat"), _pair("b", "cat", [[50, 50]])
    c = _pair("c", "dog", [[5, 5], [25, 5]], target_box_xyxy=[0, 0, 20, 40])
    return [a, b, c], [_answer(a, [0, 5, 10, 20]), _answer(b, [100]), _answer(c, [2, 4])]


def test_hand_computed_averages_per_category_and_overall():
    pairs, matches = _three()
    metrics = evaluate(_matches(*matches), _pairs(*pairs), [SPAIR])
    assert metrics.schema.equals(METRICS)
    cat, dog, overall = (
        [_one(metrics, alpha, kind, group) for alpha in (0.01, 0.03, 0.05, 0.1, 0.15)]
        for kind, group in (("category", "cat"), ("category", "dog"), ("all", "all"))
    )
    # cat: T = 100, pair a has errors 0, 5, 10, 20 and pair b 100; dog: T = 40, errors 2 and 4
    assert [row.pck_image for row in cat] == [12.5, 12.5, 25.0, 37.5, 37.5]
    assert [row.pck_point for row in cat] == [20.0, 20.0, 40.0, 60.0, 60.0]
    assert [row.pck_image for row in dog] == [0.0, 0.0, 50.0, 100.0, 100.0]
    assert [row.pck_image for row in overall] == pytest.approx([25 / 3, 25 / 3, 100 / 3, 175 / 3, 175 / 3])
    assert [row.pck_point for row in overall] == pytest.approx([100 / 7, 100 / 7, 300 / 7, 500 / 7, 500 / 7])
    assert [row.pck_class_mean for row in overall] == [6.25, 6.25, 37.5, 68.75, 68.75]
    assert (overall[0].n_pairs, overall[0].n_points, overall[0].n_failed) == (3, 7, 0)
    assert (cat[0].n_pairs, cat[0].n_points) == (2, 5)
    assert [_one(metrics, 0.1, "pair", name).pck_image for name in "abc"] == [75.0, 0.0, 100.0]
    assert pd.isna(cat[0].pck_class_mean)
    assert pd.isna(_one(metrics, 0.1, "pair", "a").pck_image_low)


def test_nothing_is_nan_and_the_order_of_rows_does_not_matter():
    pairs, matches = _three()
    metrics = evaluate(_matches(*matches), _pairs(*pairs), [SPAIR])
    assert metrics.equals(evaluate(_matches(*matches[::-1]), _pairs(*pairs[::-1]), [SPAIR]))
    for column in metrics.select(["pck_image", "pck_point", "pck_class_mean"]).columns:
        assert np.isfinite(column.drop_null().to_numpy()).all()


def test_agrees_with_a_loop_over_random_pairs():
    rng = np.random.default_rng(3)
    pairs, matches, expected = [], [], {}
    for index in range(40):
        points = rng.uniform(-20, 120, (int(rng.integers(1, 9)), 2)).astype(np.float32).tolist()
        box = [5.0, 5.0, 5 + float(rng.integers(20, 90)), 5 + float(rng.integers(20, 90))]
        pair = _pair(f"p{index:02}", f"c{index % 3}", points, target_box_xyxy=box)
        off = rng.uniform(0, 20, len(points)).astype(np.float32).tolist()
        row = _answer(pair, off)
        pairs.append(pair)
        matches.append(row)
        threshold = 0.1 * max(box[2] - box[0], box[3] - box[1])
        shown = np.float32(row["reference_xy_px"]).astype(float) - np.float32(points).astype(float)
        good = [np.hypot(*difference) <= threshold for difference in shown]
        expected[pair["pair_id"]] = 100 * sum(good) / len(good)
    metrics = evaluate(_matches(*matches), _pairs(*pairs), [SPAIR], [0.1])
    for pair_id, percent in expected.items():
        assert _one(metrics, 0.1, "pair", pair_id).pck_image == pytest.approx(percent)
    assert 0 < _one(metrics).pck_image < 100
    assert _one(metrics).pck_image == pytest.approx(np.mean(list(expected.values())))


def test_spair_and_nemf_differ_in_direction_and_in_whose_box_counts():
    pair = _pair("a", "cat", [[50, 50]])  # target box 100 px, source box 200 px
    both = _matches(_answer(pair, [15]), _answer(pair, [15], "target_to_source"))
    metrics = evaluate(both, _pairs(pair), [SPAIR, NEMF])
    assert _one(metrics, protocol="spair", direction="source_to_target").pck_image == 0.0
    assert _one(metrics, protocol="nemf", direction="target_to_source").pck_image == 100.0


def test_t_of_pf_pascal_is_the_image_and_of_pf_willow_the_keypoints():
    pair = _pair("a", "cat", CORNERS)  # keypoints' box 50 px, image 90 x 300
    row = _matches(_answer(pair, [5, 6, 30, 31]))
    metrics = evaluate(row, _pairs(pair), [WILLOW, PASCAL])
    assert _one(metrics, protocol="pf-willow-bbox-kp").pck_image == 25.0
    assert _one(metrics, protocol="pf-pascal").pck_image == 75.0


def test_either_direction_scores_each_one_present():
    pair = _pair("a", "cat", [[50, 50]])
    back = _answer(pair, [0], "target_to_source")
    only_back = evaluate(_matches(back), _pairs(pair), [PASCAL])
    assert set(only_back["direction"].to_pylist()) == {"target_to_source"}
    both = evaluate(_matches(back, _answer(pair, [99])), _pairs(pair), [PASCAL])
    assert _one(both, direction="target_to_source").pck_image == 100.0
    assert _one(both, direction="source_to_target").pck_image == 0.0


def test_an_absent_direction_names_the_command_to_run():
    pair = _pair("a", "cat")
    with pytest.raises(ValueError, match=r"nemf.*nemf match --direction target_to_source"):
        evaluate(_matches(_answer(pair, [0] * 4)), _pairs(pair), [NEMF])


def test_failed_and_missing_pairs_count_as_wrong_or_are_excluded_but_always_counted():
    good, broken, missing = (_pair(name, "cat") for name in ("good", "broken", "missing"))
    lost_class = _pair("lost", "dog")
    pairs = _pairs(good, broken, missing, lost_class)
    matches = _matches(_answer(good, [0, 0, 0, 99]), _error(broken))
    wrong = evaluate(matches, pairs, [SPAIR])
    assert (_one(wrong).pck_image, _one(wrong).pck_point) == (75 / 4, 300 / 16)
    assert (_one(wrong).n_pairs, _one(wrong).n_points, _one(wrong).n_failed) == (4, 16, 3)
    assert _one(wrong).pck_class_mean == 12.5
    excluded = evaluate(matches, pairs, [SPAIR], failed="exclude")
    assert (_one(excluded).pck_image, _one(excluded).pck_point) == (75.0, 75.0)
    assert (_one(excluded).n_pairs, _one(excluded).n_points, _one(excluded).n_failed) == (1, 4, 3)
    assert _one(excluded).pck_class_mean == 75.0
    dog = _one(excluded, 0.1, "category", "dog")
    assert (dog.n_pairs, dog.n_failed, dog.pck_image) == (0, 1, 0.0)


def test_pairs_without_keypoints_are_skipped():
    scored = _pair("a", "cat")
    empty, none = _pair("b", "cat", []), _pair("c", "dog", None)
    no_truth = _pair("d", "dog", CORNERS, target_xy_px=None)
    matches = [_answer(scored, [0] * 4), _answer(empty), _answer(none), _answer(no_truth, reference_xy_px=CORNERS)]
    pairs = _pairs(scored, empty, none, no_truth)
    metrics = evaluate(_matches(*matches), pairs, [SPAIR])
    assert (_one(metrics).n_pairs, _one(metrics).n_failed, _one(metrics).pck_image) == (1, 0, 100.0)
    assert "dog" not in metrics["group"].to_pylist()
    assert count_without_keypoints(pairs) == 3


def test_a_data_set_without_keypoints_has_an_all_row_that_says_so():
    pair = _pair("a", "cat", None)
    metrics = evaluate(_matches(_answer(pair)), _pairs(pair), [SPAIR], [0.1])
    assert metrics.num_rows == 1
    assert (_one(metrics).n_pairs, _one(metrics).pck_image) == (0, 0.0)
    assert _one(metrics).pck_class_mean is None or pd.isna(_one(metrics).pck_class_mean)


def test_a_run_without_rows_is_all_missing():
    metrics = evaluate(_matches(), _pairs(_pair("a", "cat")), [NEMF])
    assert (_one(metrics).n_failed, _one(metrics).pck_image) == (1, 0.0)


def test_keypoints_and_predictions_outside_the_image_count_by_distance():
    pair = _pair("a", "cat", [[-5, 20], [5, 20], [5, 30], [5, 40]])
    row = _answer(pair, [0, -10, -50, np.nan])  # clamping to the image would make the third correct
    metrics = evaluate(_matches(row), _pairs(pair), [SPAIR])
    assert _one(metrics).pck_image == 50.0


def test_leak_free_pairs_are_scored_beside_all_where_the_manifest_knows():
    leaked, fresh = _pair("a", "cat", seen_in_training=True), _pair("b", "cat", seen_in_training=False)
    unknown, other = _pair("c", "cat"), _pair("d", "cat", dataset="other")
    matches = _matches(
        *(_answer(pair, [off] * 4) for pair, off in ((leaked, 0), (fresh, 99), (unknown, 0), (other, 0)))
    )
    metrics = evaluate(matches, _pairs(leaked, fresh, unknown, other), [SPAIR])
    assert _one(metrics, dataset="toy").pck_image == pytest.approx(200 / 3)
    leak_free = _one(metrics, dataset="toy", subset="leak_free")
    assert (leak_free.n_pairs, leak_free.pck_image) == (1, 0.0)
    assert set(metrics.filter(pa.compute.equal(metrics["dataset"], "other"))["subset"].to_pylist()) == {"all"}


def test_nuisances_group_by_level_and_absent_ones_are_unknown():
    easy, hard, silent = (
        _pair("a", "cat", viewpoint_variation=0),
        _pair("b", "cat", viewpoint_variation=2),
        _pair("c", None),
    )
    matches = _matches(_answer(easy, [0] * 4), _answer(hard, [99] * 4), _answer(silent, [0, 0, 99, 99]))
    metrics = evaluate(matches, _pairs(easy, hard, silent), [SPAIR])
    levels = [_one(metrics, 0.1, "viewpoint_variation", level).pck_image for level in ("0", "2", "unknown")]
    assert levels == [100.0, 0.0, 50.0]
    assert _one(metrics, 0.1, "truncation", "unknown").n_pairs == 3
    assert _one(metrics, 0.1, "category", "unknown").pck_image == 50.0


def test_a_stale_run_is_refused_naming_the_pair():
    pair, moved = _pair("fine", "cat"), _pair("moved", "cat")
    answers = [_answer(pair, [0] * 4), _answer(moved, [0] * 4)]
    pairs = _pairs(pair, {**moved, "source_xy_px": [[10, 11], *CORNERS[1:]]})
    with pytest.raises(ValueError, match="pair moved was matched at other query points"):
        evaluate(_matches(*answers), pairs, [SPAIR])
    with pytest.raises(ValueError, match="pair moved was matched at other query points"):
        evaluate(_matches(*answers), _pairs(pair, _pair("moved", "cat", [[1, 1]])), [SPAIR])
    flow_only = {**answers[1], "query_xy_px": None, "reference_xy_px": None}
    with pytest.raises(ValueError, match=r"pair moved has keypoints.*--outputs keypoints"):
        evaluate(_matches(answers[0], flow_only), _pairs(pair, moved), [SPAIR])


@pytest.mark.parametrize("points", [[[np.nan, 1], *CORNERS[1:]], [None, *CORNERS[1:]], [*CORNERS, [1, 1]]])
def test_unusable_keypoints_of_a_pair_that_failed_count_as_failed(points: list[Any]):
    """The match job gives such a pair an error row; it must not keep the others from being scored."""
    fine, bad = _pair("fine", "cat"), _pair("bad", "cat", target_xy_px=points)
    matches = _matches(_answer(fine, [0] * 4), _error(_pair("bad", "cat")))
    overall = _one(evaluate(matches, _pairs(fine, bad), [SPAIR]))
    assert (overall.n_pairs, overall.n_points, overall.n_failed) == (2, 8, 1)
    assert overall.pck_image == overall.pck_point == 50.0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target_box_xyxy": None}, "pair bad has no usable target_box_xyxy.*spair"),
        ({"target_box_xyxy": [5, 5, 5, 5]}, "pair bad has no usable target_box_xyxy"),
        ({"target_xy_px": [[1, 1]]}, "pair bad has unequal numbers of source and target keypoints"),
        ({"target_xy_px": [[np.nan, 1], *CORNERS[1:]]}, "pair bad has a keypoint that is not finite"),
        ({"target_xy_px": [None, *CORNERS[1:]]}, "column target_xy_px has 1 null points"),
        ({"pair_id": "fine"}, "repeats 1 pair ids"),
    ],
)
def test_a_manifest_that_cannot_be_scored_is_refused(change: dict[str, Any], message: str):
    fine, bad = _pair("fine", "cat"), _pair("bad", "cat")
    matches = _matches(_answer(fine, [0] * 4), _answer(bad, [0] * 4))
    with pytest.raises(ValueError, match=message):
        evaluate(matches, _pairs(fine, {**bad, **change}), [SPAIR])


@pytest.mark.parametrize("points", [[[5, 5]], [[5, 5], [5, 5]]])
def test_keypoints_without_extent_have_no_t_under_pf_willow(points: list[list[float]]):
    fine, bad = _pair("fine", "cat"), _pair("bad", "cat", [[1, 1]] * len(points), target_xy_px=points)
    answers = [_answer(fine, [0] * 4), _answer(bad, [0] * len(points))]
    with pytest.raises(
        ValueError, match=r"pair bad has its target keypoints all at one place: .*no T .*pf-willow-bbox-kp"
    ):
        evaluate(_matches(*answers), _pairs(fine, bad), [WILLOW])
    failed = evaluate(_matches(answers[0], _error(bad)), _pairs(fine, bad), [WILLOW])
    assert (_one(failed).pck_image, _one(failed).n_failed) == (50.0, 1)


def test_matches_of_another_manifest_are_refused():
    with pytest.raises(ValueError, match="none of the manifest's pairs"):
        evaluate(_matches(_answer(_pair("a", "cat"), [0] * 4)), _pairs(_pair("b", "cat")), [SPAIR])


def test_a_protocol_named_twice_is_scored_once():
    pair = _pair("a", "cat")
    matches = _matches(_answer(pair, [0] * 4))
    assert evaluate(matches, _pairs(pair), [SPAIR, SPAIR]).equals(evaluate(matches, _pairs(pair), [SPAIR]))


def test_the_numbers_name_the_matcher_and_what_it_was_given():
    pair = _pair("a", "cat")
    matches = _matches(_answer(pair, [0] * 4, matcher="planted in the manifest's boxes"))
    metadata = evaluate(matches, _pairs(pair), [SPAIR]).schema.metadata
    assert metadata[b"matcher"] == b"planted in the manifest's boxes"
    columns = [name for name in matches.column_names if name != "matcher"]
    assert evaluate(matches.select(columns), _pairs(pair), [SPAIR]).schema.metadata[b"matcher"] == b""


def test_matches_of_two_matchers_are_refused():
    a, b = _pair("a", "cat"), _pair("b", "cat")
    matches = _matches(_answer(a, [0] * 4), _answer(b, [0] * 4, fingerprint="g"))
    with pytest.raises(ValueError, match=r"2 matchers.*'f', 'g'"):
        evaluate(matches, _pairs(a, b), [SPAIR])


@pytest.mark.parametrize("alphas", [[], [0.0], [0.1, -1], [float("nan")], [5]])
def test_unusable_alphas_are_refused(alphas: list[float]):
    pair = _pair("a", "cat")
    with pytest.raises(ValueError, match="alphas"):
        evaluate(_matches(_answer(pair, [0] * 4)), _pairs(pair), [SPAIR], alphas)


def test_two_protocols_of_one_name_are_refused():
    stricter = replace(SPAIR, inclusive=False)
    with pytest.raises(ValueError, match="two protocols are called spair; give each a name of its own"):
        evaluate(_matches(_answer(_pair("a", "cat"), [0] * 4)), _pairs(_pair("a", "cat")), [SPAIR, stricter])


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_there_is_not_is_refused(seed: int):
    with pytest.raises(ValueError, match=f"seed must be from 0 to 4294967295; got {seed}"):
        evaluate(_matches(_answer(_pair("a", "cat"), [0] * 4)), _pairs(_pair("a", "cat")), [SPAIR], seed=seed)


def test_levels_azimuths_and_pairs_of_two_categories_are_groups():
    rows = [
        _pair("a", "cat", level="intra-species", azimuth_difference=3),
        _pair("b", "cat", target_category="dog", level="cross-species"),
        _pair("c", "cat", target_category="cat"),
    ]
    metrics = evaluate(_matches(*(_answer(row, [0] * 4) for row in rows)), _pairs(*rows), [SPAIR], [0.1])
    groups = {(row["group_kind"], row["group"]): row["n_pairs"] for row in metrics.to_pylist()}
    shown = {key: n_pairs for key, n_pairs in groups.items() if key[0] in ("category", "level", "azimuth_difference")}
    assert shown == {
        ("category", "cat"): 2,
        ("category", "cat -> dog"): 1,
        ("level", "cross-species"): 1,
        ("level", "intra-species"): 1,
        ("azimuth_difference", "3"): 1,
    }


def test_pairs_with_several_objects_of_the_category_are_a_group():
    alone, crowded = {"source_other_boxes_xyxy": []}, {"target_other_boxes_xyxy": [[0, 0, 9, 9]]}
    rows = [
        _pair("a", "cat", **alone, target_other_boxes_xyxy=[]),
        _pair("b", "cat", **alone, **crowded),
        _pair("c", "cat", **crowded),
        _pair("d", "cat", **alone),
    ]
    metrics = evaluate(_matches(*(_answer(row, [0] * 4) for row in rows)), _pairs(*rows), [SPAIR], [0.1])
    groups = {row["group"]: row["n_pairs"] for row in metrics.to_pylist() if row["group_kind"] == "objects"}
    assert groups == {"one": 1, "several": 2}


def test_pairs_are_grouped_by_how_much_of_its_image_the_object_fills():
    """The longest sides of box and image of 200 x 100 count; the limits belong to the smaller share."""
    boxes = {"a": [0, 0, 60, 9], "b": [20, 10, 80.5, 20], "c": [0, 0, 10, 120], "d": [0, 0, 121, 10], "e": None}
    rows = [_pair(name, "cat", target_box_xyxy=box) for name, box in boxes.items()]
    rows.append(_pair("f", "cat"))
    answers = [_answer(row, [0] * 4, query_hw=[9, 9], reference_hw=[200, 100]) for row in rows[:5]]
    spec = [protocol("pf-pascal")]
    metrics = evaluate(_matches(*answers, _error(rows[5])), _pairs(*rows), spec, [0.1])
    groups = {row["group"]: row["n_pairs"] for row in metrics.to_pylist() if row["group_kind"] == "object_share"}
    assert groups == {"0 to 30 %": 1, "30 to 60 %": 2, "60 to 100 %": 1}


def test_the_ceiling_is_over_the_pairs_whose_answers_are_on_a_grid():
    rows = [_pair("a", "cat"), _pair("b", "cat"), _pair("c", "dog")]
    sizes = {"query_hw": [100, 100], "reference_hw": [100, 100]}
    on_grid = _answer(rows[0], [0] * 4, **sizes, answer_grid_hw=[1000, 1000])
    answers = [on_grid, _answer(rows[1], [0] * 4, **sizes), _error(rows[2])]
    metrics = evaluate(_matches(*answers), _pairs(*rows), [SPAIR], [0.1])
    assert _one(metrics)["ceiling_image"] == _one(metrics)["ceiling_point"] == 100
    assert _one(metrics, kind="pair", group="a")["ceiling_image"] == 100
    assert np.isnan(_one(metrics, kind="pair", group="b")["ceiling_image"])
    assert np.isnan(_one(metrics, kind="category", group="dog")["ceiling_point"])
    assert np.isnan(_one(metrics)["jitter_image"])
