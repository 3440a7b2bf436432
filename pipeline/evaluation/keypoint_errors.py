"""The error and threshold T of every keypoint under one protocol and direction, from MATCHES and PAIRS rows."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int64, Shaped

from nemf import pck
from pipeline.evaluation.mirror_cases import MIRROR_CASES, twins
from pipeline.evaluation.protocols import Protocol
from pipeline.evaluation.refuse import STALE, refuse, refuse_without_ids
from schemas.matches import sides_of

MATCH_COLUMNS = (
    *("pair_id", "direction", "status", "fingerprint"),
    *("query_hw", "reference_hw", "query_xy_px", "reference_xy_px", "answer_grid_hw"),
)
"""The columns of MATCHES that evaluation reads."""

Failed = Literal["wrong", "exclude"]
"""The treatment of pairs that failed or are missing: all their keypoints count as wrong, or the pairs are excluded."""


@dataclass(frozen=True, kw_only=True, eq=False)
class KeypointErrors:
    """Errors of the N keypoints of P pairs under one protocol and direction, pair after pair."""

    protocol: Protocol
    n_points: Int64[np.ndarray, " p"]
    """Number of keypoints of each pair that count; 0 for a pair without any."""
    failed: Bool[np.ndarray, " p"]
    """True for pairs with keypoints that failed or are missing in the matches."""
    error_px: Float64[np.ndarray, " n"]
    """Distances in pixels of the protocol's space; infinite for failed pairs."""
    base_px: Float64[np.ndarray, " n"]
    """T of the threshold alpha T, in the same pixels; 0 for failed pairs."""
    other_px: Float64[np.ndarray, " n"] | None = None
    """Distances of the predictions from the nearest other keypoint of the pair, infinite where there is none and for
    failed pairs; None unless the protocol is nearest_only."""
    ceiling_px: Float64[np.ndarray, " n"] | None = None
    """Distances of the matcher's nearest possible answers from the truth, NaN where they are not known and for failed
    pairs; None where none is known."""
    twin_px: Float64[np.ndarray, " n"] | None = None
    """Distances of the predictions from the twins of the keypoints, infinite where these are not labelled and for
    failed pairs; None unless the protocol has mirror_cases."""
    mirror_case: Int64[np.ndarray, " n"] | None = None
    """Indices in MIRROR_CASES; None unless the protocol has mirror_cases."""

    def is_correct(self, alpha: float) -> Bool[np.ndarray, " n"]:
        """Mask of the correct keypoints."""
        near = self._is_within(self.error_px, alpha)
        return near if self.other_px is None else near & ~(self.other_px < self.error_px)

    def measures(self, alpha: float) -> Mapping[str, tuple[Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]]:
        """The measures of schemas.metrics that are known, by name: masks of the keypoints that are so, and of those
        that count. A failed pair's keypoints are misses."""
        measures = {}
        if self.ceiling_px is not None:
            measures["ceiling"] = (self._is_within(self.ceiling_px, alpha), ~np.isnan(self.ceiling_px))
        if self.other_px is not None:
            near, near_other = (self._is_within(distance, alpha) for distance in (self.error_px, self.other_px))
            all_count = np.ones(len(near), bool)
            measures["jitter"] = (~near & (self.error_px <= 2 * alpha * self.base_px), all_count)
            measures["miss"] = (~near & ~near_other, all_count)
            measures["swap"] = (near_other & (self.other_px < self.error_px), all_count)
        if self.twin_px is not None:
            near, near_twin = (self._is_within(distance, alpha) for distance in (self.error_px, self.twin_px))
            has_twin = self.mirror_case == MIRROR_CASES.index("n11")
            measures["twin"] = (near_twin & ~near & has_twin, has_twin)
            measures["both"] = (near_twin & near & has_twin, has_twin)
        return measures

    def _is_within(self, distance_px: Float64[np.ndarray, " n"], alpha: float) -> Bool[np.ndarray, " n"]:
        return pck.is_correct(distance_px, self.base_px, alpha, inclusive=self.protocol.inclusive)

    def n_correct(self, alpha: float) -> Int64[np.ndarray, " p"]:
        """The number of correct keypoints of each pair."""
        return pck.count_correct(self.is_correct(alpha), self.n_points)

    def n_counted(self, failed: Failed) -> Int64[np.ndarray, " p"]:
        """The number of keypoints of each pair that enter the averages."""
        return np.where(self.failed, 0, self.n_points) if failed == "exclude" else self.n_points

    def select(self, pairs: Bool[np.ndarray, " p"]) -> "KeypointErrors":
        """The errors of some pairs alone."""
        chosen = np.repeat(pairs, self.n_points)
        return replace(self, n_points=self.n_points[pairs], failed=self.failed[pairs], **self._of_points(chosen))

    def select_points(self, points: Bool[np.ndarray, " n"]) -> "KeypointErrors":
        """The errors of some keypoints alone, of all pairs."""
        n_points = pck.count_correct(points, self.n_points)
        return replace(self, n_points=n_points, failed=self.failed & (n_points > 0), **self._of_points(points))

    def _of_points(self, points: Bool[np.ndarray, " n"]) -> dict[str, Any]:
        """The fields that hold a value for each keypoint, of some of them."""
        names = ("error_px", "base_px", "other_px", "ceiling_px", "twin_px", "mirror_case")
        values = {name: getattr(self, name) for name in names}
        return {name: None if value is None else value[points] for name, value in values.items()}


