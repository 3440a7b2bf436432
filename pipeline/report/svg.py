"""Small plots of lines, dots and bars, and their coordinates in an SVG; templates/macros.html draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Real
from numpy.typing import ArrayLike

WIDTH, HEIGHT = 480, 350
LEFT, TOP, BOTTOM = 44, 30, 306
_RIGHT, _RIGHT_OF_LABELS = 468, 360
_LABEL_STEP = 13.8


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A range of values and its ticks."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def fraction(self, values: ArrayLike) -> np.ndarray:
        """Positions of values along the axis, 0 at `low` and 1 at `high`; values outside are clipped."""
        positions, ends = np.asarray(values, np.float64), np.array([self.low, self.high])
        if self.log:
            positions, ends = np.log(positions), np.log(ends)
        return np.clip((positions - ends[0]) / (ends[1] - ends[0]), 0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """A line through points (x, y), in the units of the axes."""

    x: Real[np.ndarray, " l"]
    y: Real[np.ndarray, " l"]
    style: str
    """CSS class of the line."""
    name: str = ""
    """Label at its right end, unless empty."""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A dot at (x, y), in the units of the axes, with its tooltip."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar from the bottom up to y, between `low` and `high` on the x axis, in the units of the axes; its tooltip."""

    low: float
    high: float
    y: float
    style: str
    title: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Plot:
    """One plot, whose lines, dots and bars are in the units of its axes; methods return units of the SVG."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    dots: Sequence[Dot] = ()
    bars: Sequence[Bar] = ()

    @property
    def right(self) -> float:
        """The right edge of the plot, where the labels of its lines begin."""
        return _RIGHT_OF_LABELS if any(line.name for line in self.lines) else _RIGHT

    def at_x(self, values: ArrayLike) -> np.ndarray:
        """SVG x of values of the x axis, to a tenth."""
        return np.round(LEFT + (self.right - LEFT) * self.x.fraction(values), 1)

    def at_y(self, values: ArrayLike) -> np.ndarray:
        """SVG y of values of the y axis, to a tenth."""
        return np.round(BOTTOM - (BOTTOM - TOP) * self.y.fraction(values), 1)

    def points(self, line: Line) -> str:
        """The attribute `points` of an SVG polyline."""
        return " ".join(f"{x:g},{y:g}" for x, y in zip(self.at_x(line.x), self.at_y(line.y), strict=True))

    def labels(self) -> list[tuple[Line, float]]:
        """The lines that have a name, and the SVG y of their labels."""
        named = [line for line in self.lines if line.name]
        heights = spread_labels(np.array([self.at_y(line.y)[-1] for line in named], np.float64))
        return [(line, round(float(height), 1)) for line, height in zip(named, heights, strict=True)]


def spread_labels(y: Real[np.ndarray, " l"]) -> Real[np.ndarray, " l"]:
    """SVG y near the given ones, in their order, far enough apart for labels, none below the plot."""
    order = np.argsort(y, kind="stable")
    steps = _LABEL_STEP * np.arange(len(order))
    apart = np.maximum.accumulate(y[order] - steps) + steps
    lowest = BOTTOM - steps[::-1]
    spread = np.empty_like(apart)
    spread[order] = np.minimum(apart, lowest)
    return spread


def round_ticks(high: float, max_steps: int = 5) -> list[float]:
    """0 and up to `max_steps` further multiples of 1, 2 or 5 times a power of ten, the last of them at least `high`."""
    if high <= 0:
        return [0.0, 1.0]
    power = 10.0 ** np.floor(np.log10(high / max_steps))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power * max_steps >= high)
    return [float(tick) for tick in step * np.arange(np.ceil(high / step - 1e-9) + 1)]
