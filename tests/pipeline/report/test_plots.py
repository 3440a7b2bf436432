from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.evaluation.keypoint_errors import KeypointErrors
from pipeline.evaluation.protocols import protocol
from pipeline.report import plots
from pipeline.report.svg import Plot


def _errors(errors_px: Any, n_points: Any, failed: Any = None) -> KeypointErrors:
    """Errors of keypoints with a T of 100 px."""
    n_points = np.array(n_points)
    failed = np.zeros(len(n_points), bool) if failed is None else np.array(failed)
    return KeypointErrors(
        protocol=protocol("spair"),
        n_points=n_points,
        failed=failed,
        error_px=np.array(errors_px, np.float64),
        base_px=np.where(np.repeat(failed, n_points), 0.0, 100.0),
    )


def _line(plot: Plot, name: str) -> dict[float, float]:
    line = next(line for line in plot.lines if line.name == name)
    return dict(zip(line.x.round(3).tolist(), line.y.tolist(), strict=True))


def test_the_curve_has_both_averages_and_every_category():
    errors = _errors([5, 15, 5, 5, 5], [2, 3])
    plot = plots.pck_curve(errors, pa.chunked_array([["cat", "dog"]]), "wrong")
    assert plot is not None
    assert _line(plot, "all images")[0.1] == 75.0
    assert _line(plot, "all keypoints")[0.1] == 80.0
    assert _line(plot, "cat")[0.1] == 50.0
    assert _line(plot, "dog")[0.1] == 100.0
    assert _line(plot, "all images")[0.04] == 0.0


def test_many_categories_have_no_lines_of_their_own():
    errors = _errors([5] * 30, [1] * 30)
    plot = plots.pck_curve(errors, pa.chunked_array([[f"kind{index}" for index in range(30)]]), "wrong")
    assert plot is not None
    assert [line.name for line in plot.lines] == ["all keypoints", "all images"]


def test_errors_are_counted_by_bin_below_and_beyond():
    errors = _errors([0.5, 5, 5, 50, 150, np.inf, np.inf, np.inf], [6, 2], [False, True])
    histogram = plots.error_histogram(errors, 0.1)
    assert histogram is not None
    assert histogram.n_points == 6  # not those of the failed pair
    assert histogram.percent_nearer == pytest.approx(100 / 6)
    assert histogram.percent_beyond == pytest.approx(200 / 6)
    bars = [(bar.style, bar.y) for bar in histogram.plot.bars]
    assert bars == [("correct", pytest.approx(200 / 6)), ("wrong", pytest.approx(100 / 6))]
    near, far = histogram.plot.bars
    assert near.low < 0.05 < near.high
    assert far.low < 0.5 < far.high


def test_without_an_answer_there_is_nothing_to_plot():
    failed = _errors([np.inf] * 2, [2], [True])
    assert plots.error_histogram(failed, 0.1) is None
    assert plots.confidence_plots(failed, np.full(2, np.nan), 0.1) is None
    assert plots.pck_curve(failed, pa.chunked_array([["cat"]]), "exclude") is None


def test_confidence_is_compared_where_it_is_known():
    errors = _errors([5, 50, 5, 5, np.inf], [4, 1], [False, True])
    result = plots.confidence_plots(errors, np.array([0.9, 0.8, 0.7, np.nan, np.nan]), 0.1)
    assert isinstance(result, plots.ConfidencePlots)
    assert (result.n_points, result.n_without) == (3, 1)
    assert result.wrong == pytest.approx(1 / 3)
    assert result.area == pytest.approx((0 + 1 / 2 + 1 / 3) / 3)
    assert result.best_area == pytest.approx((0 + 0 + 1 / 3) / 3)
    assert [bin_.n_points for bin_ in result.bins] == [1, 1, 1]
    assert [dot.y for dot in result.reliability.dots] == [100.0, 0.0, 100.0]
    assert result.risk.lines[-1].y.tolist() == pytest.approx([0, 50, 100 / 3])


def test_confidence_that_tells_nothing_says_so():
    errors = _errors([5, 50], [2])
    assert (
        plots.confidence_plots(errors, np.full(2, np.nan), 0.1) == "The matches hold no confidence of these keypoints."
    )
    assert "Every confidence is 1," in str(plots.confidence_plots(errors, np.ones(2), 0.1))


def test_a_curve_of_many_keypoints_has_few_points():
    rng = np.random.default_rng(0)
    errors = _errors(rng.uniform(0, 50, 20_000), [20_000])
    result = plots.confidence_plots(errors, rng.uniform(0, 1, 20_000), 0.1)
    assert isinstance(result, plots.ConfidencePlots)
    assert max(len(line.x) for line in result.risk.lines) == 100
    assert result.risk.lines[-1].x[[0, -1]].tolist() == [1.0, 100.0]
    assert len(result.bins) == 10


def test_confidence_outside_0_and_1_widens_the_plot():
    errors = _errors([5, 50], [2])
    result = plots.confidence_plots(errors, np.array([-1.0, 3.0]), 0.1)
    assert isinstance(result, plots.ConfidencePlots)
    assert (result.reliability.x.low, result.reliability.x.high) == (-1.0, 3.0)


def test_an_average_over_nothing_is_no_line():
    """Pairs without keypoints, or that failed and are excluded, are in no category of the curve."""
    errors = _errors([5, 5, np.inf], [2, 0, 1], [False, False, True])
    plot = plots.pck_curve(errors, pa.chunked_array([["cat", "dog", "cow"]]), "exclude")
    assert plot is not None
    assert [line.name for line in plot.lines] == ["all keypoints", "all images"]  # of one category: no line of its own
    assert _line(plot, "all images")[0.1] == _line(plot, "all keypoints")[0.1] == 100.0
    wrong = plots.pck_curve(errors, pa.chunked_array([["cat", "dog", "cow"]]), "wrong")
    assert wrong is not None
    assert [line.name for line in wrong.lines] == ["cat", "cow", "all keypoints", "all images"]
    assert _line(wrong, "cow")[0.1] == 0.0
