"""The signals that a match is judged by, from stored rows alone: one number for each point and signal.

    confidence   the matcher's own, 0..1
    margin       its best score round the answer less its best one elsewhere, in its own scores
    cycle        distance of the point from itself when it is matched back, as a share of the query's size
    neighbours   distance of the answer from where the answers of the nearest points would have it (see neighbour_error)
    pair         the same of the other points of the pair, their mean: whether its answers fit together at all
    agreement    distance of the answer from that of another run, as a share of the reference's size

The size of an image is the longest side of its box, of the whole image where there is none. NaN where a point lacks a
signal, such as the neighbours of a point that is alone.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64

from nemf import pck
from pipeline.evaluation.refuse import refuse

SIGNALS = ("confidence", "margin", "cycle", "neighbours", "pair", "agreement")
HOW_TO_GET = {
    "confidence": "match with --outputs keypoints,confidence",
    "margin": "match with --outputs keypoints,margin",
    "cycle": "match with --outputs keypoints,cycle",
    "neighbours": "match with --outputs keypoints",
    "pair": "match with --outputs keypoints",
    "agreement": "give a second run with --agree",
}
MATCH_COLUMNS = (
    *("query_hw", "reference_hw", "query_xy_px", "reference_xy_px"),
    *("point_confidence", "point_margin", "point_cycle_error_px"),
)
"""The columns of MATCHES that signals are read from."""
_COLUMNS = {"confidence": "point_confidence", "margin": "point_margin", "cycle": "point_cycle_error_px"}

NEAREST = 8
"""Number of neighbours that are asked, at most."""
_RIDGE = 0.02
_ROBUST = 0.1
_ROUNDS = 3
_LEAST_ERROR = 0.02
_CHUNK_POINTS = 2**14
"""Points whose neighbours are looked for at once."""

SignalValues = dict[str, Float64[np.ndarray, " n"]]
"""The value of each point by signal."""


def signals(
    rows: pa.Table,
    query_size_px: Float64[np.ndarray, " p"],
    reference_size_px: Float64[np.ndarray, " p"],
    others: pa.Table | None = None,
) -> SignalValues:
    """The signals of all points of P answered MATCHES rows, row after row; absent signals are left out.

    query_size_px, reference_size_px: longest side of each row's box, NaN where there is none: it is that of the image.
    others: the rows of another run for the same pairs, null where it has none; None without another run.
    A signal is absent if no row with points has its column. Raises ValueError for rows that contradict themselves.
    """
    query_xy_px, counts = points_xy_px(rows, "query_xy_px")
    reference_xy_px, n_answers = points_xy_px(rows, "reference_xy_px")
    refuse(n_answers != counts, rows["pair_id"], "has another number of reference_xy_px than of query_xy_px")
    query_size, reference_size = (
        np.repeat(np.where(np.isnan(size), _image_side_px(rows[f"{role}_hw"]), size), counts)
        for role, size in (("query", query_size_px), ("reference", reference_size_px))
    )
    found: SignalValues = {}
    for name, column in _COLUMNS.items():
        values = _numbers(rows, column, counts)
        if values is not None:
            found[name] = values / query_size if name == "cycle" else values
    found["neighbours"] = neighbour_error(
        query_xy_px / query_size[:, None], reference_xy_px / reference_size[:, None], counts
    )
    found["pair"] = others_mean(found["neighbours"], counts)
    if others is not None:
        found["agreement"] = _distance_px(rows, others, query_xy_px, reference_xy_px, counts) / reference_size
    return found


def neighbour_error(
    query: Float64[np.ndarray, "n 2"], reference: Float64[np.ndarray, "n 2"], counts: Int64[np.ndarray, " p"]
) -> Float64[np.ndarray, " n"]:
    """Distance of each answer from the one that its neighbours' answers foretell, NaN for a point without neighbours.

    query, reference: points and answers in units of their object's size, pair after pair, `counts` of each pair.
    The neighbours are the NEAREST points of the pair in the query. An affine map is fitted to their answers alone,
    drawn towards the identity where they are few or on a line; neighbours far from the map weigh little.
    """
    error = np.full(len(query), np.nan)
    starts = np.cumsum(counts) - counts
    for count in np.unique(counts[counts > 1]):
        of_count = np.flatnonzero(counts == count)
        for first in range(0, len(of_count), step := max(1, _CHUNK_POINTS // int(count))):
            points = starts[of_count[first : first + step], None] + np.arange(count)
            error[points] = _errors_of(query[points], reference[points])
    return error


def others_mean(error: Float64[np.ndarray, " n"], counts: Int64[np.ndarray, " p"]) -> Float64[np.ndarray, " n"]:
    """The mean logarithm of the errors (a little more than 0 each) of the other points of each point's pair.

    NaN for a point that is alone in its pair.
    """
    of_pair = np.repeat(np.arange(len(counts)), counts)
    logarithm = np.log(error + _LEAST_ERROR)
    total = np.bincount(of_pair, logarithm, minlength=len(counts))[of_pair]
    n_others = counts[of_pair] - 1
    return (total - logarithm) / np.where(n_others > 0, n_others, np.nan)


def _errors_of(
    query: Float64[np.ndarray, "m k 2"], reference: Float64[np.ndarray, "m k 2"]
) -> Float64[np.ndarray, "m k"]:
    """neighbour_error of M pairs of K points each."""
    n_points = query.shape[1]
    n_nearest = min(NEAREST, n_points - 1)
    qx, qy = query[..., 0], query[..., 1]
    distance = (qx[:, :, None] - qx[:, None]) ** 2 + (qy[:, :, None] - qy[:, None]) ** 2
    distance[:, np.arange(n_points), np.arange(n_points)] = np.inf
    nearest = np.argpartition(distance, n_nearest - 1, axis=-1)[..., :n_nearest]
    of_pair = np.arange(len(query))[:, None, None]
    # offsets from the point, and what the answers add to them
    x, y = qx[of_pair, nearest] - qx[..., None], qy[of_pair, nearest] - qy[..., None]
    u, v = reference[..., 0][of_pair, nearest] - x, reference[..., 1][of_pair, nearest] - y
    weight = np.ones_like(x)
    for _ in range(_ROUNDS):
        total = weight.sum(axis=-1, keepdims=True)
        mean_x, mean_y, mean_u, mean_v = (
            (weight * values).sum(axis=-1, keepdims=True) / total for values in (x, y, u, v)
        )
        dx, dy, du, dv = x - mean_x, y - mean_y, u - mean_u, v - mean_v
        xx, yy, xy = ((weight * product).sum(axis=-1, keepdims=True) for product in (dx * dx, dy * dy, dx * dy))
        ridge = _RIDGE * total
        xx, yy = xx + ridge, yy + ridge
        determinant = xx * yy - xy * xy
        foretold, residual = [], np.zeros_like(x)
        for mean, d in ((mean_u, du), (mean_v, dv)):
            bx, by = ((weight * product).sum(axis=-1, keepdims=True) for product in (dx * d, dy * d))
            ax, ay = (bx * yy - by * xy) / determinant, (by * xx - bx * xy) / determinant
            residual += (d - ax * dx - ay * dy) ** 2
            foretold.append((mean - ax * mean_x - ay * mean_y)[..., 0])
        weight = 1 / (1 + residual / _ROBUST**2)
    return np.hypot(reference[..., 0] - foretold[0], reference[..., 1] - foretold[1])


def box_sides_px(boxes: pa.ChunkedArray) -> Float64[np.ndarray, " p"]:
    """The longest side of each box; NaN where there is none, or none of some size."""
    sides = np.full(len(boxes), np.nan)
    is_there = pc.is_valid(boxes).to_numpy()
    corners = pc.list_flatten(boxes).to_numpy().reshape(-1, 4).astype(np.float64)
    longest = pck.longest_side_px(corners)
    sides[is_there] = np.where(np.isfinite(longest) & (longest > 0), longest, np.nan)
    return sides


def points_xy_px(rows: pa.Table, column: str) -> tuple[Float64[np.ndarray, "n 2"], Int64[np.ndarray, " p"]]:
    """All points of a column, row after row, and the number of each row's; a null list is an empty one."""
    counts = pc.fill_null(pc.list_value_length(rows[column]), 0).to_numpy().astype(np.int64)
    points = pc.list_flatten(pc.list_flatten(rows[column])).to_numpy()
    return points.reshape(-1, 2).astype(np.float64), counts


