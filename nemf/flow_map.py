"""Dense flow that is a map: neighbouring pixels have neighbouring matches.

Every pixel matched by itself gives a mosaic: alike places of the reference take turns, and where the reference does not
show what the query does, matches are scattered. `smoothed` makes a map of such answers on a grid of nodes: what the
surer nodes agree on stays, and the others follow their neighbours. `folded_share` says how much of a flow is no map.
"""

import functools
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse
from jaxtyping import Float
from scipy.stats import rankdata

# chosen on validation pairs of Animal-Pose and on warped photographs
_LENGTH = 1 / 45
"""How far a node's answer reaches where it has nothing against it, in units of the longer side."""
_FIRST_LENGTH = 3.2 * _LENGTH
"""The same at the first of the steps, which finds out who agrees with whom."""
_DISAGREEMENT = 0.06
"""A node whose answer is so far from the map counts half, in units of the reference's longer side."""
_STEPS = 6
_PINNED = 1e3
"""Weight of a known match, beside 1 for the surest node."""


def smoothed(
    flow_px: Float[np.ndarray, "h w 2"],
    confidence: Float[np.ndarray, "h w"],
    reference_hw: tuple[int, int],
    known_xy: Float[np.ndarray, "k 2"] | None = None,
    known_flow_px: Float[np.ndarray, "k 2"] | None = None,
) -> tuple[Float[np.ndarray, "h w 2"], Float[np.ndarray, "h w"]]:
    """The displacements of a grid of nodes, made a map; and how far each node's own answer agrees with it, 0..1.

    The map is the flow u that minimises, over the nodes i with answers a_i,

        sum_i w_i log(1 + |u_i - a_i|^2 / s^2) + l^2 / s^2 sum_ij |u_i - u_j|^2,

    ij being neighbours on the grid: a robust fit of a membrane, by iteratively reweighted least squares, from a stiffer
    membrane to this one. w_i is the squared rank of the node's confidence among the nodes, in 0..1, so that only their
    order matters; s is 0.06 of the reference's longer side, l 1/45 of the grid's. The agreement is
    1 / (1 + |u_i - a_i|^2 / s^2).

    flow_px: displacements (dx, dy) in pixels, at the nodes. confidence: any numbers, the greater the surer.
    known_xy, known_flow_px: places in units of nodes, (0, 0) being the first one, and displacements that the map shall
    have there; between nodes it is bilinear. Two in one cell that contradict each other are met halfway.
    """
    h, w = confidence.shape
    nodes = max(h, w)
    weight = ((rankdata(confidence) / confidence.size) ** 2).reshape(-1)
    answer_px = flow_px.reshape(-1, 2).astype(np.float64)
    scale_px = _DISAGREEMENT * max(reference_hw)
    pins, pinned_px = np.zeros((1, h * w)), np.zeros((h * w, 2))
    if known_xy is not None and known_flow_px is not None and len(known_xy):
        at_known = _interpolation(known_xy.astype(np.float64), (h, w))
        pins = _bands(_PINNED * at_known.T @ at_known, w)
        pinned_px = _PINNED * at_known.T @ known_flow_px.astype(np.float64)
    membrane = _membrane(h, w)
    smooth_px, agreement = answer_px, np.ones_like(weight)
    for length in np.geomspace(_FIRST_LENGTH, _LENGTH, _STEPS):
        trust = weight * agreement
        system = (length * nodes) ** 2 * membrane + pins
        system[0] += trust
        smooth_px = scipy.linalg.solveh_banded(system, trust[:, None] * answer_px + pinned_px, lower=True)
        squared_px = ((smooth_px - answer_px) ** 2).sum(axis=1)
        agreement = 1 / (1 + squared_px / scale_px**2)
    return smooth_px.reshape(h, w, 2), agreement.reshape(h, w)


def folded_share(flow_px: Float[np.ndarray, "h w 2"]) -> float:
    """The share of pixels, 0..1, at which a flow folds: x + flow turns over there against most of the flow, or stands
    still.

    That is where the determinant of the Jacobian of x + flow, by forward differences, is 0 or has the sign of the fewer
    pixels. For most flows it is the share of determinants that are not positive; a map between mirror images has only
    negative ones, and is not folded. 0 for an image of one row or column.
    """
    right, down = _steps(flow_px)
    if right.size == 0:
        return 0.0
    determinant = (1 + right[..., 0]) * (1 + down[..., 1]) - right[..., 1] * down[..., 0]
    return float(min((determinant <= 0).mean(), (determinant >= 0).mean()))


def torn_share(flow_px: Float[np.ndarray, "h w 2"], limit: float = 3.0) -> float:
    """The share of pixels, 0..1, between which and their neighbours a flow changes by more than `limit` px a px.

    The change is the Frobenius norm of the flow's gradient, by forward differences. 0 for one row or column.
    """
    right, down = _steps(flow_px)
    if right.size == 0:
        return 0.0
    return float((np.sqrt((right**2).sum(axis=-1) + (down**2).sum(axis=-1)) > limit).mean())


def _steps(flow_px: Float[np.ndarray, "h w 2"]) -> tuple[np.ndarray, np.ndarray]:
    """How the flow changes from each pixel but the last ones to the next one right and down."""
    flow_px = np.asarray(flow_px, np.float64)
    return np.diff(flow_px, axis=1)[:-1], np.diff(flow_px, axis=0)[:, :-1]


@functools.lru_cache(maxsize=32)
def _membrane(h: int, w: int) -> Float[np.ndarray, "bands n"]:
    """The matrix M with u' M u = sum of (u_i - u_j)^2 over the neighbours of a grid, as _bands has it."""
    along_x = scipy.sparse.kron(scipy.sparse.eye_array(h), _chain(w))
    along_y = scipy.sparse.kron(_chain(h), scipy.sparse.eye_array(w))
    return _bands(along_x + along_y, w)


def _bands(matrix: Any, w: int) -> Float[np.ndarray, "bands n"]:
    """A sparse symmetric matrix as its diagonals from the main one down: the lower form of scipy.linalg.solveh_banded.

    matrix: between the nodes of a grid of rows of w; 0 for nodes further apart than neighbours at a corner.
    """
    lower = scipy.sparse.tril(matrix, format="coo")
    lower.eliminate_zeros()
    row, column = lower.coords
    bands = np.zeros((min(w + 2, lower.shape[0]), lower.shape[0]))
    np.add.at(bands, (row - column, column), lower.data)
    return bands


def _chain(n: int) -> scipy.sparse.csc_array:
    difference = np.diff(np.eye(n), axis=0)
    return scipy.sparse.csc_array(difference.T @ difference)


def _interpolation(xy: Float[np.ndarray, "k 2"], hw: tuple[int, int]) -> scipy.sparse.csr_array:
    """The matrix (k, h w) that reads values of a grid at places in it, bilinear; outside of it at the nearest."""
    h, w = hw
    inside = np.clip(xy, 0, [w - 1, h - 1])
    low = np.minimum(inside.astype(int), [max(w - 2, 0), max(h - 2, 0)])
    part = inside - low
    rows, columns, values = [], [], []
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = np.minimum(low + np.array([dx, dy]), [w - 1, h - 1]).T
        rows.append(np.arange(len(xy)))
        columns.append(y * w + x)
        values.append(np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1]))
    entries = (np.concatenate(values), (np.concatenate(rows), np.concatenate(columns)))
    return scipy.sparse.csr_array(entries, shape=(len(xy), h * w))
