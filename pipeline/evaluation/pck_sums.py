"""Sums that PCK is made of: of groups of pairs, and of the same in every bootstrap replicate. They can be added.

A tally is a (1 + replicates, 3 + 2 alphas) array. Its first row counts every pair once, row r as often as replicate r
has it; the columns are pairs, keypoints and failed pairs, then by alpha the sum of the pairs' shares of correct
keypoints, and by alpha the sum of their correct keypoints.
"""

from collections.abc import Sequence

import numpy as np

from pipeline.evaluation.bootstrap import Draws
from pipeline.evaluation.keypoint_errors import Failed, Scores

Tally = np.ndarray

_N_PAIRS, _N_POINTS, _N_FAILED, _N_COUNTS = 0, 1, 2, 3
_VALUES_AT_ONCE = 2**23
_COVERAGE_PERCENT = 95


def pair_sums(scores: Scores, alphas: Sequence[float], failed: Failed) -> np.ndarray:
    """(P, 3 + 2 alphas): what each pair adds to a tally."""
    n_points = scores.n_counted(failed)
    n_correct = np.stack([scores.n_correct(alpha) for alpha in alphas], axis=1) * (n_points > 0)[:, None]
    counts = np.stack([n_points > 0, n_points, scores.failed], axis=1)
    return np.concatenate([counts, n_correct / np.maximum(n_points, 1)[:, None], n_correct], axis=1)


def tally(sums: np.ndarray, draws: Draws, groups: Sequence[np.ndarray]) -> list[Tally]:
    """The tallies of groups of pairs.

    sums: (P, 3 + 2 alphas). draws: of these pairs. groups: which of the pairs are in each, (n,) indices.
    """
    at_once = max(1, _VALUES_AT_ONCE // max(1, len(sums)))
    found = [[sums[rows].sum(axis=0, keepdims=True)] for rows in groups]
    for first in range(0, draws.n_replicates, at_once):
        # made once for all groups: they take longer than the sums
        weights = draws.weights(first, min(first + at_once, draws.n_replicates))
        for of_group, rows in zip(found, groups, strict=True):
            of_group.append(weights[:, rows] @ sums[rows])
    return [np.concatenate(of_group) for of_group in found]


def of_pairs(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs, keypoints and failed pairs, (3, P) int64, and percent correct, (P, alphas), of each pair by itself."""
    percent = 100 * sums[:, _N_COUNTS : _N_COUNTS + _n_alphas(sums)]
    return sums[:, :_N_COUNTS].T.astype(np.int64), percent


def counts(of: Tally) -> tuple[int, int, int]:
    """Pairs and keypoints that the averages are over, and failed pairs."""
    n_pairs, n_points, n_failed = of[0, [_N_PAIRS, _N_POINTS, _N_FAILED]]
    return int(n_pairs), int(n_points), int(n_failed)


def image_average(of: Tally) -> np.ndarray:
    """(1 + replicates, alphas) percent: the mean over pairs; NaN where there is none."""
    shares = of[:, _N_COUNTS : _N_COUNTS + _n_alphas(of)]
    return _percent(shares, of[:, [_N_PAIRS]])


def point_average(of: Tally) -> np.ndarray:
    """(1 + replicates, alphas) percent: the mean over keypoints; NaN where there is none."""
    correct = of[:, _N_COUNTS + _n_alphas(of) :]
    return _percent(correct, of[:, [_N_POINTS]])


def class_mean(of_categories: Sequence[Tally]) -> np.ndarray:
    """(1 + replicates, alphas) percent: the unweighted mean of the categories' means over pairs, of those that have
    any; NaN where none has."""
    percents = np.stack([image_average(of) for of in of_categories])
    known = np.isfinite(percents)
    total = np.where(known, percents, 0).sum(axis=0)
    return np.divide(total, known.sum(axis=0), out=np.full_like(total, np.nan), where=known.any(axis=0))


def interval(percents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Low and high ends, (alphas,) each, of the 95 % percentile interval of (1 + replicates, alphas) percent.

    NaN where there are no replicates or they have nothing to average over.
    """
    replicates = percents[1:]
    usable = np.isfinite(replicates)
    nothing = ~usable.any(axis=0) if len(replicates) else np.ones(percents.shape[1], bool)
    tail = (100 - _COVERAGE_PERCENT) / 2
    ends = np.full((2, percents.shape[1]), np.nan)
    if not nothing.all():
        ends[:, ~nothing] = np.nanpercentile(replicates[:, ~nothing], [tail, 100 - tail], axis=0)
    return ends[0], ends[1]


def _n_alphas(of: Tally) -> int:
    return (of.shape[1] - _N_COUNTS) // 2


def _percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return 100 * np.divide(part, whole, out=np.full_like(part, np.nan), where=whole > 0)