def directions_to_score(present: Collection[str], protocols: Sequence[Protocol]) -> dict[Protocol, list[str]]:
    """For each protocol the directions it allows and the matches have. Raises ValueError if a protocol has none.

    present: the directions of the matches. Without any match all pairs are missing, and a protocol's first direction
        is scored.
    """
    scored = {}
    for protocol in protocols:
        allowed = [direction for direction in protocol.directions if direction in present]
        if present and not allowed:
            raise ValueError(
                f"protocol {protocol.name} measures {' or '.join(protocol.directions)}, the matches hold only "
                f"{', '.join(sorted(present))}; "
                f"match again: nemf match --direction {protocol.directions[0]} ... (or --direction both)"
            )
        scored[protocol] = allowed or [protocol.directions[0]]
    return scored


def keypoint_errors(matches: pa.Table, pairs: pa.Table, protocol: Protocol, direction: str) -> KeypointErrors:
    """Error and T of every keypoint of PAIRS rows, from MATCHES rows with at most one per pair and direction.

    Raises ValueError if matches answer other points than the manifest holds, or a pair lacks what T needs.
    """
    query, reference = sides_of(direction)
    n_points = count_points(pairs, query, reference)

    matches = matches.filter(pc.equal(matches["direction"], direction))
    rows = matches.take(pc.index_in(pairs["pair_id"], matches["pair_id"]))
    ok = pc.fill_null(pc.equal(rows["status"], "ok"), False).to_numpy()
    answered = ok & (n_points > 0)
    rows, scored, counts = rows.filter(pa.array(answered)), pairs.filter(pa.array(answered)), n_points[answered]

    query_xy_px, truth_xy_px = _keypoints(scored, query, reference)
    predicted_xy_px = _predictions(rows, query_xy_px, counts)
    hw = {role: _sizes(rows, role, protocol) for role in ("query", "reference")}
    scale = {role: _scale(hw[role], protocol) for role in hw}
    query_in_space, predicted, truth = (
        xy_px * np.repeat(scale[role], counts, axis=0)
        for xy_px, role in ((query_xy_px, "query"), (predicted_xy_px, "reference"), (truth_xy_px, "reference"))
    )
    shift = np.trunc(query_in_space) - query_in_space if protocol.points == "truncated" else None
    if shift is not None:
        predicted = predicted + shift
    if protocol.occluded != "any":
        for side, role in ((query, "query"), (reference, "reference")):
            _check_occluded(scored, side, hw[role], protocol)

    base_side = query if protocol.base_of == "query" else reference
    if protocol.base == "keypoints":
        in_space = query_in_space if protocol.base_of == "query" else truth
        base_px = _keypoint_sides_px(scored, in_space, counts, base_side, protocol)
    elif protocol.base == "image":
        base_px = _image_sides_px(hw[protocol.base_of], scale[protocol.base_of])
    elif protocol.base == "box or image":
        column = f"{base_side}_box_xyxy"
        has_box = pc.is_valid(scored[column]).to_numpy()
        base_px = _image_sides_px(hw[protocol.base_of], scale[protocol.base_of])
        with_box = scored.filter(pa.array(has_box))
        base_px[has_box] = _box_sides_px(with_box, column, scale[protocol.base_of][has_box], protocol.name)
    else:
        base_px = _box_sides_px(scored, f"{base_side}_box_xyxy", scale[protocol.base_of], protocol.name)
        base_px = base_px * (1 + 2 * protocol.margin) if protocol.margin else base_px

    is_answered = np.repeat(answered, n_points)
    error_px, base_of_point_px = np.full(len(is_answered), np.inf), np.zeros(len(is_answered))
    other_px = ceiling_px = None
    of_point: Int64[np.ndarray, " v"] | slice = slice(None)  # the keypoint that each point of truth belongs to
    if protocol.truth == "nearest valid":
        truth, of_point = _valid_points(scored, counts, scale["reference"])
    error_px[is_answered] = _least(pck.errors_px(predicted[of_point], truth), of_point)
    base_of_point_px[is_answered] = np.repeat(base_px, counts)
    if protocol.nearest_only:
        other_px = np.full(len(is_answered), np.inf)
        other_px[is_answered] = _nearest_others_px(predicted, truth, counts)
    grid_hw = _answer_grids(rows)
    if grid_hw is not None:
        ceiling_px = np.full(len(is_answered), np.nan)
        sought = truth if shift is None else truth - shift
        of_image = (
            np.repeat(values, counts, axis=0)[of_point] for values in (hw["reference"], scale["reference"], grid_hw)
        )
        nearest_px = _grid_errors_px(sought, *of_image)
        ceiling_px[is_answered] = _least(nearest_px, of_point)
    twin_px = mirror_case = None
    if protocol.mirror_cases:
        of_keypoints = twins(pairs, reference, n_points)
        twin_px, mirror_case = np.full(len(is_answered), np.inf), of_keypoints.case
        places = of_keypoints.xy_px[is_answered] * np.repeat(scale["reference"], counts, axis=0)
        twin_px[is_answered] = pck.errors_px(predicted, places)
    errors = KeypointErrors(
        protocol=protocol,
        n_points=n_points,
        failed=~answered & (n_points > 0),
        error_px=error_px,
        base_px=base_of_point_px,
        other_px=other_px,
        ceiling_px=ceiling_px,
        twin_px=twin_px,
        mirror_case=mirror_case,
    )
    if protocol.points == "geometry-aware":
        return errors.select_points(_is_geometry_aware(pairs, n_points))
    if protocol.points == "inside":
        is_counted = np.ones(len(is_answered), bool)
        # a failed pair's images have no known size: all its keypoints count
        is_counted[is_answered] = np.logical_and(
            *(
                _is_inside(xy_px, np.repeat(hw[role], counts, axis=0))
                for xy_px, role in ((query_xy_px, "query"), (truth_xy_px, "reference"))
            )
        )
        return errors.select_points(is_counted)
    return errors


