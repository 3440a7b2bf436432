"""The error and threshold T of every keypoint under one protocol and direction, from MATCHES and PAIRS rows."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int64, Shaped

from nemf import pck
from pipeline.evaluation.protocols import Protocol
from schemas.matches import sides_of

MATCH_COLUMNS = (
    *("pair_id", "direction", "status", "fingerprint"),
    *("query_hw", "reference_hw", "query_xy_px", "reference_xy_px"),
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

    def is_correct(self, alpha: float) -> Bool[np.ndarray, " n"]:
        """Mask of the correct keypoints."""
        return pck.is_correct(self.error_px, self.base_px, alpha, inclusive=self.protocol.inclusive)

    def n_correct(self, alpha: float) -> Int64[np.ndarray, " p"]:
        """The number of correct keypoints of each pair."""
        return pck.count_correct(self.is_correct(alpha), self.n_points)

    def n_counted(self, failed: Failed) -> Int64[np.ndarray, " p"]:
        """The number of keypoints of each pair that enter the averages."""
        return np.where(self.failed, 0, self.n_points) if failed == "exclude" else self.n_points

    def select(self, pairs: Bool[np.ndarray, " p"]) -> "KeypointErrors":
        """The errors of some pairs alone."""
        points = np.repeat(pairs, self.n_points)
        return KeypointErrors(
            protocol=self.protocol,
            n_points=self.n_points[pairs],
            failed=self.failed[pairs],
            error_px=self.error_px[points],
            base_px=self.base_px[points],
        )


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
    if protocol.points == "truncated":
        predicted = predicted + np.trunc(query_in_space) - query_in_space

    base_side = query if protocol.base_of == "query" else reference
    if protocol.base == "keypoints":
        in_space = query_in_space if protocol.base_of == "query" else truth
        base_px = _keypoint_sides_px(scored, in_space, counts, base_side, protocol)
    elif protocol.base == "image":
        base_px = (hw[protocol.base_of] * scale[protocol.base_of][:, ::-1]).max(axis=1, initial=0)
    else:
        base_px = _box_sides_px(scored, f"{base_side}_box_xyxy", scale[protocol.base_of], protocol.name)

    is_answered = np.repeat(answered, n_points)
    error_px, base_of_point_px = np.full(len(is_answered), np.inf), np.zeros(len(is_answered))
    error_px[is_answered] = pck.errors_px(predicted, truth)
    base_of_point_px[is_answered] = np.repeat(base_px, counts)
    failed = ~answered & (n_points > 0)
    if protocol.points == "inside":
        # a failed pair's images have no known size: all its keypoints count
        is_counted = np.ones(len(is_answered), bool)
        is_counted[is_answered] = np.logical_and(
            *(
                _is_inside(xy_px, np.repeat(hw[role], counts, axis=0))
                for xy_px, role in ((query_xy_px, "query"), (truth_xy_px, "reference"))
            )
        )
        n_points = pck.count_correct(is_counted, n_points)
        error_px, base_of_point_px = error_px[is_counted], base_of_point_px[is_counted]
    return KeypointErrors(
        protocol=protocol, n_points=n_points, failed=failed, error_px=error_px, base_px=base_of_point_px
    )


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
    _refuse(n_query != n_truth, pairs["pair_id"], "has unequal numbers of source and target keypoints")
    not_finite = ~np.isfinite(np.concatenate([query_xy_px, truth_xy_px], axis=1)).all(axis=1)
    _refuse(pck.count_correct(not_finite, n_truth) > 0, pairs["pair_id"], "has a keypoint that is not finite")
    return query_xy_px, truth_xy_px


def _predictions(
    rows: pa.Table, query_xy_px: Float64[np.ndarray, "n 2"], counts: Int64[np.ndarray, " p"]
) -> Float64[np.ndarray, "n 2"]:
    """The reference points predicted for the query keypoints. Raises ValueError where others were matched."""
    matched_xy_px, n_matched = _points(rows, "query_xy_px")
    predicted_xy_px, n_predicted = _points(rows, "reference_xy_px")
    _refuse(
        n_matched == 0,
        rows["pair_id"],
        "has keypoints in the manifest, but the matches hold none for it; match with --outputs keypoints",
    )
    stale = (
        "was matched at other query points than this manifest has: the run is stale or of another manifest; "
        "match again into a new folder"
    )
    _refuse(n_matched != counts, rows["pair_id"], stale)
    differs = (matched_xy_px != query_xy_px).any(axis=1)
    _refuse(pck.count_correct(differs, counts) > 0, rows["pair_id"], stale)
    _refuse(n_predicted != counts, rows["pair_id"], "has another number of reference_xy_px than of query_xy_px")
    return predicted_xy_px


def _sizes(rows: pa.Table, role: str, protocol: Protocol) -> Float64[np.ndarray, "p 2"]:
    """Image sizes (height, width); NaN where the protocol does not need them. Raises ValueError where one is absent."""
    needed = protocol.space != "original" or protocol.points == "inside"
    if not needed and (protocol.base != "image" or protocol.base_of != role):
        return np.full((rows.num_rows, 2), np.nan)
    _refuse(pc.is_null(rows[f"{role}_hw"]).to_numpy(), rows["pair_id"], f"has no {role}_hw in the matches")
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


def _box_sides_px(
    pairs: pa.Table, column: str, scale: Float64[np.ndarray, "p 2"], protocol: str
) -> Float64[np.ndarray, " p"]:
    """The longest side of each box of a column, scaled. Raises ValueError for a pair without a box of some size."""
    need = f"has no usable {column}, which protocol {protocol} needs for its T"
    _refuse(pc.is_null(pairs[column]).to_numpy(), pairs["pair_id"], need)
    sides_px = pck.longest_side_px(_values(pairs[column]).reshape(-1, 4) * np.tile(scale, 2))
    _refuse(~(np.isfinite(sides_px) & (sides_px > 0)), pairs["pair_id"], need)
    return sides_px


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
    _refuse(sides_px == 0, pairs["pair_id"], no_extent)
    return sides_px


def _refuse(bad: Bool[np.ndarray, " p"], pair_id: pa.ChunkedArray, why: str) -> None:
    """Raises ValueError with the first bad pair, the number of others and the reason, if any pair is bad."""
    if bad.any():
        first, count = int(np.flatnonzero(bad)[0]), int(np.count_nonzero(bad))
        others = f" (and {count - 1} more pairs)" if count > 1 else ""
        raise ValueError(f"pair {pair_id[first].as_py()}{others} {why}")
