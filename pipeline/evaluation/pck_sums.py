"""PCK of groups of pairs, in percent, from sums that can be added: the one place where PCK is averaged.

PCKSums of a group is a (1 + replicates, 3 + 2 alphas) array. Row 0 counts every pair once, row r as often as bootstrap
replicate r does. The columns are pairs, keypoints and failed pairs, then per alpha the sum of the pairs' own shares of
correct keypoints, and per alpha the sum of their correct keypoints.

The sums of another measure than PCK are the same array, of the keypoints that are so instead of the correct ones, and
of the pairs and keypoints that it is known of. They have row 0 alone.

An average over nothing is NaN; tables and pages decide what to show instead.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float64, Int64

from nemf import pck
from pipeline.evaluation.bootstrap import BootstrapWeights
from pipeline.evaluation.flow_errors import FlowErrors
from pipeline.evaluation.keypoint_errors import Failed, KeypointErrors

PCKSums = Float64[np.ndarray, "rows columns"]
MeasureSums = Float64[np.ndarray, "1 columns"]
Percents = Float64[np.ndarray, "rows alphas"]

_N_PAIRS, _N_POINTS, _N_FAILED, _N_COUNTS = 0, 1, 2, 3
_MAX_VALUES = 2**23
"""Maximum bytes of bootstrap weights in memory."""
_COVERAGE_PERCENT = 95


def pair_sums(
    errors: KeypointErrors | FlowErrors, alphas: Sequence[float], failed: Failed
) -> Float64[np.ndarray, "p columns"]:
    """The contribution of each pair to the sums of its groups, (P, 3 + 2 alphas)."""
    n_points = errors.n_counted(failed)
    n_correct = np.stack([errors.n_correct(alpha) for alpha in alphas], axis=1) * (n_points > 0)[:, None]
    counts = np.stack([n_points > 0, n_points, errors.failed], axis=1)
    return np.concatenate([counts, n_correct / np.maximum(n_points, 1)[:, None], n_correct], axis=1)


def measure_sums(
    errors: KeypointErrors | FlowErrors, alphas: Sequence[float], failed: Failed
) -> dict[str, Float64[np.ndarray, "p columns"]]:
    """pair_sums of the measures other than PCK that are known, by name."""
    if isinstance(errors, FlowErrors):
        return {}
    n_points = errors.n_counted(failed)
    by_alpha = [errors.measures(alpha) for alpha in alphas]
    sums = {}
    for name in by_alpha[0]:
        n_known = np.where(n_points > 0, pck.count_correct(by_alpha[0][name][1], errors.n_points), 0)
        n_hits = np.stack([pck.count_correct(measures[name][0], errors.n_points) for measures in by_alpha], axis=1)
        n_hits = n_hits * (n_known > 0)[:, None]
        counts = np.stack([n_known > 0, n_known, errors.failed], axis=1)
        sums[name] = np.concatenate([counts, n_hits / np.maximum(n_known, 1)[:, None], n_hits], axis=1)
    return sums


def group_sums(
    sums: Float64[np.ndarray, "p columns"], weights: BootstrapWeights | None, groups: Sequence[Int64[np.ndarray, " _"]]
) -> list[PCKSums]:
    """The sums of groups of pairs; one row each without weights.

    sums: of the pairs. weights: of the same pairs. groups: the indices of the pairs in each.
    """
    rows = [[sums[group].sum(axis=0, keepdims=True)] for group in groups]
    n_replicates = 0 if weights is None else weights.n_replicates
    n_together = max(1, _MAX_VALUES // max(1, len(sums)))
    for first in range(0, n_replicates, n_together):
        assert weights is not None
        # computed once for all groups: they take longer than the sums
        replicates = weights.replicates(first, min(first + n_together, n_replicates))
        for group_rows, group in zip(rows, groups, strict=True):
            group_rows.append(replicates[:, group] @ sums[group])
    return [np.concatenate(group_rows) for group_rows in rows]


def pair_percents(
    sums: Float64[np.ndarray, "p columns"],
) -> tuple[Int64[np.ndarray, "3 p"], Float64[np.ndarray, "p alphas"]]:
    """Pairs, keypoints and failed pairs, and percent correct, of each pair by itself; 0 percent of no keypoints."""
    percents = 100 * sums[:, _N_COUNTS : _N_COUNTS + _n_alphas(sums)]
    return sums[:, :_N_COUNTS].T.astype(np.int64), percents


def counts(sums: PCKSums) -> tuple[int, int, int]:
    """Pairs and keypoints that the averages are over, and failed pairs."""
    n_pairs, n_points, n_failed = sums[0, [_N_PAIRS, _N_POINTS, _N_FAILED]]
    return int(n_pairs), int(n_points), int(n_failed)


def image_average(sums: PCKSums) -> Percents:
    """The mean over pairs of their own share of correct keypoints, in percent; NaN where there is no pair."""
    shares = sums[:, _N_COUNTS : _N_COUNTS + _n_alphas(sums)]
    return _percent(shares, sums[:, [_N_PAIRS]])


def point_average(sums: PCKSums) -> Percents:
    """The share of correct ones among all keypoints, in percent; NaN where there is none."""
    n_correct = sums[:, _N_COUNTS + _n_alphas(sums) :]
    return _percent(n_correct, sums[:, [_N_POINTS]])


def class_mean(category_sums: Sequence[PCKSums]) -> Percents:
    """The unweighted mean of the image averages of the categories that have one, in percent; NaN where none has."""
    percents = np.stack([image_average(sums) for sums in category_sums])
    known = np.isfinite(percents)
    total = np.where(known, percents, 0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full_like(total, np.nan), where=known.any(axis=0))


def interval(percents: Percents) -> tuple[Float64[np.ndarray, " alphas"], Float64[np.ndarray, " alphas"]]:
    """Low and high ends of the 95 % percentile interval over the replicates, all rows but the first.

    NaN where there are no replicates or none of them has anything to average over.
    """
    replicates = percents[1:]
    usable = np.isfinite(replicates)
    empty = ~usable.any(axis=0) if len(replicates) else np.ones(percents.shape[1], bool)
    tail = (100 - _COVERAGE_PERCENT) / 2
    ends = np.full((2, percents.shape[1]), np.nan)
    if not empty.all():
        ends[:, ~empty] = np.nanpercentile(replicates[:, ~empty], [tail, 100 - tail], axis=0)
    return ends[0], ends[1]


def from_values(values: Float64[np.ndarray, " _"], n_alphas: int) -> PCKSums:
    """The sums whose rows were stored one after another."""
    return values.reshape(-1, _N_COUNTS + 2 * n_alphas)


def _n_alphas(sums: PCKSums) -> int:
    return (sums.shape[1] - _N_COUNTS) // 2


def _percent(part: Percents, whole: Float64[np.ndarray, "rows 1"]) -> Percents:
    return 100 * np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
