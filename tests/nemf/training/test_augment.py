from dataclasses import replace

import numpy as np
import pytest

from nemf.training.augment import (
    AugmentConfig,
    augment,
    augment_image,
    crop_around_box,
    cropped,
    flipped,
    jittered,
    opposite,
)
from nemf.training.example import Example, View
from nemf.training.geometry import AffineRange
from nemf.training.rng import generator_of

STILL = AugmentConfig(
    swap=0.0, flip=0.0, crop=0.0, jitter=0.0, brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0, grey=0.0
)
LIGHT = replace(STILL, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.05, grey=0.1)
MOVES = replace(STILL, swap=0.5, flip=0.5, crop=0.5, jitter=0.5)

REFERENCE_PX = [(10, 8), (30, 9), (20, 20)]
QUERY_PX = [(41, 12), (25, 13), (31, 25)]
NAMES = ("left_ear", "right_ear", "nose")


def marked(hw: tuple[int, int], points_px: list[tuple[int, int]], size: int = 1) -> View:
    """A grey image with a square mark at each point, of another brightness each, in the box that holds them."""
    rgb = np.full((*hw, 3), 20, np.uint8)
    half = size // 2
    for number, (x, y) in enumerate(points_px):
        rgb[y - half : y + half + 1, x - half : x + half + 1] = 120 + 40 * number
    xy_px = np.array(points_px, np.float32)
    return View(rgb=rgb, xy_px=xy_px, box_xyxy=(*xy_px.min(axis=0).tolist(), *xy_px.max(axis=0).tolist()))


def planted(names: tuple[str, ...] | None = NAMES) -> Example:
    return Example(reference=marked((30, 50), REFERENCE_PX), query=marked((40, 60), QUERY_PX), keypoint_id=names)


def marks(view: View) -> list[int]:
    """The brightness at each point."""
    return [int(view.rgb[y, x, 0]) for x, y in np.rint(view.xy_px).astype(int)]


def test_names_change_sides():
    assert opposite("left_front_paw") == "right_front_paw"
    assert opposite("R_Eye") == "L_Eye"
    assert opposite("L_F_Elbow") == "R_F_Elbow"
    assert opposite("Right wing tip") == "Left wing tip"
    assert opposite("eye_l") == "eye_r"
    for name in ("nose", "throat", "rear", "collar", "7", "upright"):
        assert opposite(name) == name


def test_one_mirrored_image_is_matched_anew_by_name():
    """The reference's left ear looks like a right ear in the mirror: it matches the query's right ear."""
    mirrored = flipped(planted(), reference=True, query=False)
    assert mirrored.keypoint_id == ("right_ear", "left_ear", "nose")
    assert mirrored.reference.xy_px.tolist() == [[39, 8], [19, 9], [29, 20]]
    assert mirrored.query.xy_px.tolist() == [[25, 13], [41, 12], [31, 25]]
    assert marks(mirrored.reference) == [120, 160, 200]
    assert marks(mirrored.query) == [160, 120, 200]
    assert mirrored.reference.box_xyxy == (19, 8, 39, 20)
    other = flipped(planted(), reference=False, query=True)
    assert other.keypoint_id == NAMES
    assert (marks(other.reference), marks(other.query)) == ([120, 160, 200], [160, 120, 200])


def test_a_match_that_is_made_of_two_is_as_sure_as_the_lesser():
    doubtful = replace(planted(), probability=np.array([0.5, 0.25, 1], np.float32))
    both = flipped(doubtful, reference=True, query=True).probability
    one = flipped(doubtful, reference=True, query=False).probability
    assert both is not None
    assert one is not None
    assert (sorted(both.tolist()), one.tolist()) == ([0.25, 0.5, 1], [0.25, 0.25, 1])


def test_points_without_counterpart_are_dropped():
    lonely = flipped(planted(("left_ear", "left_eye", "nose")), reference=False, query=True)
    assert lonely.keypoint_id == ("nose",)
    assert (marks(lonely.reference), marks(lonely.query)) == ([200], [200])


