from pathlib import Path

import numpy as np
import pytest
from make import encoded
from PIL import Image

from pipeline.datasets.common.image_frames import OUTSIDE, TURNED, UNDECIDED, fit_to_images
from pipeline.datasets.common.interface import Note, PairRow, Rejected
from pipeline.io.images import read_image

WH = (6, 4)
"""Width and height of the stored pixels."""
X, Y = 4, 1
"""Position of the stored pixel that is white."""


def image(file: Path, orientation: int) -> str:
    """An image file whose stored pixels are black except for one."""
    rgb = np.zeros((*WH[::-1], 3), np.uint8)
    rgb[Y, X] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    file.write_bytes(encoded(rgb, exif=exif))
    return str(file)


def row(uri: str, xy_px: list | None = None, stated_wh: tuple[int, int] | None = None, **fields: object) -> PairRow:
    """A pair whose target has no annotation."""
    return PairRow(
        where="list, line 2",
        pair_id="1",
        source_uri=uri,
        target_uri=uri,
        source_xy_px=xy_px,
        source_stated_wh=stated_wh,
        **fields,
    )


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_points_of_stored_pixels_are_turned_with_the_image(tmp_path, orientation):
    uri = image(tmp_path / "a.png", orientation)
    box_xyxy = (X - 1, Y - 1, X, Y)
    row_of_stored = row(uri, [(X, Y)], WH, source_box_xyxy=box_xyxy, source_other_boxes_xyxy=[box_xyxy])
    note, fitted = fit_to_images([row_of_stored])
    ((x, y),) = fitted.source_xy_px
    assert read_image(uri)[int(y), int(x)].tolist() == [255, 255, 255]
    x_min, y_min, x_max, y_max = fitted.source_box_xyxy
    assert (x_max - x_min, y_max - y_min) == (1, 1)
    assert fitted.source_other_boxes_xyxy == [fitted.source_box_xyxy]
    assert x in (x_min, x_max)
    assert y in (y_min, y_max)
    assert (note.what, note.where) == (TURNED, "list, line 2")
    assert fitted.target_xy_px is None


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_all_points_of_an_image_are_turned_alike(tmp_path, orientation):
    uri = image(tmp_path / "a.png", orientation)
    points = {"target_xy_px": [(X, Y)], "target_all_xy_px": [(X, Y), (0, 1)], "target_valid_xy_px": [[(X, Y), (0, 1)]]}
    pair = row(uri, [(X, Y)], WH, target_stated_wh=WH, source_all_xy_px=[(0, 1), (X, Y)], **points)

    *_, fitted = fit_to_images([pair])

    (point,) = fitted.source_xy_px
    assert point != (X, Y)
    assert fitted.source_all_xy_px[1] == fitted.target_xy_px[0] == fitted.target_all_xy_px[0] == point
    assert fitted.target_valid_xy_px == [fitted.target_all_xy_px]
    assert fitted.source_all_xy_px[0] == fitted.target_all_xy_px[1] != (0, 1)


@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_points_of_the_image_as_shown_stay(tmp_path, orientation):
    pair = row(image(tmp_path / "a.png", orientation), [(1, 5)], WH[::-1])
    assert list(fit_to_images([pair])) == [pair]


@pytest.mark.parametrize(("orientation", "stated_wh"), [(2, WH), (3, WH), (4, WH), (3, None), (6, None)])
def test_points_whose_frame_is_not_known_are_taken_as_shown_and_noted(tmp_path, orientation, stated_wh):
    pair = row(image(tmp_path / "a.png", orientation), [(1, 2)], stated_wh)
    assert list(fit_to_images([pair])) == [Note(where="list, line 2", what=UNDECIDED), pair]


@pytest.mark.parametrize("orientation", [1, 6])
def test_another_size_is_refused(tmp_path, orientation):
    (rejected,) = fit_to_images([row(image(tmp_path / "a.png", orientation), [(1, 2)], (60, 40))])
    assert isinstance(rejected, Rejected)
    assert rejected.reason == "annotation of another image size"
    shown = "6 x 4" if orientation == 1 else "4 x 6"
    assert rejected.detail.startswith("the annotation is of 60 x 40 pixels, and the source image")
    assert rejected.detail.endswith(f"a.png has {shown}")


def test_points_outside_are_counted_once_for_each_image(tmp_path):
    uri = image(tmp_path / "a.png", 1)
    pair = row(uri, [(0, 0), (-0.9, 0), (6, 4), (6.1, 0), (0, -1), (5, 9)], WH)
    *notes, first, second = fit_to_images([pair, pair])
    assert notes == [Note(where="list, line 2", what=OUTSIDE)] * 3
    assert (first, second) == (pair, pair)


def test_the_other_side_is_fitted_too(tmp_path):
    uri, turned = image(tmp_path / "a.png", 1), image(tmp_path / "b.png", 6)
    points = {"source_xy_px": [(1, 1)], "target_xy_px": [(X, Y)]}
    stated = {"source_stated_wh": WH, "target_stated_wh": WH}
    _, fitted = fit_to_images([PairRow(where="w", pair_id="1", source_uri=uri, target_uri=turned, **points, **stated)])
    assert fitted.source_xy_px == [(1, 1)]
    assert fitted.target_xy_px == [(WH[1] - 1 - Y, X)]


def test_images_that_cannot_be_read_or_are_on_the_web_are_left_alone(tmp_path, monkeypatch):
    (tmp_path / "b.jpg").write_bytes(b"no image")
    uris = ["https://example.org/a.jpg", "HTTP://example.org/a.jpg", f"{tmp_path}/b.jpg", f"{tmp_path}/nowhere.jpg"]
    items = [row(uri, [(1, 2)], (60, 40)) for uri in uris]
    assert list(fit_to_images(items)) == items


def test_images_without_annotations_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.datasets.common.image_frames.read_image_size", lambda uri: pytest.fail(uri))
    other = Rejected(pair="1", where="w", reason="r", detail="d")
    assert list(fit_to_images([row("a.jpg"), other])) == [row("a.jpg"), other]
