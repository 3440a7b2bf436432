import numpy as np
import pytest
from PIL import Image

from pipeline.visualization.matches import CORRECT, MISSED, WRONG, draw_match


def _plain(height: int, width: int, grey: int = 128) -> np.ndarray:
    return np.full((height, width, 3), grey, np.uint8)


def _xy(*points: tuple[float, float]) -> np.ndarray:
    return np.array(points, np.float32).reshape(-1, 2)


def _near(picture: Image.Image, xy: tuple[float, float], colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.asarray(picture, np.int64)[round(xy[1]), round(xy[0])] - colour).max() < 30)


def test_images_stand_side_by_side_at_one_height_with_a_white_gap():
    picture = draw_match(_plain(300, 200), _plain(150, 200, 60), _xy(), _xy())
    gap = picture.width - 200 - 400
    assert picture.height == 300
    assert gap > 0
    assert _near(picture, (100, 150), (128, 128, 128))
    assert _near(picture, (200 + gap / 2, 150), (255, 255, 255))
    assert _near(picture, (200 + gap + 200, 150), (60, 60, 60))


def test_dots_are_green_where_correct_and_red_where_wrong():
    query, reference = _xy((50, 60), (50, 240)), _xy((150, 60), (150, 240))
    picture = draw_match(_plain(300, 200), _plain(300, 200), query, reference, correct=np.array([True, False]))
    right = picture.width - 200
    assert _near(picture, (50, 60), CORRECT)
    assert _near(picture, (right + 150, 60), CORRECT)
    assert _near(picture, (50, 240), WRONG)
    assert _near(picture, (right + 150, 240), WRONG)
    assert _near(picture, (100, 60), CORRECT)  # on the line between them


def _centre(picture: Image.Image, near_xy: tuple[float, float], colour: tuple[int, int, int]) -> np.ndarray:
    """The mean (x, y) of the pixels of a colour at most 3 from a position."""
    xy = np.argwhere(np.abs(np.asarray(picture, np.int64) - colour).max(axis=2) < 30)[:, ::-1]
    return xy[np.abs(xy - near_xy).max(axis=1) <= 3].mean(axis=0)


def test_dots_are_on_the_centres_of_enlarged_pixels():
    picture = draw_match(_plain(30, 40), _plain(30, 40), _xy((3, 4)), _xy((36, 25)), correct=np.array([True]))
    assert picture.height == 240  # a pixel is 8 wide: the centre of pixel 3 is at 3.5 x 8 - 0.5
    right = picture.width - 320
    for position in ((27.5, 35.5), (right + 291.5, 203.5)):
        assert np.abs(_centre(picture, position, CORRECT) - position).max() <= 1


def test_a_wrong_point_is_tied_to_a_ring_at_its_true_place():
    points, truth = _xy((20, 40), (20, 260)), _xy((180, 100), (180, 200))
    given = {"correct": np.array([False, True]), "truth_xy_px": truth}
    grey = _plain(300, 200)
    picture, plain = draw_match(grey, grey, points, points, **given), draw_match(grey, grey, points, points)
    right = picture.width - 200
    assert _near(picture, (right + 180, 100), (128, 128, 128))  # the ring is hollow
    ring = np.asarray(picture, np.int64)[90:111, right + 170 : right + 191]
    assert (np.abs(ring - WRONG).max(axis=2) < 30).sum() > 20
    half_way = np.asarray(picture, np.int64)[66:75, right + 96 : right + 105]
    assert (np.abs(half_way - MISSED).max(axis=2) < 60).any()
    changed = np.abs(np.asarray(picture, np.int64) - np.asarray(plain)).max(axis=2) > 0
    assert not changed[150:230].any()  # nothing is at the correct point's true position


def test_without_marks_every_point_has_its_own_colour():
    points = _xy((40, 40), (40, 150), (40, 260))
    picture = np.asarray(draw_match(_plain(300, 200), _plain(300, 200), points, points))
    assert len({tuple(picture[y, 40]) for y in (40, 150, 260)}) == 3


def test_points_outside_or_not_finite_stay_on_the_canvas():
    query, reference = _xy((-500, 30), (10, 10)), _xy((1e6, 1e6), (np.nan, 20))
    picture = draw_match(_plain(300, 200), _plain(300, 200), query, reference, correct=np.array([False, False]))
    assert _near(picture, (0, 30), WRONG)
    assert _near(picture, (picture.width - 1, 299), WRONG)


def test_size_is_bounded_whatever_the_images():
    assert draw_match(_plain(4, 4), _plain(2000, 1500), _xy(), _xy()).height == 640
    assert draw_match(_plain(4, 4), _plain(1, 1), _xy(), _xy()).height == 240
    panorama = draw_match(_plain(10, 9000), _plain(10, 10), _xy((8999, 9)), _xy((0, 0)))
    assert panorama.width * panorama.height < 3_000_000


def test_points_must_come_in_pairs():
    with pytest.raises(ValueError, match="2 query points, 1 reference points"):
        draw_match(_plain(9, 9), _plain(9, 9), _xy((1, 1), (2, 2)), _xy((1, 1)))
    with pytest.raises(ValueError, match="1 reference points, 2 true places"):
        draw_match(_plain(9, 9), _plain(9, 9), _xy((1, 1)), _xy((1, 1)), truth_xy_px=_xy((1, 1), (2, 2)))
    with pytest.raises(ValueError, match="3 marks"):
        draw_match(_plain(9, 9), _plain(9, 9), _xy((1, 1)), _xy((1, 1)), correct=np.ones(3, bool))
