"""Matches as a picture: query and reference image side by side, a line from each query point to its match."""

import colorsys

import numpy as np
from jaxtyping import Bool, Float64
from PIL import Image, ImageDraw

from nemf.matcher import RGB, Points

CORRECT, WRONG, MISSED = (22, 163, 74), (220, 38, 38), (252, 165, 165)
_HEIGHT_RANGE_PX = (240, 640)
_MAX_ASPECT = 4  # width / height; wider images are drawn lower
_OVERSAMPLING = 2  # drawn larger and shrunk: Pillow's lines are not anti-aliased


def draw_match(
    query_rgb: RGB,
    reference_rgb: RGB,
    query_xy_px: Points,
    reference_xy_px: Points,
    *,
    correct: Bool[np.ndarray, " k"] | None = None,
    truth_xy_px: Points | None = None,
) -> Image.Image:
    """The query image left, the reference image right, and a line with two dots per point pair.

    Both images get the height of the taller one, within 240..640 pixels (less for panoramas), and keep their
    proportions.
    query_xy_px, reference_xy_px: (K, 2) pixels, each of its own image; points outside go to the nearest edge.
    correct: green where true and red where not; None gives every point a colour of its own.
    truth_xy_px: (K, 2) pixels of the reference image; a wrong point gets a dotted line to a ring at its true position.
    Raises ValueError if the lengths of those that are given differ.
    """
    given = {
        "query points": query_xy_px,
        "reference points": reference_xy_px,
        "marks of correct or wrong": correct,
        "true places": truth_xy_px,
    }
    lengths = {name: len(values) for name, values in given.items() if values is not None}
    if len(set(lengths.values())) > 1:
        listed = ", ".join(f"{length} {name}" for name, length in lengths.items())
        raise ValueError(f"to draw a match, points must come in pairs: {listed}")
    height = np.clip(max(len(query_rgb), len(reference_rgb)), *_HEIGHT_RANGE_PX)
    aspect = max(rgb.shape[1] / rgb.shape[0] for rgb in (query_rgb, reference_rgb))
    height = max(1, int(height * min(1, _MAX_ASPECT / aspect)))
    left, right = _resized(query_rgb, height), _resized(reference_rgb, height)
    gap = height // 32
    canvas = Image.new("RGB", (left.width + gap + right.width, height), "white")
    canvas.paste(left, (0, 0))
    canvas.paste(right, (left.width + gap, 0))

    right_corner = np.array([left.width + gap, 0])
    starts = _on_canvas(query_xy_px, query_rgb, left)
    ends = _on_canvas(reference_xy_px, reference_rgb, right) + right_corner
    large = canvas.resize((canvas.width * _OVERSAMPLING, canvas.height * _OVERSAMPLING), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(large)
    line_px, dot_px = max(1, round(height / 160)) * _OVERSAMPLING, height / 70 * _OVERSAMPLING
    lines = list(zip(starts * _OVERSAMPLING, ends * _OVERSAMPLING, _colours(correct, len(query_xy_px)), strict=True))
    for start, end, colour in lines:
        draw.line([*start, *end], fill=colour, width=line_px)
    if truth_xy_px is not None and correct is not None:
        truths = _on_canvas(truth_xy_px, reference_rgb, right) + right_corner
        for end, truth in zip(ends[~correct] * _OVERSAMPLING, truths[~correct] * _OVERSAMPLING, strict=True):
            _draw_miss(draw, end, truth, dot_px)
    for start, end, colour in lines:
        for centre in (start, end):
            draw.circle(tuple(centre), dot_px, fill=colour, outline="white", width=line_px // 2)
    return large.resize(canvas.size, Image.Resampling.BOX)


def _draw_miss(
    draw: ImageDraw.ImageDraw, matched: Float64[np.ndarray, " 2"], truth: Float64[np.ndarray, " 2"], dot_px: float
) -> None:
    """A dotted line from a matched point to a ring around its true position, on the canvas."""
    steps = max(1, int(np.linalg.norm(truth - matched) / dot_px))
    for centre in np.linspace(matched, truth, steps, endpoint=False):
        draw.circle(tuple(centre), dot_px / 4, fill=MISSED)
    draw.circle(tuple(truth), 1.5 * dot_px, outline="white", width=round(dot_px / 3))
    draw.circle(tuple(truth), 1.25 * dot_px, outline=WRONG, width=round(dot_px / 2))


def _resized(rgb: RGB, height: int) -> Image.Image:
    width = max(1, round(rgb.shape[1] * height / rgb.shape[0]))
    return Image.fromarray(rgb).resize((width, height), Image.Resampling.LANCZOS)


def _on_canvas(xy_px: Points, rgb: RGB, resized: Image.Image) -> Float64[np.ndarray, "k 2"]:
    """Points of the original image in pixels of the resized one, clipped to its edges; not finite values become 0."""
    size = np.array(resized.size)
    xy = (np.asarray(xy_px, np.float64).reshape(-1, 2) + 0.5) * size / [rgb.shape[1], rgb.shape[0]] - 0.5
    return np.clip(np.nan_to_num(xy), 0, size - 1)


def _colours(correct: Bool[np.ndarray, " k"] | None, count: int) -> list[tuple[int, int, int]]:
    if correct is not None:
        return [CORRECT if good else WRONG for good in correct]
    hues = (colorsys.hsv_to_rgb(k / count, 0.85, 0.95) for k in range(count))
    return [(round(255 * r), round(255 * g), round(255 * b)) for r, g, b in hues]
