"""Where lines, dots and bars of a small plot lie, in the units of its SVG; templates/macros.html draws them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

WIDTH, HEIGHT = 480, 350
LEFT, TOP, BOTTOM = 44, 30, 306
_RIGHT, _RIGHT_OF_LABELS = 468, 360
_LABEL_STEP = 13.8


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A range of values and where it is labelled."""

    label: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def along(self, values: np.ndarray) -> np.ndarray:
        """Where values lie, 0 at `low` and 1 at `high`; those outside go to the nearer end."""
        values, ends = np.asarray(values, np.float64), np.array([self.low, self.high])
        if self.log:
            values, ends = np.log(values), np.log(ends)
        return np.clip((values - ends[0]) / (ends[1] - ends[0]), 0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """A line through (x, y), (L,) each, in the units of the axes."""

    x: np.ndarray
    y: np.ndarray
    style: str
    """Its class in the style sheet."""
    name: str = ""
    """Written at its right end, unless empty."""


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A place on a line, with what it tells when pointed at."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, kw_only=True)
class Bar:
    """A bar from the bottom, `low` to `high` wide, in the units of the axes."""

    low: float
    high: float
    y: float
    style: str
    title: str


@dataclass(frozen=True, kw_only=True, eq=False)
class Plot:
    """One plot; x and y of what it shows are in the units of its axes, methods give those of the SVG."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    dots: Sequence[Dot] = ()
    bars: Sequence[Bar] = ()

    @property
    def right(self) -> float:
        """Where the plot ends and the names of its lines begin."""
        return _RIGHT_OF_LABELS if any(line.name for line in self.lines) else _RIGHT

    def at_x(self, values: np.ndarray) -> np.ndarray:
        """Places of values of x, to a tenth."""
        return np.round(LEFT + (self.right - LEFT) * self.x.along(values), 1)

    def at_y(self, values: np.ndarray) -> np.ndarray:
        """Places of values of y, to a tenth."""
        return np.round(BOTTOM - (BOTTOM - TOP) * self.y.along(values), 1)

    def points(self, line: Line) -> str:
        """The `points` of a polyline."""
        return " ".join(f"{x:g},{y:g}" for x, y in zip(self.at_x(line.x), self.at_y(line.y), strict=True))

    def labels(self) -> list[tuple[Line, float]]:
        """The lines that have a name, and the height to write it at."""
        named = [line for line in self.lines if line.name]
        heights = spread(np.array([self.at_y(line.y)[-1] for line in named], np.float64))
        return [(line, round(float(height), 1)) for line, height in zip(named, heights, strict=True)]


def spread(wanted_y: np.ndarray) -> np.ndarray:
    """Heights near the wanted ones, in their order, far enough apart for labels, none below the plot."""
    order = np.argsort(wanted_y, kind="stable")
    steps = _LABEL_STEP * np.arange(len(order))
    spread_out = np.maximum.accumulate(wanted_y[order] - steps) + steps
    room_below = BOTTOM - steps[::-1]
    placed = np.empty_like(spread_out)
    placed[order] = np.minimum(spread_out, room_below)
    return placed


def round_ticks(high: float, most: int = 5) -> list[float]:
    """0 and up to `most` further multiples of 1, 2 or 5 times a power of ten, the last of them at least `high`."""
    if high <= 0:
        return [0.0, 1.0]
    power = 10.0 ** np.floor(np.log10(high / most))
    step = next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power * most >= high)
    return [float(tick) for tick in step * np.arange(np.ceil(high / step - 1e-9) + 1)]
