import numpy as np
import pytest

from pipeline.visualization.flow import OUTSIDE, colour_flow, colour_wheel, draw_wheel, warp_onto_query


def test_the_wheel_is_the_published_one():
    wheel = colour_wheel()
    assert wheel.shape == (55, 3)
    corners = {
        0: (255, 0, 0),
        15: (255, 255, 0),
        21: (0, 255, 0),
        25: (0, 255, 255),
        36: (0, 0, 255),
        49: (255, 0, 255),
    }
    for index, colour in corners.items():
        assert tuple(wheel[index]) == colour
    assert wheel[1].tolist() == [255, 17, 0]  # floor(255 / 15)
    assert wheel[54].tolist() == [255, 0, 43]  # 255 - floor(255 x 5 / 6)


@pytest.mark.parametrize(
    ("displacement", "colour"),
    [
        ((0, 0), (255, 255, 255)),
        ((4, 0), (255, 0, 0)),
        ((2, 0), (255, 127, 127)),
        ((-4, 0), (0, 209, 255)),  # 27 of 54 around: 2 of 11 from cyan to blue
        ((0, 4), (255, 229, 0)),  # 13.5 of 54: between 221 and 238 green
        ((8, 0), (191, 0, 0)),  # beyond the longest: 0.75 of the hue
    ],
)
def test_direction_is_hue_and_length_is_colour(displacement: tuple[float, float], colour: tuple[int, int, int]):
    flow_px = np.array(displacement, np.float64).reshape(1, 1, 2)
    assert colour_flow(flow_px, 4.0)[0, 0].tolist() == pytest.approx(colour, abs=1)


def test_a_flow_of_nothing_is_white():
    assert (colour_flow(np.zeros((2, 3, 2)), 0.0) == 255).all()


def test_the_legend_is_white_in_the_middle_red_at_the_right_and_nothing_in_the_corners():
    wheel = np.asarray(draw_wheel(51), np.int64)
    assert wheel[25, 25].tolist() == [255, 255, 255, 255]
    assert np.abs(wheel[25, 50] - [255, 0, 0, 255]).max() <= 1
    assert wheel[0, 0, 3] == 0


def _smooth(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([4 * x, 5 * y, 2 * (x + y)], axis=-1).astype(np.uint8)


def test_a_planted_shift_is_undone():
    query = _smooth(30, 40)
    reference = np.zeros((50, 60, 3), np.uint8)
    reference[7:37, 11:51] = query
    warped = warp_onto_query(reference, np.full((30, 40, 2), [11, 7]))
    assert (warped == query).all()
    assert (warp_onto_query(reference, np.full((30, 40, 2), [11, 7]), every=3) == query[::3, ::3]).all()


def test_places_between_pixels_are_interpolated():
    reference = _smooth(4, 4)
    warped = warp_onto_query(reference, np.full((3, 3, 2), [0.5, 0.25]))
    y, x = np.mgrid[:3, :3]
    assert (warped[..., 0] == 4 * x + 2).all()
    assert (warped[..., 2] == np.rint(2 * (x + y) + 1.5)).all()


def test_places_outside_the_reference_are_grey():
    warped = warp_onto_query(_smooth(4, 5), np.full((4, 5, 2), [2, 0]))
    assert (warped[:, :3] == _smooth(4, 5)[:, 2:]).all()
    assert (warped[:, 3:] == OUTSIDE).all()
