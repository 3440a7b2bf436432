import numpy as np
import pytest

from pipeline.report.svg import BOTTOM, LEFT, TOP, Axis, Line, Plot, round_ticks, spread_labels

UNIT = Axis(label="", low=0, high=1, ticks=(0, 1))


def test_corners_of_a_plot_are_where_its_axes_end():
    plot = Plot(title="", x=UNIT, y=Axis(label="", low=0, high=50, ticks=(0, 50)))
    assert plot.at_x(np.array([0, 1])).tolist() == [LEFT, plot.right]
    assert plot.at_y(np.array([0, 25, 50])).tolist() == [BOTTOM, (BOTTOM + TOP) / 2, TOP]
    assert plot.at_y(np.array([-1, 99])).tolist() == [BOTTOM, TOP]


def test_a_logarithmic_axis_gives_every_decade_the_same_room():
    axis = Axis(label="", low=0.01, high=1, ticks=(), log=True)
    assert axis.fraction(np.array([0.01, 0.1, 1])).tolist() == pytest.approx([0, 0.5, 1])


def test_only_named_lines_have_labels_and_take_room_for_them():
    x = np.array([0.0, 1.0])
    named, plain = Line(x=x, y=x, style="a", name="up"), Line(x=x, y=x, style="b")
    plot, bare = Plot(title="", x=UNIT, y=UNIT, lines=[named, plain]), Plot(title="", x=UNIT, y=UNIT, lines=[plain])
    assert [(line.name, height) for line, height in plot.labels()] == [("up", TOP)]
    assert bare.labels() == []
    assert plot.right < bare.right
    assert bare.points(plain) == f"{LEFT},{BOTTOM} {bare.right},{TOP}"


def test_labels_keep_their_order_and_distance():
    desired = np.array([300.0, 20.0, 21.0, 306.0, 305.0])
    placed = spread_labels(desired)
    assert np.argsort(placed).tolist() == np.argsort(desired).tolist()
    assert np.diff(np.sort(placed)).min() > 13
    assert placed.max() <= BOTTOM
    assert placed[1] == 20.0


@pytest.mark.parametrize(
    ("high", "ticks"),
    [
        (6.2, [0, 2, 4, 6, 8]),
        (100, [0, 20, 40, 60, 80, 100]),
        (0.3, [0, 0.1, 0.2, 0.3]),
        (5, [0, 1, 2, 3, 4, 5]),
        (0, [0, 1]),
    ],
)
def test_ticks_are_round_and_reach_the_highest_value(high: float, ticks: list[float]):
    assert round_ticks(high) == pytest.approx(ticks)