def signals_of_run(outputs: Sequence[str], *, has_other_run: bool) -> tuple[str, ...]:
    """The signals of a run of `nemf match` with these outputs, in the order of SIGNALS."""
    of_outputs = {"confidence", "margin", "cycle"} & set(outputs)
    return tuple(
        name
        for name in SIGNALS
        if name in of_outputs or name in ("neighbours", "pair") or (name == "agreement" and has_other_run)
    )


def describe_absent(present: Sequence[str]) -> Iterator[str]:
    """A text for each signal that is not among `present`: its name and how to get it."""
    return (f"{name} ({HOW_TO_GET[name]})" for name in SIGNALS if name not in present)


def _numbers(rows: pa.Table, column: str, counts: Int64[np.ndarray, " p"]) -> Float64[np.ndarray, " n"] | None:
    """A number of each point, NaN in rows without the column; None if no row with points has it."""
    n_values = pc.fill_null(pc.list_value_length(rows[column]), 0).to_numpy()
    is_there = n_values > 0
    if not is_there.any():
        return None
    refuse(is_there & (n_values != counts), rows["pair_id"], f"has another number of {column} than of points")
    values = np.full(counts.sum(), np.nan)
    values[np.repeat(is_there, counts)] = pc.fill_null(pc.list_flatten(rows[column]), np.nan).to_numpy()
    return values


