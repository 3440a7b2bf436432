"""The plots of a report: PCK over alpha, a histogram of errors, and confidence against correctness."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64

from nemf.calibration import auroc
from pipeline.evaluation import pck_sums
from pipeline.evaluation.groups import rows_by_name
from pipeline.evaluation.keypoint_errors import Failed, KeypointErrors
from pipeline.evaluation.reliability import Bin, RiskCoverage, reliability, risk_coverage
from pipeline.report.svg import Axis, Bar, Dot, Line, Plot, round_ticks

_ALPHAS = np.linspace(0, 0.2, 41)
_MAX_CATEGORY_LINES = 18
_ERROR_EDGES = np.geomspace(0.01, 1, 25)
_RISK_STEPS = 100
_PERCENT = Axis(label="", low=0, high=100, ticks=(0, 25, 50, 75, 100))


@dataclass(frozen=True, kw_only=True, eq=False)
class ErrorHistogram:
    """The errors of the keypoints of answered pairs, as shares of T."""

    n_points: int
    percent_nearer: float
    """Percentage of n_points with an error below the plot's range."""
    percent_beyond: float
    """Percentage of n_points with an error above the plot's range."""
    plot: Plot


@dataclass(frozen=True, kw_only=True, eq=False)
class ConfidencePlots:
    """Confidence against correctness: reliability and risk over coverage."""

    n_points: int
    n_without: int
    """Number of keypoints of answered pairs without a confidence, which are excluded."""
    area: float
    """AURC of the order by confidence, 0..1."""
    best_area: float
    """AURC of the best order, all correct keypoints first."""
    wrong: float
    """Share of all keypoints that is wrong, which is the AURC of a random order."""
    auroc: float | None
    """The chance that a right keypoint has more confidence than a wrong one; None where all are right or all wrong."""
    calibration_error: float
    """ECE: the mean distance of confidence and share correct over `bins`, by keypoints."""
    bins: Sequence[Bin]
    reliability: Plot
    risk: Plot


def pck_curve(errors: KeypointErrors, categories: pa.ChunkedArray, failed: Failed) -> Plot | None:
    """PCK over alpha: both averages over all pairs, and each category's image average if there are few.

    categories: of each pair. None if no keypoint counts.
    """
    counted = errors.n_counted(failed) > 0
    if not counted.any():
        return None
    names = pc.fill_null(categories, "unknown").to_pandas()[counted]
    by_category = dict(rows_by_name(names))
    groups = [np.arange(len(names)), *by_category.values()]
    image, point = np.empty((len(groups), len(_ALPHAS))), np.empty(len(_ALPHAS))
    for index, alpha in enumerate(_ALPHAS):
        overall, *rest = pck_sums.group_sums(pck_sums.pair_sums(errors, [alpha], failed)[counted], None, groups)
        point[index] = pck_sums.point_average(overall)[0, 0]
        image[:, index] = [pck_sums.image_average(sums)[0, 0] for sums in (overall, *rest)]
    lines = []
    if 1 < len(by_category) <= _MAX_CATEGORY_LINES:
        percents = zip(by_category, image[1:], strict=True)
        lines = [Line(x=_ALPHAS, y=percent, style="category", name=str(name)) for name, percent in percents]
    lines.append(Line(x=_ALPHAS, y=point, style="point", name="all keypoints"))
    lines.append(Line(x=_ALPHAS, y=image[0], style="image", name="all images"))
    alphas = Axis(label="alpha", low=0, high=_ALPHAS[-1], ticks=(0, 0.05, 0.1, 0.15, 0.2))
    return Plot(title="PCK over alpha, percent", x=alphas, y=_PERCENT, lines=lines)


def error_histogram(errors: KeypointErrors, alpha: float) -> ErrorHistogram | None:
    """A histogram of error / T with logarithmic bins, coloured by what is correct at alpha; None for no keypoints."""
    answered = np.repeat(~errors.failed, errors.n_points)
    n_points = int(answered.sum())
    if not n_points:
        return None
    share_of_t = errors.error_px[answered] / errors.base_px[answered]
    counts, _ = np.histogram(share_of_t, _ERROR_EDGES)
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
    return ErrorHistogram(
        n_points=n_points,
        percent_nearer=100 * float((share_of_t < first).mean()),
        percent_beyond=100 * float((share_of_t > last).mean()),
        plot=plot,
    )


def confidence_plots(
    errors: KeypointErrors, confidence: Float64[np.ndarray, " n"], alpha: float, *, name: str = "confidence"
) -> ConfidencePlots | str | None:
    """Reliability and risk over coverage at alpha, or a sentence that explains why there are none.

    confidence: of each keypoint, NaN where there is none. None if no pair with keypoints was answered.
    name: what the numbers are called in the plot.
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
    return ConfidencePlots(
        n_points=len(correct),
        n_without=int((answered & ~known).sum()),
        area=risk.area,
        best_area=best.area,
        wrong=1 - float(correct.mean()),
        auroc=None if correct.all() or not correct.any() else auroc(confidence, correct),
        calibration_error=sum(b.n_points * abs(b.mean - b.percent_correct / 100) for b in bins) / len(correct),
        bins=bins,
        reliability=_reliability_plot(bins, name),
        risk=_risk_plot(risk, best),
    )


def _reliability_plot(bins: Sequence[Bin], name: str) -> Plot:
    ends = np.array([min(0.0, bins[0].mean), max(1.0, bins[-1].mean)])
    ticks = [0, 0.25, 0.5, 0.75, 1] if ends.tolist() == [0, 1] else ends.round(3).tolist()
    mean, percent = np.array([(bin_.mean, bin_.percent_correct) for bin_ in bins]).T
    return Plot(
        title=f"Correct by {name}, percent",
        x=Axis(label=name, low=ends[0], high=ends[1], ticks=ticks),
        y=_PERCENT,
        lines=[
            Line(x=np.array([0.0, 1.0]), y=np.array([0.0, 100.0]), style="ideal"),
            Line(x=mean, y=percent, style="image"),
        ],
        dots=[
            Dot(
                x=bin_.mean,
                y=bin_.percent_correct,
                title=f"{name} {bin_.mean:.4g}: {bin_.percent_correct:.1f} % of {bin_.n_points:,} correct",
            )
            for bin_ in bins
        ],
    )


def _risk_plot(risk: RiskCoverage, best: RiskCoverage) -> Plot:
    n_points = len(risk.kept)
    steps = np.unique(np.ceil(np.linspace(0, n_points, _RISK_STEPS + 1)[1:]).astype(int)) - 1
    kept = 100 * risk.kept[steps]
    overall = np.full(len(steps), 100 * risk.wrong[-1])
    return Plot(
        title="Wrong among the most confident, percent",
        x=Axis(label="keypoints kept, percent", low=0, high=100, ticks=_PERCENT.ticks),
        y=_PERCENT,
        lines=[
            Line(x=kept, y=overall, style="category"),
            Line(x=kept, y=100 * best.wrong[steps], style="ideal"),
            Line(x=kept, y=100 * risk.wrong[steps], style="image"),
        ],
    )
