import numpy as np
from noise_pairs import pair

from nemf.matchers.mirrored import Mirror


def test_a_mirrored_pair_has_both_images_turned_and_its_points_untouched():
    one = pair(query_xy_px=np.array([[3, 4]], np.float32))
    turned = Mirror().pair(one)
    assert np.array_equal(turned.query_rgb, one.query_rgb[:, ::-1])
    assert np.array_equal(turned.reference_rgb, one.reference_rgb[:, ::-1])
    assert turned.query_xy_px is one.query_xy_px


def test_a_mirrored_query_takes_its_points_along():
    """The first of 20 columns becomes the last."""
    one = pair(query_xy_px=np.array([[0, 4], [19, 5], [10.25, -3]], np.float32))
    turned = Mirror().query(one)
    assert np.array_equal(turned.query_rgb, one.query_rgb[:, ::-1])
    assert turned.reference_rgb is one.reference_rgb
    assert turned.query_xy_px.tolist() == [[19, 4], [0, 5], [8.75, -3]]
    assert turned.query_xy_px.dtype == np.float32
    assert Mirror().query(pair()).query_xy_px is None


def test_an_image_has_one_copy():
    mirror, one = Mirror(), pair()
    assert mirror.query(one).query_rgb is mirror.pair(one).query_rgb
    assert Mirror().pair(one).query_rgb is not mirror.pair(one).query_rgb