def _distance_px(
    rows: pa.Table,
    others: pa.Table,
    query_xy_px: Float64[np.ndarray, "n 2"],
    reference_xy_px: Float64[np.ndarray, "n 2"],
    counts: Int64[np.ndarray, " p"],
) -> Float64[np.ndarray, " n"]:
    """Distance between the answers of two runs; NaN where the other has none. Raises ValueError for other points."""
    asked_xy_px, n_asked = points_xy_px(others, "query_xy_px")
    other_xy_px, n_answers = points_xy_px(others, "reference_xy_px")
    is_there = n_asked > 0
    refuse(is_there & ((n_asked != counts) | (n_answers != counts)), rows["pair_id"], _OTHER_POINTS)
    is_point = np.repeat(is_there, counts)
    differs = np.zeros(len(query_xy_px), bool)
    differs[is_point] = (asked_xy_px != query_xy_px[is_point]).any(axis=1)
    refuse(pck.count_correct(differs, counts) > 0, rows["pair_id"], _OTHER_POINTS)
    distance = np.full(len(query_xy_px), np.nan)
    distance[is_point] = pck.errors_px(other_xy_px, reference_xy_px[is_point])
    return distance


_OTHER_POINTS = "was asked for other points in the run of --agree: match both runs with the same manifest and --points"


def _image_side_px(hw: pa.ChunkedArray) -> Float64[np.ndarray, " p"]:
    """The longest side of each image; NaN where it is not known."""
    sides = np.full(len(hw), np.nan)
    sizes = pc.list_flatten(hw).to_numpy().reshape(-1, 2)
    sides[pc.is_valid(hw).to_numpy()] = sizes.max(axis=1, initial=0)
    return np.where(sides > 0, sides, np.nan)
