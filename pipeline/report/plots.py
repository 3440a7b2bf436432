"""The plots of a report: PCK over alpha, how far off keypoints are, and what their confidence is worth."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nemf import pck
from pipeline.evaluation.keypoint_errors import Failed, KeypointErrors
from pipeline.report.calibration import Bin, RiskCoverage, reliability, risk_coverage
from pipeline.report.svg import Axis, Bar, Dot, Line, Plot, round_ticks

_ALPHAS = np.linspace(0, 0.2, 41)
_MOST_CATEGORY_LINES = 18
_ERROR_EDGES = np.geomspace(0.01, 1, 25)
_RISK_PLACES = 100
_PERCENT = Axis(label="", low=0, high=100, ticks=(0, 25, 50, 75, 100))


@dataclass(frozen=True, kw_only=True, eq=False)
class Errors:
    """How far off the keypoints of answered pairs are, as shares of T."""

    n_points: int
    percent_nearer: float
    """Nearer than the plot begins, in percent of n_points."""
    percent_beyond: float
    """Farther than it ends."""
    plot: Plot


@dataclass(frozen=True, kw_only=True, eq=False)
class Confidence:
    """What confidence says of correctness."""

    n_points: int
    n_without: int
    """Keypoints of answered pairs that have no confidence, and are left out."""
    area: float
    area_of_best: float
    """AURC of the order by confidence, and of the best order there is: all that are correct first."""
    wrong: float
    """Share that is wrong of all, which is the AURC of a random order."""
    bins: Sequence[Bin]
    reliability: Plot
    risk: Plot


def curve(errors: KeypointErrors, category_of_pair: pa.ChunkedArray, failed: Failed) -> Plot | None:
    """PCK over alpha: both averages over all pairs, and each category's image average if there are few.

    None if no keypoint counts.
    """
    n_points = errors.n_counted(failed)
    counted = n_points > 0
    if not counted.any():
        return None
    n_points = n_points[counted]
    group, names = pd.factorize(pc.fill_null(category_of_pair, "unknown").to_pandas()[counted], sort=True)
    everything = np.zeros_like(group)
    image, point, by_category = [], [], []
    for alpha in _ALPHAS:
        n_correct = errors.n_correct(alpha)[counted]
        image.append(pck.image_average(n_correct, n_points, everything, 1)[0])
        point.append(pck.point_average(n_correct, n_points, everything, 1)[0])
        by_category.append(pck.image_average(n_correct, n_points, group, len(names)))
    lines = []
    if 1 < len(names) <= _MOST_CATEGORY_LINES:
        by_name = zip(names, np.transpose(by_category), strict=True)
        lines = [Line(x=_ALPHAS, y=percent, style="category", name=str(name)) for name, percent in by_name]
    lines.append(Line(x=_ALPHAS, y=np.array(point), style="point", name="all keypoints"))
    lines.append(Line(x=_ALPHAS, y=np.array(image), style="image", name="all images"))
    alphas = Axis(label="alpha", low=0, high=_ALPHAS[-1], ticks=(0, 0.05, 0.1, 0.15, 0.2))
    return Plot(title="PCK over alpha, percent", x=alphas, y=_PERCENT, lines=lines)


def errors(errors: KeypointErrors, alpha: float) -> Errors | None:
    """A histogram of error / T with logarithmic bins, coloured by what is correct at alpha; None for no keypoints."""
    answered = np.repeat(~errors.failed, errors.n_points)
    n_points = int(answered.sum())
    if not n_points:
        return None
    off = errors.error_px[answered] / errors.base_px[answered]
    counts, _ = np.histogram(off, _ERROR_EDGES)
    percent = 100 * counts / n_points
    bars = [
        Bar(
            low=low,
            high=high,
            y=height,
            style="correct" if np.sqrt(low * high) < alpha else "wrong",
            title=f"{low:.3f} to {high:.3f} T: {count:,} keypoints, {height:.1f} %",
        )
        for low, high, count, height in zip(_ERROR_EDGES[:-1], _ERROR_EDGES[1:], counts, percent, strict=True)
        if count
    ]
    first, last = _ERROR_EDGES[[0, -1]]
    heights = round_ticks(percent.max())
    plot = Plot(
        title="Keypoints by error, percent",
        x=Axis(label="error / T", low=first, high=last, ticks=(0.01, 0.03, 0.1, 0.3, 1), log=True),
        y=Axis(label="", low=0, high=heights[-1], ticks=heights),
        bars=bars,
        lines=[Line(x=np.array([alpha, alpha]), y=np.array([0, heights[-1]]), style="mark")],
    )
    return Errors(
        n_points=n_points,
        percent_nearer=100 * float((off < first).mean()),
        percent_beyond=100 * float((off > last).mean()),
        plot=plot,
    )


def confidence(errors: KeypointErrors, confidence: np.ndarray, alpha: float) -> Confidence | str | None:
    """Reliability and risk-coverage of confidences (N,), NaN where there is none; or why they tell nothing.

    None if no pair with keypoints was answered.
    """
    answered = np.repeat(~errors.failed, errors.n_points)
    known = answered & np.isfinite(confidence)
    if not answered.any():
        return None
    if not known.any():
        return "The matches hold no confidence of these keypoints."
    confidence, correct = confidence[known], errors.is_correct(alpha)[known]
    if confidence.min() == confidence.max():
        return f"Every confidence is {confidence[0]:g}, so it tells nothing about what is correct."
    bins = reliability(confidence, correct)
    risk, best = risk_coverage(confidence, correct), risk_coverage(correct.astype(np.float64), correct)
    return Confidence(
        n_points=len(correct),
        n_without=int((answered & ~known).sum()),
        area=risk.area,
        area_of_best=best.area,
        wrong=1 - float(correct.mean()),
        bins=bins,
        reliability=_reliability_plot(bins),
        risk=_risk_plot(risk, best),
    )


def _reliability_plot(bins: Sequence[Bin]) -> Plot:
    ends = np.array([min(0.0, bins[0].mean), max(1.0, bins[-1].mean)])
    ticks = [0, 0.25, 0.5, 0.75, 1] if ends.tolist() == [0, 1] else ends.round(3).tolist()
    mean, percent = np.array([(found.mean, found.percent_correct) for found in bins]).T
    return Plot(
        title="Correct by confidence, percent",
        x=Axis(label="confidence", low=ends[0], high=ends[1], ticks=ticks),
        y=_PERCENT,
        lines=[
            Line(x=np.array([0.0, 1.0]), y=np.array([0.0, 100.0]), style="ideal"),
            Line(x=mean, y=percent, style="image"),
        ],
        dots=[
            Dot(
                x=found.mean,
                y=found.percent_correct,
                title=f"confidence {found.mean:.4g}: {found.percent_correct:.1f} % of {found.n_points:,} correct",
            )
            for found in bins
        ],
    )


def _risk_plot(risk: RiskCoverage, best: RiskCoverage) -> Plot:
    n_points = len(risk.kept)
    places = np.unique(np.ceil(np.linspace(0, n_points, _RISK_PLACES + 1)[1:]).astype(int)) - 1
    kept = 100 * risk.kept[places]
    whole = np.full(len(places), 100 * risk.wrong[-1])
    return Plot(
        title="Wrong among the most confident, percent",
        x=Axis(label="keypoints kept, percent", low=0, high=100, ticks=_PERCENT.ticks),
        y=_PERCENT,
        lines=[
            Line(x=kept, y=whole, style="category"),
            Line(x=kept, y=100 * best.wrong[places], style="ideal"),
            Line(x=kept, y=100 * risk.wrong[places], style="image"),
        ],
    )
