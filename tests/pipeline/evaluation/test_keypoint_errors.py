"""The choices of a protocol, each where it changes the answer."""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from jaxtyping import TypeCheckError
from make import match_rows, pair_row

from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.keypoint_errors import KeypointErrors, directions_to_score, keypoint_errors
from pipeline.evaluation.protocols import Protocol, protocol
from schemas.matches import DIRECTIONS
from schemas.pairs import PAIRS

FORTH, BACK = DIRECTIONS
WIDE_HW, SQUARE_HW = [100, 200], [256, 256]


def _own(**choices: Any) -> Protocol:
    return Protocol(**{"name": "own", "directions": (FORTH, BACK), "base": "box", **choices})


def _pair(pair_id: str = "a", points: Any = ((50.0, 50.0),), **columns: Any) -> dict[str, Any]:
    """Points at the same place in both images; the target's box is 100 px long, the source's 200 px."""
    boxes = {"source_box_xyxy": [0, 0, 200, 80], "target_box_xyxy": [10, 0, 60, 100]}
    return pair_row(pair_id, **{"dataset": "toy", "source_xy_px": points, "target_xy_px": points, **boxes, **columns})


def _answer(pair: dict[str, Any], off_px: Any = (0.0, 0.0), direction: str = FORTH, **columns: Any) -> dict[str, Any]:
    """A match whose predictions are off_px, (dx, dy) for all or for each point, from the truth."""
    query, reference = ("source", "target") if direction == FORTH else ("target", "source")
    predicted = (np.array(pair[f"{reference}_xy_px"], float).reshape(-1, 2) + off_px).tolist()
    row = {"pair_id": pair["pair_id"], "direction": direction, "query_hw": WIDE_HW, "reference_hw": WIDE_HW}
    return {**row, "query_xy_px": pair[f"{query}_xy_px"], "reference_xy_px": predicted, **columns}


def _table(*pairs: dict[str, Any]) -> pa.Table:
    return pa.Table.from_pylist(list(pairs), PAIRS)


def _errors(protocol: Protocol, pair: dict[str, Any], answer: dict[str, Any]) -> KeypointErrors:
    return keypoint_errors(match_rows(answer), _table(pair), protocol, answer["direction"])


def _is_correct(protocol: Protocol, off_px: Any, alpha: float = 0.1, **columns: Any) -> bool:
    pair = _pair(**columns)
    return bool(_errors(protocol, pair, _answer(pair, off_px)).is_correct(alpha).all())


def test_direction_says_which_images_keypoints_are_searched_and_which_are_the_truth():
    pair = _pair(target_xy_px=[[90.0, 20.0]])
    forth, back = _answer(pair, (3, 4)), _answer(pair, (6, 8), BACK)
    both = match_rows(forth, back)
    assert keypoint_errors(both, _table(pair), _own(), FORTH).error_px.tolist() == [5.0]
    assert keypoint_errors(both, _table(pair), _own(), BACK).error_px.tolist() == [10.0]


def test_directions_are_those_allowed_and_present_in_the_protocols_order():
    own, nemf = _own(), protocol("nemf")
    assert directions_to_score([BACK, FORTH], [own, nemf]) == {own: [FORTH, BACK], nemf: [BACK]}
    assert directions_to_score([BACK], [own]) == {own: [BACK]}


def test_without_any_match_the_first_direction_of_a_protocol_is_scored():
    own, nemf = _own(directions=(BACK, FORTH)), protocol("nemf")
    assert directions_to_score([], [own, nemf]) == {own: [BACK], nemf: [BACK]}


@pytest.mark.parametrize("direction", DIRECTIONS)
@pytest.mark.parametrize("base_of", ["query", "reference"])
@pytest.mark.parametrize(
    ("base", "of_source", "of_target"), [("box", 200.0, 100.0), ("image", 300.0, 180.0), ("keypoints", 40.0, 70.0)]
)
def test_t_is_the_longest_side_of_the_base_in_the_image_that_the_protocol_says(
    base: Any, base_of: Any, direction: str, of_source: float, of_target: float
):
    pair = _pair(points=[[10.0, 10.0], [50.0, 30.0]], target_xy_px=[[20.0, 90.0], [30.0, 20.0]])
    hw = {"source": [90, 300], "target": [180, 120]}
    query, reference = ("source", "target") if direction == FORTH else ("target", "source")
    answer = _answer(pair, direction=direction, query_hw=hw[query], reference_hw=hw[reference])
    whose = query if base_of == "query" else reference
    expected = of_source if whose == "source" else of_target
    assert _errors(_own(base=base, base_of=base_of), pair, answer).base_px.tolist() == [expected] * 2


