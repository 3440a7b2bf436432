"""How good probabilities are, of points whose truth is known."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from nemf.calibration import auroc
from pipeline.evaluation.bootstrap import BootstrapWeights
from pipeline.evaluation.reliability import reliability, risk_coverage
from pipeline.pseudo_labels.calibration import PROBABILITY_STEPS
from pipeline.pseudo_labels.selection import Counts, NoLabelsError

PRECISIONS = (0.7, 0.8, 0.9, 0.95)
COVERAGES = (0.1, 0.2, 0.3, 0.5)


def quality(
    probability: Float64[np.ndarray, " n"],
    correct: Bool[np.ndarray, " n"],
    pair: Int64[np.ndarray, " n"],
    weights: BootstrapWeights,
) -> dict[str, Any]:
    """Numbers of at least one point, as JSON values; shares are 0..1.

    pair: the number of each point's pair. weights: those of the pairs in the replicates of a bootstrap over images.

    brier: mean squared difference of probability and outcome. ece: mean distance of probability and share right over
    the bins of `reliability`, by points. auroc: the chance that a right point has the higher probability of a right
    and a wrong one, None where all are right or all wrong. aurc: mean share wrong over all numbers of points kept.
    precision_at_coverage: share right among that share of points, the most probable ones. selected: for each precision
    asked for, the share kept, the precision expected, the real one and its 95 % interval; the threshold is the same in
    all replicates.
    """
    bins = reliability(probability, correct)
    n_points = len(correct)
    curve = risk_coverage(probability, correct)
    return {
        "n_points": n_points,
        "share_right": float(correct.mean()),
        "brier": float(((probability - correct) ** 2).mean()),
        "ece": sum(b.n_points * abs(b.mean - b.percent_correct / 100) for b in bins) / n_points,
        "auroc": None if correct.all() or not correct.any() else auroc(probability, correct),
        "aurc": curve.area,
        "reliability": [
            {"n_points": b.n_points, "probability": b.mean, "share_right": b.percent_correct / 100} for b in bins
        ],
        "precision_at_coverage": {str(share): precision_at(probability, correct, share) for share in COVERAGES},
        "selected": [_selected(probability, correct, precision, pair, weights) for precision in PRECISIONS],
    }


def precision_at(score: Float64[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], coverage: float) -> float:
    """The share right among that share of the points, the highest scores; among equal ones any may be kept."""
    kept = max(1, round(coverage * len(score)))
    return 1 - float(risk_coverage(score, correct).wrong[kept - 1])


def text(numbers: Mapping[str, Any]) -> str:
    """The numbers as a text for people."""
    lines = [
        f"{numbers['n_points']} points, {numbers['share_right']:.1%} right; Brier {numbers['brier']:.3f}, "
        f"ECE {numbers['ece']:.3f}, AUROC {_maybe(numbers['auroc'])}, AURC {numbers['aurc']:.3f}",
        "",
        *_table(
            ("points", "probability", "right"),
            [(b["n_points"], f"{b['probability']:.1%}", f"{b['share_right']:.1%}") for b in numbers["reliability"]],
        ),
        "",
        *_table(
            ("asked", "kept", "expected", "right (95 %)"),
            [
                (f"{s['asked']:.0%}", f"{s['coverage']:.1%}", _percent(s["expected"]), _with_interval(s))
                for s in numbers["selected"]
            ],
        ),
        "",
        *_table(
            ("most probable", "right"),
            [(f"{float(k):.0%}", f"{value:.1%}") for k, value in numbers["precision_at_coverage"].items()],
        ),
    ]
    return "\n".join(lines)


def _selected(
    probability: Float64[np.ndarray, " n"],
    correct: Bool[np.ndarray, " n"],
    asked: float,
    pair: Int64[np.ndarray, " n"],
    weights: BootstrapWeights,
) -> dict[str, Any]:
    steps = np.rint(probability * PROBABILITY_STEPS).astype(np.int64)
    try:
        threshold = Counts.of(steps, steps).threshold(asked)
    except NoLabelsError:
        return {"asked": asked, "coverage": 0.0, "expected": None, "real": None, "interval": None}
    kept = steps >= threshold
    return {
        "asked": asked,
        "coverage": float(kept.mean()),
        "expected": float(steps[kept].mean() / PROBABILITY_STEPS),
        "real": float(correct[kept].mean()),
        "interval": _interval(correct[kept], pair[kept], weights),
    }


def _interval(
    correct: Bool[np.ndarray, " k"], pair: Int64[np.ndarray, " k"], weights: BootstrapWeights
) -> list[float] | None:
    """The 95 % interval of the share right; None where no replicate has a point."""
    n_pairs = len(weights.source)
    n_kept, n_right = (np.bincount(pair, counted, minlength=n_pairs) for counted in (np.ones(len(pair)), correct))
    of_pair = np.stack([n_kept, n_right])
    sums = [of_pair @ weights.replicates(number, number + 1)[0] for number in range(weights.n_replicates)]
    kept, right = np.stack(sums, axis=1)
    if not kept.any():
        return None
    return np.quantile(right[kept > 0] / kept[kept > 0], (0.025, 0.975)).tolist()


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    return ["".join(f"{cell!s:>21}" for cell in line) for line in (head, *rows)]


def _with_interval(selected: Mapping[str, Any]) -> str:
    if selected["interval"] is None:
        return _percent(selected["real"])
    low, high = selected["interval"]
    return f"{selected['real']:.1%} ({low:.0%} to {high:.0%})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _maybe(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
