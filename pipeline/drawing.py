"""Matches as a picture: the two images side by side, a line from each query point to where it was found."""

import colorsys

import numpy as np
from PIL import Image, ImageDraw

from nemf.matcher import RGB, Points

CORRECT, WRONG = (22, 163, 74), (220, 38, 38)
_HEIGHT_RANGE_PX = (240, 640)
_WIDEST = 4  # width / height; a panorama is drawn lower rather than wider than this
_OVERSAMPLING = 2  # drawn larger and shrunk: Pillow's lines are not anti-aliased


def draw_match(
    query_rgb: RGB,
    reference_rgb: RGB,
    query_xy_px: Points,
    reference_xy_px: Points,
    *,
    correct: np.ndarray | None = None,
) -> Image.Image:
    """The query image left, the reference image right, and a line with two dots per point pair.

    Both images get the height of the taller one, within 240..640 pixels (less for panoramas), and keep their
    proportions.
    query_xy_px, reference_xy_px: (K, 2) pixels, each of its own image; points outside go to the nearest edge.
    correct: (K,) bool, green where true and red where not; None gives every point a colour of its own.
    Raises ValueError if the three do not have one length.
    """
    lengths = {len(query_xy_px), len(reference_xy_px)} | (set() if correct is None else {len(correct)})
    if len(lengths) > 1:
        raise ValueError(
            f"to draw a match, points must come in pairs: {len(query_xy_px)} query points, "
            f"{len(reference_xy_px)} reference points"
            + ("" if correct is None else f", {len(correct)} marks of correct or wrong")
        )
    height = np.clip(max(len(query_rgb), len(reference_rgb)), *_HEIGHT_RANGE_PX)
    wideness = max(rgb.shape[1] / rgb.shape[0] for rgb in (query_rgb, reference_rgb))
    height = max(1, int(height * min(1, _WIDEST / wideness)))
    left, right = _resized(query_rgb, height), _resized(reference_rgb, height)
    gap = height // 32
    canvas = Image.new("RGB", (left.width + gap + right.width, height), "white")
    canvas.paste(left, (0, 0))
    canvas.paste(right, (left.width + gap, 0))

    starts = _on_canvas(query_xy_px, query_rgb, left)
    ends = _on_canvas(reference_xy_px, reference_rgb, right) + np.array([left.width + gap, 0])
    large = canvas.resize((canvas.width * _OVERSAMPLING, canvas.height * _OVERSAMPLING), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(large)
    line_px, dot_px = max(1, round(height / 160)) * _OVERSAMPLING, height / 70 * _OVERSAMPLING
    lines = list(zip(starts * _OVERSAMPLING, ends * _OVERSAMPLING, _colours(correct, len(query_xy_px)), strict=True))
    for start, end, colour in lines:
        draw.line([*start, *end], fill=colour, width=line_px)
    for start, end, colour in lines:
        for centre in (start, end):
            draw.circle(tuple(centre), dot_px, fill=colour, outline="white", width=line_px // 2)
    return large.resize(canvas.size, Image.Resampling.BOX)


def _resized(rgb: RGB, height: int) -> Image.Image:
    width = max(1, round(rgb.shape[1] * height / rgb.shape[0]))
    return Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS)


def _on_canvas(xy_px: Points, rgb: RGB, resized: Image.Image) -> np.ndarray:
    """Points of the original image in the resized one, clipped to its edges; one that is not finite goes to 0."""
    size = np.array(resized.size)
    xy = (np.asarray(xy_px, np.float64).reshape(-1, 2) + 0.5) * size / [rgb.shape[1], rgb.shape[0]] - 0.5
    return np.clip(np.nan_to_num(xy), 0, size - 1)


def _colours(correct: np.ndarray | None, count: int) -> list[tuple[int, int, int]]:
    if correct is not None:
        return [CORRECT if good else WRONG for good in correct]
    hues = (colorsys.hsv_to_rgb(k / count, 0.85, 0.95) for k in range(count))
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues]