def test_a_squash_forgives_errors_along_the_long_side_and_not_along_the_short():
    squash = _own(space="squash", side_px=100)
    # the image is 200 x 100; T = 100 in either space, as the box is 100 px tall: x alone is halved
    assert not _is_correct(_own(), (16, 0))
    assert _is_correct(squash, (16, 0))
    assert not _is_correct(squash, (0, 16))
    # lying down, the box shrinks to T = 50 too
    lying = [0, 0, 100, 50]
    assert _is_correct(_own(), (0, 8), target_box_xyxy=lying)
    assert not _is_correct(squash, (0, 8), target_box_xyxy=lying)


@pytest.mark.parametrize("base", ["box", "image", "keypoints"])
def test_a_letterbox_changes_nothing(base: Any):
    points = [[10.0, 10.0], [60.0, 70.0], [150.0, 30.0]]
    pair, off_px = _pair(points=points), [[3, 4], [-9, 2], [16, 12]]
    original, letterbox = (
        _errors(_own(base=base, **space), pair, _answer(pair, off_px))
        for space in ({}, {"space": "letterbox", "side_px": 800})
    )
    assert letterbox.error_px == pytest.approx(4 * original.error_px)
    assert letterbox.base_px == pytest.approx(4 * original.base_px)


def test_geoaware_differs_from_spair_by_less_than_against_at_most():
    for off, spair, geoaware in ((9.75, True, True), (12.5, True, False), (12.75, False, False)):
        pair = _pair()  # T = 100; the letterbox of 420 x 210 pixels scales by exactly 2
        answer = _answer(pair, (off, 0), query_hw=[210, 420], reference_hw=[210, 420])
        assert _errors(protocol("spair"), pair, answer).is_correct(0.125).tolist() == [spair]
        assert _errors(protocol("geoaware-image"), pair, answer).is_correct(0.125).tolist() == [geoaware]


def test_cats_moves_the_prediction_by_what_its_query_lost_when_cut_down_to_whole_pixels():
    # in the 256 squash the query (10.75, 20.25) of a 128 px image is (21.5, 40.5): half a pixel is lost each way
    pair = _pair(source_xy_px=[[100.0, 100.0]], target_xy_px=[[10.75, 20.25]], source_box_xyxy=[0, 0, 14, 14])
    answer = _answer(pair, (0, 0), BACK, query_hw=[128, 128], reference_hw=SQUARE_HW)
    truncated = _errors(protocol("cats"), pair, answer)
    assert truncated.error_px == pytest.approx([np.sqrt(0.5)])
    assert truncated.base_px.tolist() == [14.0]
    assert truncated.is_correct(0.05).tolist() == [False]
    assert _errors(replace(protocol("cats"), points="all"), pair, answer).is_correct(0.05).tolist() == [True]


def test_cats_shift_has_the_sign_of_whole_minus_exact():
    pair = _pair(source_xy_px=[[100.0, 100.0]], target_xy_px=[[10.75, -20.25]])
    answer = _answer(pair, (0.5, -0.5), BACK, query_hw=[256, 256], reference_hw=SQUARE_HW)
    # x: 0.5 - 0.75; y: -20.25 is cut to -20, so -0.5 + 0.25
    assert _errors(protocol("cats"), pair, answer).error_px == pytest.approx([np.hypot(0.25, 0.25)])


def test_lpmflow_takes_t_from_the_box_of_the_query_image_in_that_images_own_squash():
    pair = _pair(source_box_xyxy=[0, 0, 100, 40], target_box_xyxy=[0, 0, 50, 50])
    answer = _answer(pair, (8, 0), query_hw=[256, 256], reference_hw=[512, 512])
    lpmflow = _errors(protocol("lpmflow"), pair, answer)
    assert lpmflow.base_px.tolist() == [200.0]
    assert lpmflow.is_correct(0.1).tolist() == [True]
    of_the_target = _errors(replace(protocol("lpmflow"), base_of="reference"), pair, answer)
    assert of_the_target.base_px.tolist() == [50.0]
    assert of_the_target.is_correct(0.1).tolist() == [False]