def count_without_keypoints(pairs: pa.Table) -> int:
    """The number of pairs without keypoints of known truth, and without a true flow, which are in no average."""
    without_flow = pc.and_(pc.is_null(pairs["source_flow_uri"]), pc.is_null(pairs["target_flow_uri"])).to_numpy()
    return int(np.count_nonzero((count_points(pairs, "source", "target") == 0) & without_flow))


def count_points(pairs: pa.Table, query: str, reference: str) -> Int64[np.ndarray, " p"]:
    """The number of keypoints in the query image of each pair; 0 where the reference image has none.

    query, reference: the sides of the pair, 'source' and 'target' or the other way round.
    """
    n_query, n_truth = (
        pc.fill_null(pc.list_value_length(pairs[f"{side}_xy_px"]), 0).to_numpy() for side in (query, reference)
    )
    return np.where(n_truth > 0, n_query, 0).astype(np.int64)


def _keypoints(
    pairs: pa.Table, query: str, reference: str
) -> tuple[Float64[np.ndarray, "n 2"], Float64[np.ndarray, "n 2"]]:
    """Query keypoints and their truth in the reference image, in pixels.

    Raises ValueError for a pair whose keypoints cannot be scored.
    """
    (query_xy_px, n_query), (truth_xy_px, n_truth) = (_points(pairs, f"{side}_xy_px") for side in (query, reference))
    refuse(n_query != n_truth, pairs["pair_id"], "has unequal numbers of source and target keypoints")
    not_finite = ~np.isfinite(np.concatenate([query_xy_px, truth_xy_px], axis=1)).all(axis=1)
    refuse(pck.count_correct(not_finite, n_truth) > 0, pairs["pair_id"], "has a keypoint that is not finite")
    return query_xy_px, truth_xy_px