@pytest.mark.parametrize("names", [None, ("1", "2", "3"), ("leftEar", "rightEar", "nose"), ("left_ear",) * 3])
def test_without_telling_names_both_are_mirrored_or_none(names: tuple[str, ...] | None):
    both = flipped(planted(names), reference=True, query=False)
    assert both.reference.xy_px[:, 0].tolist() == [39, 19, 29]
    assert both.query.xy_px[:, 0].tolist() == [18, 34, 28]
    neither = flipped(planted(names), reference=False, query=True)
    assert np.array_equal(neither.query.rgb, planted().query.rgb)
    assert both.keypoint_id == neither.keypoint_id == names
    assert both.category != neither.category == planted().category  # its names may mean the other side now


def test_both_mirrored_keep_their_points():
    both = flipped(planted(), reference=True, query=True)
    assert both.keypoint_id == ("right_ear", "left_ear", "nose")
    assert marks(both.reference) == marks(both.query) == [120, 160, 200]


def test_a_crop_by_hand():
    part = cropped(marked((30, 50), REFERENCE_PX), left=5, top=2, right=41, bottom=22)
    assert part.hw == (20, 36)
    assert part.xy_px.tolist() == [[5, 6], [25, 7], [15, 18]]
    assert part.box_xyxy == (5, 6, 25, 18)
    assert marks(part) == [120, 160, 200]


@pytest.mark.parametrize("box", [(10.0, 8.0, 30.0, 20.0), None])
def test_crops_keep_the_box_and_vary(box: tuple[float, ...] | None):
    view = replace(marked((30, 50), REFERENCE_PX), box_xyxy=box)
    crops = [crop_around_box(view, generator_of("crop", number), min_share=0.3) for number in range(200)]
    assert all(marks(crop) == [120, 160, 200] for crop in crops)
    first = np.array([[10, 8] - crop.xy_px[0] for crop in crops])
    after_last = first + [crop.hw[::-1] for crop in crops]
    assert (first.min(axis=0).tolist(), first.max(axis=0).tolist()) == ([0, 0], [10, 8])
    assert (after_last.min(axis=0).tolist(), after_last.max(axis=0).tolist()) == ([31, 21], [50, 30])


def test_a_crop_is_not_too_small():
    view = marked((30, 50), [(49, 0)])
    sizes = np.array([crop_around_box(view, generator_of("crop", number), 0.5).hw for number in range(200)])
    assert sizes.min(axis=0).tolist() == [15, 25]
    outside = replace(view, box_xyxy=(-9.0, -3.0, 70.5, 31.0))
    assert crop_around_box(outside, generator_of("crop"), 0.5).hw == (30, 50)


def test_marks_follow_affine_maps():
    """The bright square's centre of mass is where the point says, whatever the map."""
    view = replace(marked((120, 160), [(70, 55)], size=7), box_xyxy=(67.0, 52.0, 73.0, 58.0))
    affine = AffineRange(rotation_deg=40.0, scale=1.5, shear=0.3, shift=0.1)
    for number in range(20):
        moved = jittered(view, generator_of("jitter", number), affine)
        weight = moved.rgb[..., 0].astype(float) - 20
        y, x = np.indices(weight.shape)
        centre = np.array([(weight * x).sum(), (weight * y).sum()]) / weight.sum()
        assert np.abs(centre - moved.xy_px[0]).max() < 0.1
        rows, columns = np.nonzero(weight > 50)
        x_min, y_min, x_max, y_max = moved.box_xyxy
        assert np.abs([columns.min() - x_min, columns.max() - x_max]).max() < 2
        assert np.abs([rows.min() - y_min, rows.max() - y_max]).max() < 2


def test_nothing_changes_where_nothing_may():
    same = augment(planted(), generator_of("augment"), STILL)
    assert np.array_equal(same.reference.rgb, planted().reference.rgb)
    assert np.array_equal(same.query.xy_px, planted().query.xy_px)
    assert same.keypoint_id == NAMES


def test_light_changes_the_pixels_and_not_the_points():
    changed = augment(planted(), generator_of("augment"), LIGHT)
    assert not np.array_equal(changed.reference.rgb, planted().reference.rgb)
    assert not np.array_equal(changed.reference.rgb[:30, :50], changed.query.rgb[:30, :50])
    assert np.array_equal(changed.reference.xy_px, planted().reference.xy_px)
    first, second, third = marks(changed.reference)
    assert first < second < third