@pytest.mark.parametrize(
    ("name", "side", "t"),
    [
        ("pf-willow-bbox-kp", 256, 50.0),
        ("pf-willow-bbox-legacy", 256, 151.0),
        ("pf-willow-bbox-legacy@240", 240, 152.0),
    ],
)
def test_the_legacy_box_of_pf_willow_reaches_to_the_padding(name: str, side: int, t: float):
    pair = _pair(points=[[100.0, 50.0], [150.0, 60.0]])
    answer = _answer(pair, (10, 0), query_hw=[side, side], reference_hw=[side, side])
    errors = _errors(protocol(name), pair, answer)
    assert errors.base_px.tolist() == [t, t]
    assert errors.is_correct(0.1).tolist() == [t > 100] * 2


def test_padding_is_not_scaled_into_the_squash():
    pair = _pair(points=[[50.0, 10.0], [60.0, 20.0]])
    answer = _answer(pair, query_hw=[128, 128], reference_hw=[128, 128])
    assert _errors(protocol("pf-willow-bbox-legacy"), pair, answer).base_px.tolist() == [121.0] * 2


def test_points_inside_leaves_out_keypoints_beyond_either_image():
    source, target = [[10, 10], [10, 10], [201, 10], [10, 10]], [[20, 20], [20, 101], [20, 20], [20, 20]]
    pair = _pair(points=source, target_xy_px=target)
    answer = _answer(pair, [[0, 0], [1, 0], [2, 0], [99, 0]])
    every = _errors(_own(), pair, answer)
    assert (every.n_points.tolist(), every.error_px.tolist()) == ([4], [0.0, 1.0, 2.0, 99.0])
    inside = _errors(_own(points="inside"), pair, answer)
    assert (inside.n_points.tolist(), inside.error_px.tolist()) == ([2], [0.0, 99.0])
    assert inside.n_correct(0.1).tolist() == [1]


def test_the_edge_of_an_image_is_half_a_pixel_beyond_the_centres_of_its_last_pixels():
    points = [[-0.5, -0.5], [199.5, 99.5], [-0.625, 50], [50, -0.625], [199.625, 50], [50, 99.625]]
    pair = _pair(points=points)
    inside = _errors(_own(points="inside"), pair, _answer(pair, [[index, 0] for index in range(6)]))
    assert inside.error_px.tolist() == [0.0, 1.0]


def test_a_pair_of_which_no_keypoint_is_inside_has_none_and_has_not_failed():
    beyond, fine = _pair("a", points=[[500.0, 5.0]]), _pair("b")
    matches = match_rows(_answer(beyond), _answer(fine, (3, 4)))
    errors = keypoint_errors(matches, _table(beyond, fine), _own(points="inside"), FORTH)
    assert (errors.n_points.tolist(), errors.failed.tolist()) == ([0, 1], [False, False])
    assert errors.error_px.tolist() == [5.0]


def test_all_keypoints_of_a_failed_pair_count_as_its_images_have_no_size():
    missing, fine = _pair("a", points=[[5.0, 5.0], [500.0, 5.0]]), _pair("b")
    errors = keypoint_errors(match_rows(_answer(fine)), _table(missing, fine), _own(points="inside"), FORTH)
    assert (errors.n_points.tolist(), errors.failed.tolist()) == ([2, 1], [True, False])
    assert errors.n_correct(10.0).tolist() == [0, 1]


def test_each_average_weighs_keypoints_pairs_and_categories_in_its_own_way():
    many = _pair("a", points=[[index, 50.0] for index in range(6)], category="cat")
    few, lost = _pair("b", category="cat"), _pair("c", category="dog")
    matches = match_rows(_answer(many), _answer(few, (99, 0)), _answer(lost, (99, 0)))
    averages = ("image", "point", "class")
    protocols = [_own(name=average, average=average) for average in averages]
    metrics = evaluate(matches, _table(many, few, lost), protocols, [0.1], replicates=0).to_pylist()
    overall = {row["protocol"]: row for row in metrics if row["group_kind"] == "all"}
    known_by = {named.name: overall[named.name][named.column] for named in protocols}
    # 6 of 8 keypoints; pairs 100, 0, 0; categories 50 and 0
    assert known_by == pytest.approx({"image": 100 / 3, "point": 75.0, "class": 25.0})


@pytest.mark.parametrize("role", ["query", "reference"])
@pytest.mark.parametrize("choices", [{"space": "squash", "side_px": 256}, {"points": "inside"}])
def test_a_protocol_that_needs_image_sizes_names_the_pair_that_lacks_one(role: str, choices: dict[str, Any]):
    fine, bad = _pair("fine"), _pair("bad")
    matches = match_rows(_answer(fine), _answer(bad, **{f"{role}_hw": None}))
    with pytest.raises(ValueError, match=f"pair bad has no {role}_hw in the matches"):
        keypoint_errors(matches, _table(fine, bad), _own(**choices), FORTH)


