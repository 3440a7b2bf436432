"""Whether annotations fit their images: stated sizes and points are compared with the images' own sizes.

A photograph may be stored turned, with an EXIF orientation that says how to show it. Points are in pixels of the image
as shown; annotations of the stored pixels are recognised by the size that they state, and are turned.
"""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from pipeline.datasets.common.interface import Box, Note, PairRow, Points, Rejected, map_in_threads
from pipeline.io.image_size import ImageSize, read_image_size
from pipeline.io.uri_field import on_the_web

TURNED = "image annotated as stored: its points and boxes are turned as its EXIF orientation turns the image"
UNDECIDED = "image turned by its EXIF orientation: its points and boxes are taken to be of the image as shown"
OUTSIDE = "point outside its image"

_BATCH_ITEMS = 512


def fit_to_images(items: Iterable[PairRow | Rejected | Note]) -> Iterator[PairRow | Rejected | Note]:
    """The items in order, with each pair in its images' frames, or rejected because it states other sizes; and notes.

    The heads of image files are read, each once. Images on web servers, and files that cannot be read, are left to
    jobs.match.
    """
    sizes: dict[str, ImageSize | None] = {}
    noted: set[Any] = set()
    remaining = iter(items)
    while batch := list(itertools.islice(remaining, _BATCH_ITEMS)):
        uris = {side.uri for item in batch if isinstance(item, PairRow) for side in _sides(item)}
        unknown = [uri for uri in uris if uri not in sizes and not on_the_web(uri)]
        sizes |= zip(unknown, map_in_threads(read_image_size, unknown), strict=True)
        for item in batch:
            if isinstance(item, PairRow):
                yield from _fit(item, sizes, noted)
            else:
                yield item


class _Side:
    """One image of a pair and its annotation."""

    def __init__(self, row: PairRow, side: str) -> None:
        self.side = side
        self.uri: str = getattr(row, f"{side}_uri")
        self.xy_px: Points | None = getattr(row, f"{side}_xy_px")
        self.box_xyxy: Box | None = getattr(row, f"{side}_box_xyxy")
        self.stated_wh: tuple[int, int] | None = getattr(row, f"{side}_stated_wh")


def _sides(row: PairRow) -> list[_Side]:
    """The sides that have an annotation."""
    sides = [_Side(row, "source"), _Side(row, "target")]
    return [side for side in sides if side.xy_px or side.box_xyxy or side.stated_wh]


def _fit(row: PairRow, sizes: dict[str, ImageSize | None], noted: set[Any]) -> Iterator[PairRow | Rejected | Note]:
    notes: list[tuple[str, tuple[Any, ...]]] = []
    for side in _sides(row):
        size = sizes.get(side.uri)
        if size is None:
            continue
        if side.stated_wh not in (None, size.stored_wh, size.shown_wh):
            yield _other_size(row, side, size)
            return
        points = side.xy_px or []
        if size.orientation != 1 and side.stated_wh in (None, size.stored_wh):
            if side.stated_wh in (None, size.shown_wh):
                notes.append((UNDECIDED, (side.uri,)))
            else:
                notes.append((TURNED, (side.uri,)))
                points = _turned_points(points, size)
                row = replace(row, **_turned_columns(row, side, size))
        width, height = size.shown_wh
        # A last pixel is at width - 1, or at width where counting begins at 1 or at the edge.
        outside = [(x, y) for x, y in points if not (-1 < x <= width and -1 < y <= height)]
        notes += [(OUTSIDE, (side.uri, *point)) for point in outside]
    for what, of in notes:
        if (what, of) not in noted:
            noted.add((what, of))
            yield Note(where=row.where, what=what)
    yield row


def _other_size(row: PairRow, side: _Side, size: ImageSize) -> Rejected:
    stated, (width, height) = side.stated_wh, size.shown_wh
    assert stated is not None
    detail = (
        f"the annotation is of {stated[0]} x {stated[1]} pixels, and the {side.side} image {side.uri} has "
        f"{width} x {height}"
    )
    return Rejected(pair=row.pair_id, where=row.where, reason="annotation of another image size", detail=detail)


def _turned_columns(row: PairRow, side: _Side, size: ImageSize) -> dict[str, Any]:
    """The columns of a side whose values are in pixels of its image, as shown."""
    columns: dict[str, Any] = {f"{side.side}_box_xyxy": side.box_xyxy and _turned_box(side.box_xyxy, size)}
    others_xyxy: list[Box] | None = getattr(row, f"{side.side}_other_boxes_xyxy")
    columns[f"{side.side}_other_boxes_xyxy"] = others_xyxy and [_turned_box(box, size) for box in others_xyxy]
    for name in (f"{side.side}_xy_px", f"{side.side}_all_xy_px"):
        xy_px: Points | None = getattr(row, name)
        columns[name] = xy_px and _turned_points(xy_px, size)
    if side.side == "target":
        valid_xy_px = row.target_valid_xy_px
        columns["target_valid_xy_px"] = valid_xy_px and [_turned_points(xy_px, size) for xy_px in valid_xy_px]
    return columns


def _turned_points(xy_px: Points, size: ImageSize) -> Points:
    return [_turned(x, y, size) for x, y in xy_px]


def _turned(x: float, y: float, size: ImageSize) -> tuple[float, float]:
    """A point of the stored pixels in the image as shown, for the EXIF orientations that swap width and height."""
    width, height = size.stored_wh
    shown_x = height - 1 - y if size.orientation in (6, 7) else y
    shown_y = width - 1 - x if size.orientation in (7, 8) else x
    return shown_x, shown_y


def _turned_box(box_xyxy: Box, size: ImageSize) -> Box:
    x_min, y_min, x_max, y_max = box_xyxy
    (ax, ay), (bx, by) = _turned(x_min, y_min, size), _turned(x_max, y_max, size)
    return min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)