def test_everything_together_keeps_marks_matched():
    """Names, points and marks stay together through swaps, flips, crops and affine maps of both images."""
    brightness = {"left_ear": (120, 160), "right_ear": (160, 120), "nose": (200, 200)}
    views = (marked((60, 100), [(20, 16), (60, 18), (40, 40)], 5), marked((80, 120), [(82, 24), (50, 26), (62, 50)], 5))
    example = Example(reference=views[0], query=views[1], keypoint_id=NAMES)
    sizes, seen = set(), 0
    for number in range(60):
        moved = augment(example, generator_of("augment", number), MOVES).drop_outside_points()
        assert len(moved) > 0
        sizes.add((moved.reference.hw, moved.query.hw))
        for name, reference, query in zip(moved.keypoint_id, marks(moved.reference), marks(moved.query), strict=True):
            # a flip of one image pairs the left with the right, never an ear with the nose
            assert min(abs(reference - b) for b in brightness[name]) <= 12
            assert min(abs(query - b) for b in brightness[name]) <= 12
            seen += 1
    assert len(sizes) > 20
    assert seen > 150


def test_the_same_generator_gives_the_same_example():
    config = AugmentConfig()
    first, second, other = (augment(planted(), generator_of("a", seed), config) for seed in (1, 1, 2))
    assert np.array_equal(first.reference.rgb, second.reference.rgb)
    assert np.array_equal(first.query.xy_px, second.query.xy_px)
    assert not np.array_equal(first.reference.rgb, other.reference.rgb)


def test_an_example_that_would_lose_all_points_changes_its_colours_only():
    """The only point lies at a corner that every such map moves out of the image."""
    corner = marked((30, 50), [(0, 0)])
    away = AffineRange(rotation_deg=0.0, scale=1.0, shear=0.0, shift=1.0)
    config = replace(STILL, jitter=1.0, affine=away)
    kept = [augment(Example(reference=corner, query=corner), generator_of("a", number), config) for number in range(20)]
    assert all(len(example) == 1 for example in kept)
    assert any(np.array_equal(example.reference.rgb, corner.rgb) for example in kept)


def test_numbers_out_of_range_and_examples_that_do_not_fit():
    with pytest.raises(ValueError, match=r"flip must be from 0 to 1; got 1\.5"):
        AugmentConfig(flip=1.5)
    with pytest.raises(ValueError, match="got 3 reference points, 1 query points, 3 keypoint_id"):
        Example(reference=marked((30, 50), REFERENCE_PX), query=marked((30, 50), [(1, 1)]), keypoint_id=NAMES)
    view = View(rgb=np.zeros((4, 4, 3), np.uint8), xy_px=np.array([[0, 0], [np.nan, 1]], np.float32))
    with pytest.raises(ValueError, match=r"finite; reference point 1 is \(nan, 1\.0\)"):
        Example(reference=view, query=view)


def test_what_is_known_of_an_example_stays_with_it():
    cat = replace(planted(), category="cat")
    changed = augment(cat, generator_of("known"), MOVES)
    assert (changed.category, cat.swapped().category, cat.drop_outside_points().category) == ("cat", "cat", "cat")


def test_an_image_without_points_is_altered_too():
    rgb = marked((30, 50), REFERENCE_PX).rgb
    assert np.array_equal(augment_image(rgb, generator_of("still"), STILL), rgb)
    assert np.array_equal(augment_image(rgb, generator_of("flip"), replace(STILL, flip=1.0)), rgb[:, ::-1])
    first, again, other = (augment_image(rgb, generator_of("all", seed), AugmentConfig()) for seed in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_a_crop_of_an_image_without_points_is_anywhere_and_large_enough():
    ramp = np.arange(30 * 50, dtype=np.uint32).reshape(30, 50)
    rgb = np.stack([ramp // 256, ramp % 256, 0 * ramp], axis=-1).astype(np.uint8)
    config = replace(STILL, crop=1.0, min_crop_share=0.3)
    corners = []
    for seed in range(200):
        crop = augment_image(rgb, generator_of("crop", seed), config).astype(int)
        height, width = crop.shape[:2]
        assert height >= 9
        assert width >= 15
        top, left = divmod(256 * crop[0, 0, 0] + crop[0, 0, 1], 50)
        assert np.array_equal(crop, rgb[top : top + height, left : left + width])
        corners.append((top, left, top + height, left + width))
    boxes = np.array(corners)
    assert (boxes.min(axis=0)[:2] == 0).all()
    assert (boxes.max(axis=0)[2:] == [30, 50]).all()
    assert (boxes.max(axis=0)[:2] > [10, 18]).all()