def test_original_pixels_need_no_size_but_the_one_that_is_t():
    pair = _pair()
    sizeless = _answer(pair, (3, 4), query_hw=None, reference_hw=None)
    assert _errors(protocol("spair"), pair, sizeless).error_px.tolist() == [5.0]
    assert _errors(protocol("pf-pascal"), pair, _answer(pair, query_hw=None)).base_px.tolist() == [200.0]
    with pytest.raises(ValueError, match="pair a has no reference_hw"):
        _errors(protocol("pf-pascal"), pair, _answer(pair, reference_hw=None))


def test_the_scores_of_some_pairs_are_those_pairs_alone():
    pairs = [_pair("a", points=[[1.0, 1.0], [2.0, 2.0]]), _pair("b"), _pair("c", points=[[3.0, 3.0]])]
    matches = match_rows(_answer(pairs[0], (3, 4)), _answer(pairs[2], (6, 8)))
    chosen = keypoint_errors(matches, _table(*pairs), _own(), FORTH).select(np.array([False, True, True]))
    assert (chosen.n_points.tolist(), chosen.failed.tolist()) == ([1, 1], [True, False])
    assert (chosen.error_px.tolist(), chosen.base_px.tolist()) == ([np.inf, 10.0], [0.0, 100.0])
    assert chosen.n_counted("wrong").tolist() == [1, 1]
    assert chosen.n_counted("exclude").tolist() == [0, 1]


def test_arrays_of_unequal_lengths_are_refused_in_the_tests():
    """The annotations are checked here, see addopts in pyproject.toml."""
    with pytest.raises(TypeCheckError, match="base_px"):
        KeypointErrors(
            protocol=_own(),
            n_points=np.array([2, 0]),
            failed=np.array([False, False]),
            error_px=np.zeros(2),
            base_px=np.zeros(3),
        )


@pytest.mark.parametrize(
    ("x", "kinds"),
    [
        (54.0, set()),  # right
        (57.0, {"swap"}),  # within alpha T of both, nearer to the other keypoint
        (63.0, {"jitter", "swap"}),
        (35.0, {"jitter", "miss"}),
        (0.0, {"miss"}),
        (np.nan, {"miss"}),
    ],
)
def test_a_point_nearer_to_another_keypoint_is_wrong_and_the_kinds_of_error_are_told(x: float, kinds: set[str]):
    """T is 100 px; the keypoints are at x = 50 and x = 60, and the first is predicted at x."""
    pair = _pair(points=[[50.0, 50.0], [60.0, 50.0]])
    errors = _errors(protocol("spair-dagger"), pair, _answer(pair, [(x - 50, 0), (0, 0)]))
    assert errors.is_correct(0.1).tolist() == [not kinds, True]
    measures = errors.measures(0.1)
    assert {name for name, (is_so, _) in measures.items() if is_so[0]} == kinds
    assert not any(is_so[1] for is_so, _ in measures.values())
    assert all(counts.all() for _, counts in measures.values())


def test_the_ceiling_is_the_nearest_centre_of_the_answer_grid():
    """Centres of 2 x 4 cells over 100 x 200 pixels are at x = 24.5, 74.5, ... and y = 24.5, 74.5."""
    pair = _pair(points=[[24.5, 24.5], [50.0, 74.5], [300.0, 74.5]])
    answer = _answer(pair, answer_grid_hw=[2, 4], reference_hw=WIDE_HW)
    assert _errors(_own(), pair, answer).ceiling_px == pytest.approx([0, 24.5, 300 - 174.5])
    assert _errors(protocol("pf-pascal@256"), pair, answer).ceiling_px == pytest.approx([0, 31.36, 160.64])
    counted = _errors(_own(), pair, answer).measures(0.245)["ceiling"]
    assert [mask.tolist() for mask in counted] == [[True, True, False], [True, True, True]]
    without = _errors(_own(), pair, _answer(pair))
    assert without.ceiling_px is None
    assert without.measures(0.1) == {}
    old = match_rows(answer).drop_columns(["answer_grid_hw"])
    assert keypoint_errors(old, _table(pair), _own(), FORTH).ceiling_px is None