def _predictions(
    rows: pa.Table, query_xy_px: Float64[np.ndarray, "n 2"], counts: Int64[np.ndarray, " p"]
) -> Float64[np.ndarray, "n 2"]:
    """The reference points predicted for the query keypoints. Raises ValueError where others were matched."""
    matched_xy_px, n_matched = _points(rows, "query_xy_px")
    predicted_xy_px, n_predicted = _points(rows, "reference_xy_px")
    refuse(
        n_matched == 0,
        rows["pair_id"],
        "has keypoints in the manifest, but the matches hold none for it; match with --outputs keypoints",
    )
    refuse(n_matched != counts, rows["pair_id"], STALE)
    differs = (matched_xy_px != query_xy_px).any(axis=1)
    refuse(pck.count_correct(differs, counts) > 0, rows["pair_id"], STALE)
    refuse(n_predicted != counts, rows["pair_id"], "has another number of reference_xy_px than of query_xy_px")
    return predicted_xy_px


def _sizes(rows: pa.Table, role: str, protocol: Protocol) -> Float64[np.ndarray, "p 2"]:
    """Image sizes (height, width); NaN where the protocol does not need them. Raises ValueError where one is absent."""
    needed = protocol.space != "original" or protocol.points == "inside"
    needed |= protocol.base in ("image", "box or image") and protocol.base_of == role
    is_null = pc.is_null(rows[f"{role}_hw"]).to_numpy()
    if not needed and is_null.any():
        return np.full((rows.num_rows, 2), np.nan)
    refuse(is_null, rows["pair_id"], f"has no {role}_hw in the matches")
    return _values(rows[f"{role}_hw"]).reshape(-1, 2).astype(np.float64)


def _scale(hw: Float64[np.ndarray, "p 2"], protocol: Protocol) -> Float64[np.ndarray, "p 2"]:
    """Factors of x and y from the image's pixels to those of the protocol's space."""
    if protocol.side_px is None:
        return np.ones_like(hw)
    whole = (
        hw[:, ::-1] if protocol.space == "squash" else np.repeat(hw.max(axis=1, keepdims=True, initial=0), 2, axis=1)
    )
    return protocol.side_px / whole


