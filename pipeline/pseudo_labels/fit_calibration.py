"""Making a calibration: logistic regression on the ranks of the signals, then a rising curve through the scores.

The numbers about its quality are cross-fitted: no image judges itself. Images are dealt into FOLDS by a hash of their
URI; a pair is judged by a model of the pairs that have no image in either fold of its own two. The calibration that is
written is made of all pairs.
"""

from collections.abc import Mapping
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt64

from pipeline.pseudo_labels.calibration import (
    BENDS,
    PROBABILITY_STEPS,
    Calibration,
    SignalShare,
    signal_features,
)
from pipeline.pseudo_labels.signals import SignalValues

FOLDS = 5
MIN_POINTS = 200
"""Fewest points, and RIGHT_AND_WRONG fewest right and fewest wrong ones, that a calibration is made of."""
RIGHT_AND_WRONG = 20
_QUANTILES = 33
_MAX_BINS = 30
_MIN_BIN_POINTS = 50


def fit_calibration(values: SignalValues, correct: Bool[np.ndarray, " n"], **described: Any) -> Calibration:
    """The calibration of points with these signals, of which those are right. described: its other fields.

    Raises ValueError for too few points, or too few right or wrong ones.
    """
    # scikit-learn takes a second to import
    from sklearn.isotonic import IsotonicRegression
    from sklearn.linear_model import LogisticRegression

    n_right, n_points = int(correct.sum()), len(correct)
    if n_points < MIN_POINTS or not RIGHT_AND_WRONG <= n_right <= n_points - RIGHT_AND_WRONG:
        raise ValueError(
            f"a calibration needs at least {MIN_POINTS} points, {RIGHT_AND_WRONG} of them right and as many wrong: "
            f"got {n_points}, {n_right} of them right"
        )
    curves = {name: _rank_curve(signal) for name, signal in values.items()}
    features = np.concatenate([signal_features(values[name], *curve) for name, curve in curves.items()], axis=1)
    model = LogisticRegression(C=1.0, max_iter=1000, tol=1e-6).fit(features, correct)
    weights, shares = model.coef_[0].reshape(len(curves), len(BENDS) + 1), {}
    for (name, (knots, ranks)), of_signal in zip(curves.items(), weights, strict=True):
        shares[name] = SignalShare(
            values=tuple(knots.tolist()),
            ranks=tuple(ranks.tolist()),
            weights=tuple(of_signal[:-1].tolist()),
            missing=float(of_signal[-1]),
        )
    scores = features @ model.coef_[0]
    # bins of equally many points, of which scores that are equal share one
    order = np.argsort(scores, kind="stable")
    n_bins = min(_MAX_BINS, n_points // _MIN_BIN_POINTS)
    bins = np.array_split(order, n_bins)
    at = np.array([scores[points].mean() for points in bins])
    # a pseudo-point of either kind in each bin keeps probabilities off 0 and 1
    share_right = np.array([(correct[points].sum() + 0.5) / (len(points) + 1) for points in bins])
    at, first = np.unique(at, return_index=True)
    rising = IsotonicRegression().fit(at, share_right[first]).predict(at)
    return Calibration(
        signals=shares,
        scores=tuple(at.tolist()),
        probabilities=tuple(np.clip(rising, 0, 1).tolist()),
        **described,
    )


def cross_fitted_probability(
    values: SignalValues,
    correct: Bool[np.ndarray, " n"],
    source: UInt64[np.ndarray, " p"],
    target: UInt64[np.ndarray, " p"],
    counts: Int64[np.ndarray, " p"],
) -> Float64[np.ndarray, " n"]:
    """The probability of each point by a calibration that has seen neither image of its pair; NaN where there is none.

    source, target: keys of the pairs' images; counts: the number of points of each pair.
    """
    fold = np.stack([source % np.uint64(FOLDS), target % np.uint64(FOLDS)]).astype(np.int64)
    fold.sort(axis=0)
    probability = np.full(len(correct), np.nan)
    for low, high in combinations_with_replacement(range(FOLDS), 2):
        judged = np.repeat((fold[0] == low) & (fold[1] == high), counts)
        seen = np.repeat(~np.isin(fold, (low, high)).any(axis=0), counts)
        if not judged.any():
            continue
        try:
            calibration = fit_calibration(_some(values, seen), correct[seen], **_ANY)
        except ValueError:  # too few points
            continue
        probability[judged] = calibration.probability_steps(_some(values, judged)) / PROBABILITY_STEPS
    return probability


_ANY: Mapping[str, Any] = {
    **dict.fromkeys(("matcher", "matcher_fingerprint", "protocol"), "any"),
    **{"alpha": 0.1, "made_on": {}, "quality": {}},
}


def _some(values: SignalValues, points: Bool[np.ndarray, " n"]) -> SignalValues:
    return {name: signal[points] for name, signal in values.items()}


def _rank_curve(values: Float64[np.ndarray, " n"]) -> tuple[Float64[np.ndarray, " k"], Float64[np.ndarray, " k"]]:
    """Quantiles of a signal and the ranks they have; a value that is several quantiles has their mean rank."""
    ranks = np.linspace(0, 1, _QUANTILES)
    known = values[~np.isnan(values)]
    if not len(known):
        return np.zeros(1), np.zeros(1)
    knots, of_rank = np.unique(np.quantile(known, ranks), return_inverse=True)
    return knots, np.bincount(of_rank, ranks) / np.bincount(of_rank)
