"""Making a calibration: logistic regression on the ranks of the signals.

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
_WEAK = 10.0
"""Inverse weight of the penalty on the weights. Chosen on halves of Animal-Pose's validation images, where C = 1 is too
timid by .03 at a precision of .8, and isotonic regression behind it too bold by .09 at .9."""


def fit_calibration(values: SignalValues, correct: Bool[np.ndarray, " n"], **described: Any) -> Calibration:
    """The calibration of points with these signals, of which those are right. described: its other fields.

    Raises ValueError for too few points, or too few right or wrong ones.
    """
    # scikit-learn takes a second to import
    from sklearn.linear_model import LogisticRegression

    n_right, n_points = int(correct.sum()), len(correct)
    if n_points < MIN_POINTS or not RIGHT_AND_WRONG <= n_right <= n_points - RIGHT_AND_WRONG:
        raise ValueError(
            f"a calibration needs at least {MIN_POINTS} points, {RIGHT_AND_WRONG} of them right and as many wrong: "
            f"got {n_points}, {n_right} of them right"
            + ("" if n_points else "; is the manifest annotated, and were its own keypoints matched (no --points)?")
        )
    curves = {name: _rank_curve(signal) for name, signal in values.items()}
    features = np.concatenate([signal_features(values[name], *curve) for name, curve in curves.items()], axis=1)
    model = LogisticRegression(C=_WEAK, max_iter=1000, tol=1e-6).fit(features, correct)
    weights, shares = model.coef_[0].reshape(len(curves), len(BENDS) + 1), {}
    for (name, (knots, ranks)), of_signal in zip(curves.items(), weights, strict=True):
        shares[name] = SignalShare(
            values=tuple(knots.tolist()),
            ranks=tuple(ranks.tolist()),
            weights=tuple(of_signal[:-1].tolist()),
            missing=float(of_signal[-1]),
        )
    return Calibration(signals=shares, intercept=float(model.intercept_[0]), **described)


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