def _is_inside(xy_px: Float64[np.ndarray, "n 2"], hw: Float64[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
    """Whether points are within the image, whose pixels reach half a pixel around their centres."""
    return np.all((xy_px >= -0.5) & (xy_px <= hw[:, ::-1] - 0.5), axis=1)


def _points(table: pa.Table, name: str) -> tuple[Float64[np.ndarray, "n 2"], Int64[np.ndarray, " p"]]:
    """A column of point lists as all its points and the length of each list; a null list is an empty one."""
    counts = pc.fill_null(pc.list_value_length(table[name]), 0).to_numpy().astype(np.int64)
    points = pc.list_flatten(table[name])
    if points.null_count:
        raise ValueError(f"column {name} has {points.null_count} null points; a keypoint that is absent is left out")
    return _values(points).reshape(-1, 2).astype(np.float64), counts


def _values(column: pa.ChunkedArray) -> Shaped[np.ndarray, " _"]:
    """The numbers in a column of lists that are equally long, one list after another."""
    return pc.list_flatten(column).to_numpy()


def _check_occluded(pairs: pa.Table, side: str, hw: Float64[np.ndarray, "p 2"], protocol: Protocol) -> None:
    """Raises ValueError where keypoints of visibility 1 are not where the protocol has them.

    Coordinates are halved in a square with the image in its middle, whose margins were rounded to whole pixels of the
    letterbox: as far as one of these the points may be off.
    """
    visibility, n_visibility = _numbers(pairs, f"{side}_visibility")
    given_xy_px, counts = _points(pairs, f"{side}_xy_px")
    n_ids = pc.fill_null(pc.list_value_length(pairs["keypoint_id"]), 0).to_numpy()
    unknown = (
        f"has no keypoint_id, {side}_visibility or {side}_all_xy_px of all its keypoints, which protocol "
        f"{protocol.name} needs; prepare the manifest with nemf prepare --dataset ap-10k"
    )
    refuse((n_visibility != counts) | (n_ids != counts), pairs["pair_id"], unknown)
    occluded = visibility == 1
    labelled_xy_px, is_known = _labelled_xy_px(pairs, side)
    refuse(pck.count_correct(occluded & ~is_known, counts) > 0, pairs["pair_id"], unknown)
    long_px = np.repeat(hw.max(axis=1, initial=0, keepdims=True), counts, axis=0)
    left_top_px = (long_px - np.repeat(hw[:, ::-1], counts, axis=0)) / 2
    expected_xy_px, within_px = labelled_xy_px, np.full((len(labelled_xy_px), 1), 1e-3)
    if protocol.occluded == "halved":
        assert protocol.side_px is not None
        expected_xy_px, within_px = (labelled_xy_px - left_top_px) / 2, long_px / protocol.side_px
    is_off = occluded & (np.abs(given_xy_px - expected_xy_px) > within_px).any(axis=1)
    option = {"halved": "--occluded halved", "labelled": "--occluded labelled"}[protocol.occluded]
    refuse(
        pck.count_correct(is_off, counts) > 0,
        pairs["pair_id"],
        f"has {side} keypoints of visibility 1 that are not {protocol.occluded}, as protocol {protocol.name} has them; "
        f"prepare the manifest with nemf prepare {option}, and match again",
    )


def _box_sides_px(
    pairs: pa.Table, column: str, scale: Float64[np.ndarray, "p 2"], protocol: str
) -> Float64[np.ndarray, " p"]:
    """The longest side of each box of a column, scaled. Raises ValueError for a pair without a box of some size."""
    need = f"has no usable {column}, which protocol {protocol} needs for its T"
    refuse(pc.is_null(pairs[column]).to_numpy(), pairs["pair_id"], need)
    sides_px = pck.longest_side_px(_values(pairs[column]).reshape(-1, 4) * np.tile(scale, 2))
    refuse(~(np.isfinite(sides_px) & (sides_px > 0)), pairs["pair_id"], need)
    return sides_px


def _image_sides_px(hw: Float64[np.ndarray, "p 2"], scale: Float64[np.ndarray, "p 2"]) -> Float64[np.ndarray, " p"]:
    """The longest side of each image, scaled."""
    return (hw * scale[:, ::-1]).max(axis=1, initial=0)


def _valid_points(
    pairs: pa.Table, counts: Int64[np.ndarray, " p"], scale: Float64[np.ndarray, "p 2"]
) -> tuple[Float64[np.ndarray, "v 2"], Int64[np.ndarray, " v"]]:
    """All valid target points, scaled, and the number of the keypoint that each belongs to; ascending.

    Raises ValueError for a pair without any for one of its keypoints.
    """
    column = pairs["target_valid_xy_px"]
    need = "has no target_valid_xy_px for each of its keypoints; prepare the manifest with several valid targets"
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    refuse(lengths != counts, pairs["pair_id"], need)
    per_keypoint = pc.list_flatten(column)
    n_valid = pc.fill_null(pc.list_value_length(per_keypoint), 0).to_numpy().astype(np.int64)
    refuse(pck.count_correct(n_valid == 0, counts) > 0, pairs["pair_id"], need)
    xy_px = _values(pc.list_flatten(per_keypoint)).reshape(-1, 2).astype(np.float64)
    of_point = np.repeat(np.arange(len(n_valid)), n_valid)
    of_pair = np.repeat(np.arange(len(counts)), counts)[of_point]
    not_finite = np.bincount(of_pair, ~np.isfinite(xy_px).all(axis=1), minlength=len(counts)) > 0
    refuse(not_finite, pairs["pair_id"], "has a valid target point that is not finite")
    return xy_px * scale[of_pair], of_point


def _least(values: Float64[np.ndarray, " v"], of_point: Int64[np.ndarray, " v"] | slice) -> Float64[np.ndarray, " n"]:
    """The least value of each point; of_point: the points that the values belong to, ascending; a slice for all."""
    if isinstance(of_point, slice) or not len(values):
        return values
    return np.minimum.reduceat(values, np.unique(of_point, return_index=True)[1])


def _nearest_others_px(
    predicted: Float64[np.ndarray, "n 2"], truth: Float64[np.ndarray, "n 2"], counts: Int64[np.ndarray, " p"]
) -> Float64[np.ndarray, " n"]:
    """The distance of each prediction from the nearest of the pair's other keypoints; infinite where there is none."""
    nearest_px = np.full(len(truth), np.inf)
    of_pair = np.repeat(np.arange(len(counts)), counts)
    start, count = (np.cumsum(counts) - counts)[of_pair], counts[of_pair]
    position = np.arange(len(truth)) - start
    # the other of number `step` after a keypoint, round the pair's list
    for step in range(1, int(counts.max(initial=0))):
        points = np.flatnonzero(count > step)
        others = start[points] + (position[points] + step) % count[points]
        nearest_px[points] = np.minimum(nearest_px[points], pck.errors_px(predicted[points], truth[others]))
    return nearest_px


def _answer_grids(rows: pa.Table) -> Float64[np.ndarray, "p 2"] | None:
    """Rows and columns of the grids of the matcher's answers, NaN where they are not known; None where none is."""
    if "answer_grid_hw" not in rows.column_names or rows["answer_grid_hw"].null_count == rows.num_rows:
        return None
    grid_hw = np.full((rows.num_rows, 2), np.nan)
    grid_hw[pc.is_valid(rows["answer_grid_hw"]).to_numpy()] = _values(rows["answer_grid_hw"]).reshape(-1, 2)
    return grid_hw


def _grid_errors_px(
    truth: Float64[np.ndarray, "n 2"],
    hw: Float64[np.ndarray, "n 2"],
    scale: Float64[np.ndarray, "n 2"],
    grid_hw: Float64[np.ndarray, "n 2"],
) -> Float64[np.ndarray, " n"]:
    """The distance of each point from the nearest centre of the cells of its grid over the image; NaN without a grid.

    truth: in the protocol's space, scale: from the image's pixels to it. hw, grid_hw: of each point's image.
    """
    cell_px = hw[:, ::-1] / grid_hw[:, ::-1]
    cell = np.clip(np.rint((truth / scale + 0.5) / cell_px - 0.5), 0, grid_hw[:, ::-1] - 1)
    difference = ((cell + 0.5) * cell_px - 0.5) * scale - truth
    return np.hypot(difference[:, 0], difference[:, 1])


def _is_geometry_aware(pairs: pa.Table, n_points: Int64[np.ndarray, " p"]) -> Bool[np.ndarray, " n"]:
    """Whether another keypoint of one of its geometry groups is labelled in the target, for each keypoint.

    Raises ValueError for a pair with keypoints without what is needed to say.
    """
    names = ("target_all_keypoint_id", "geometry_groups")
    refuse_without_ids(pairs, names, n_points, "geometry-aware protocols need")
    columns = [pairs[name].to_pylist() for name in ("keypoint_id", *names)]
    mask = []
    for count, ids, labelled, groups in zip(n_points, *columns, strict=True):
        if count:
            present = [set(group) & set(labelled) for group in groups]
            ambiguous = set().union(*(members for members in present if len(members) > 1))
            mask += [keypoint_id in ambiguous for keypoint_id in ids]
    return np.array(mask, bool)


def _labelled_xy_px(pairs: pa.Table, side: str) -> tuple[Float64[np.ndarray, "n 2"], Bool[np.ndarray, " n"]]:
    """Where each keypoint of the pairs was labelled in the side's image, and whether that is known."""
    labelled_xy_px = []
    names = ("keypoint_id", f"{side}_all_keypoint_id", f"{side}_all_xy_px")
    for ids, all_ids, all_xy_px in zip(*(pairs[name].to_pylist() for name in names), strict=True):
        by_id = dict(zip(all_ids or [], all_xy_px or [], strict=False))
        labelled_xy_px += [by_id.get(name, (np.nan, np.nan)) for name in ids]
    xy_px: Float64[np.ndarray, "n 2"] = np.array(labelled_xy_px, np.float64).reshape(-1, 2)
    return xy_px, np.asarray(np.isfinite(xy_px).all(axis=1))


def _numbers(pairs: pa.Table, name: str) -> tuple[Shaped[np.ndarray, " n"], Int64[np.ndarray, " p"]]:
    """A column of lists of numbers as all of them and the length of each list; a null list is an empty one."""
    counts = pc.fill_null(pc.list_value_length(pairs[name]), 0).to_numpy().astype(np.int64)
    return _values(pairs[name]), counts


def _keypoint_sides_px(
    pairs: pa.Table,
    xy_px: Float64[np.ndarray, "n 2"],
    counts: Int64[np.ndarray, " p"],
    side: str,
    protocol: Protocol,
) -> Float64[np.ndarray, " p"]:
    """The longest side of the tight box around each pair's keypoints. Raises ValueError where it has no extent."""
    boxes_xyxy = pck.tight_boxes_xyxy(xy_px, counts)
    if protocol.padding is not None:
        boxes_xyxy = np.concatenate(
            [np.minimum(boxes_xyxy[:, :2], protocol.padding), np.maximum(boxes_xyxy[:, 2:], protocol.padding)], axis=1
        )
    sides_px = pck.longest_side_px(boxes_xyxy)
    no_extent = (
        f"has its {side} keypoints all at one place: their box has no extent, so there is no T under protocol "
        f"{protocol.name}; leave it out of the manifest, or score it under a protocol with another T"
    )
    refuse(sides_px == 0, pairs["pair_id"], no_extent)
    return sides_px