def test_a_pair_without_a_box_has_t_of_the_image_under_soco():
    pair = _pair(target_box_xyxy=None)
    assert _errors(protocol("soco"), pair, _answer(pair)).base_px.tolist() == [200]
    assert _errors(protocol("soco"), _pair(), _answer(pair)).base_px.tolist() == [100]
    with pytest.raises(ValueError, match="pair a has no usable target_box_xyxy"):
        _errors(protocol("spair"), pair, _answer(pair))


def test_the_nearest_of_several_valid_points_counts():
    pair = _pair(points=[[50.0, 50.0], [80.0, 50.0]], target_valid_xy_px=[[[50, 50], [70, 50]], [[80, 53]]])
    errors = _errors(protocol("soco-cc"), pair, _answer(pair, [(18, 0), (0, 0)]))
    assert errors.error_px.tolist() == [2, 3]
    for valid in (None, [[[50, 50]]], [[[50, 50]], []]):
        lacking = {**pair, "target_valid_xy_px": valid}
        with pytest.raises(ValueError, match="pair a has no target_valid_xy_px for each of its keypoints; prepare"):
            _errors(protocol("soco-cc"), lacking, _answer(pair))


def test_geometry_aware_counts_points_of_which_the_target_has_another_of_their_group():
    """Paw 4 is labelled in the target alone; the tail is in no group, and of the eyes the target has one."""
    points = [[10.0, 10.0], [20.0, 10.0], [30.0, 10.0]]
    pair = _pair(
        points=points,
        keypoint_id=["paw 1", "tail", "eye 1"],
        target_all_keypoint_id=["paw 1", "tail", "eye 1", "paw 4"],
        geometry_groups=[["paw 1", "paw 4"], ["eye 1", "eye 2"]],
    )
    aware = protocol("spair-geometry-aware")
    errors = _errors(aware, pair, _answer(pair, [(840, 0), (0, 0), (0, 0)]))
    assert errors.n_points.tolist() == [1]
    assert errors.is_correct(0.1).tolist() == [False]
    none = {**pair, "geometry_groups": [["eye 1", "eye 2"]]}
    failed = keypoint_errors(match_rows(_answer(pair, status="error")), _table(none), aware, FORTH)
    assert (failed.n_points.tolist(), failed.failed.tolist()) == ([0], [False])
    with pytest.raises(ValueError, match="pair a has no geometry_groups, which geometry-aware protocols need"):
        _errors(aware, {**pair, "geometry_groups": None}, _answer(pair))
    with pytest.raises(ValueError, match="pair a has a null in the list of its geometry_groups"):
        _errors(aware, {**pair, "geometry_groups": [["paw 1", "paw 4"], None]}, _answer(pair))


def test_occluded_points_are_halved_or_not_as_the_protocol_has_them():
    """An image of 100 x 200 px is in the middle of a square of 200 px, 50 px from its top: (80, 30) is at (80, 80)
    there, and half of that is (40, 40), (40, -10) in the image."""
    labelled = [[80.0, 30.0], [20.0, 60.0]]
    halved = [[40.0, -10.0], [20.0, 60.0]]
    known = {
        **{"keypoint_id": ["hoof", "nose"]},
        **{f"{side}_visibility": [1, 2] for side in ("source", "target")},
        **{f"{side}_all_keypoint_id": ["nose", "hoof"] for side in ("source", "target")},
        **{f"{side}_all_xy_px": labelled[::-1] for side in ("source", "target")},
    }
    clean, published = (_pair(points=points, **known) for points in (labelled, halved))
    assert _errors(protocol("ap10k"), clean, _answer(clean)).error_px.tolist() == [0, 0]
    assert _errors(protocol("ap10k-geoaware"), published, _answer(published)).error_px.tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"pair a has source keypoints .* are not halved, .*--occluded halved"):
        _errors(protocol("ap10k-geoaware"), clean, _answer(clean))
    with pytest.raises(ValueError, match=r"pair a has source keypoints .* are not labelled, .*--occluded labelled"):
        _errors(protocol("ap10k"), published, _answer(published))
    with pytest.raises(ValueError, match="pair a has no keypoint_id, source_visibility or source_all_xy_px"):
        _errors(protocol("ap10k"), _pair(), _answer(_pair()))


def test_a_margin_widens_the_box():
    pair = _pair()
    assert _errors(protocol("cub-asic"), pair, _answer(pair)).base_px == pytest.approx([110])
    assert _errors(protocol("cub-dem"), pair, _answer(pair)).base_px == pytest.approx([100])
