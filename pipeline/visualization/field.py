"""The matching field of one point as a picture: contours over the reference image, and a surface (paper, Figure 2)."""

import io
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float32
from matplotlib.axes import Axes
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from PIL import Image

from nemf.matcher import RGB

ScoreMap = Float32[np.ndarray, "h w"]
"""Scores over an image, with the outermost ones at the centres of its outermost pixels (NemfMatcher.score_map)."""

FORMATS = frozenset(FigureCanvasBase.get_supported_filetypes()) - {"pgf"}  # pgf runs LaTeX
"""Image formats that can be written, as suffixes without their dot."""

_COLOURS = "viridis"
_LEVELS = 12
_SURFACE_CELLS = 128  # along either side: what a panel of this size can show
_PIXELS_PER_INCH = 150
_POINT: dict[str, Any] = {"marker": "o", "ms": 9, "mfc": "#ff2d95", "mec": "white", "ls": "none"}
_MATCHED: dict[str, Any] = {"marker": "o", "ms": 13, "mfc": "none", "mec": "#ff2d95", "mew": 2.5, "ls": "none"}
_HIGHEST: dict[str, Any] = {"marker": "+", "ms": 9, "mec": "black", "mew": 1.5, "ls": "none"}


class ScoredPoint(NamedTuple):
    """A point of the reference image and its score."""

    x_px: float
    y_px: float
    score: float


def highest_score(scores: ScoreMap, reference_hw: tuple[int, int]) -> ScoredPoint:
    """The point of an image of size (height, width) where the scores over it are highest; the first of equal ones."""
    row, column = np.unravel_index(scores.argmax(), scores.shape)
    x_px, y_px = _axes_px(scores, reference_hw)
    return ScoredPoint(float(x_px[column]), float(y_px[row]), float(scores[row, column]))


def draw_field(
    query_rgb: RGB, reference_rgb: RGB, query_xy_px: tuple[float, float], scores: ScoreMap, matched: ScoredPoint
) -> Figure:
    """The query image with the point, contours of the scores over the reference image, and the scores as a surface.

    query_xy_px: (x, y) in pixels of the query image.
    scores: over the reference image, finite.
    matched: the matcher's prediction, drawn together with the point of the highest score.
    Raises ValueError unless scores and reference image have at least 2 pixels a side, which contours need.
    """
    reference_hw = (reference_rgb.shape[0], reference_rgb.shape[1])
    if min(*scores.shape, *reference_hw) < 2:
        raise ValueError(
            "contours need a reference image and scores of at least 2 x 2; got an image of "
            f"{reference_hw[0]} x {reference_hw[1]} and {scores.shape[0]} x {scores.shape[1]} scores (height x width)"
        )
    best = highest_score(scores, reference_hw)
    colours = ScalarMappable(Normalize(float(scores.min()), float(scores.max())), _COLOURS)
    figure = Figure(figsize=(16, 5), layout="constrained")
    columns = figure.add_gridspec(1, 3, width_ratios=(1, 1.1, 1.2))

    axes = figure.add_subplot(columns[0])
    _show(axes, query_rgb, "query image")
    label = f"query point ({query_xy_px[0]:.1f}, {query_xy_px[1]:.1f})"
    axes.plot(*query_xy_px, **_POINT, label=label)

    axes = figure.add_subplot(columns[1])
    _show(axes, _pale(reference_rgb), "matching score over the reference image")
    _draw_contours(axes, scores, reference_hw, colours)
    for name, point, marker in (("found", matched, _MATCHED), ("highest of the grid", best, _HIGHEST)):
        label = f"{name} ({point.x_px:.1f}, {point.y_px:.1f}), score {point.score:.3f}"
        axes.plot(point.x_px, point.y_px, **marker, label=label)
    figure.colorbar(colours, cax=axes.inset_axes((1.03, 0, 0.04, 1)), label="score")

    _draw_surface(figure.add_subplot(columns[2], projection="3d"), scores, reference_rgb, colours)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    return figure


def format_of(out: str) -> str:
    """The image format of a file name's suffix. Raises ValueError if it cannot be written."""
    suffix = PurePosixPath(out).suffix.lower()
    if suffix[1:] not in FORMATS:
        raise ValueError(f"--out {out}: {suffix or 'no suffix'!r} is no image format to write; .png is one")
    return suffix[1:]


def encode_figure(figure: Figure, image_format: str) -> bytes:
    """The figure as the bytes of a file in one of FORMATS."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=image_format, dpi=_PIXELS_PER_INCH)
    return buffer.getvalue()


def _axes_px(scores: ScoreMap, reference_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The x of every column and the y of every row of the scores, in pixels of the image."""
    y_px, x_px = (np.linspace(0, size - 1, count) for size, count in zip(reference_hw, scores.shape, strict=True))
    return x_px, y_px


def _show(axes: Axes, rgb: RGB, title: str) -> None:
    axes.imshow(rgb)
    axes.set(title=title, xlabel="x, px", ylabel="y, px")


def _pale(rgb: RGB) -> RGB:
    """The image in light greys."""
    grey = rgb.mean(axis=2, keepdims=True)
    return np.repeat(96 + grey * 159 / 255, 3, axis=2).astype(np.uint8)


def _draw_contours(axes: Axes, scores: ScoreMap, reference_hw: tuple[int, int], colours: ScalarMappable) -> None:
    """Translucent filled contours and their lines; no contour below the lowest twelfth of the scores' range."""
    low, high = colours.get_clim()
    if low == high:  # matplotlib warns about contours of a constant
        return
    surface = (*_axes_px(scores, reference_hw), scores)
    levels = np.linspace(low, high, _LEVELS + 1)[1:]
    axes.contourf(*surface, levels, cmap=colours.cmap, norm=colours.norm, alpha=0.45)
    axes.contour(*surface, levels, cmap=colours.cmap, norm=colours.norm, linewidths=1)


def _draw_surface(axes: Any, scores: ScoreMap, reference_rgb: RGB, colours: ScalarMappable) -> None:
    """The image as a surface of its scores, top edge at the back, blended with their colours where they are high."""
    height, width = reference_rgb.shape[:2]
    x_px, y_px = np.meshgrid(*_axes_px(scores, (height, width)))
    image = Image.fromarray(_pale(reference_rgb)).resize(scores.shape[::-1], Image.Resampling.BOX)
    cover = np.sqrt(colours.norm(scores))[..., None]
    covered = (1 - cover) * np.asarray(image) / 255 + cover * colours.to_rgba(scores)[..., :3]
    axes.plot_surface(
        x_px,
        y_px,
        scores,
        facecolors=covered,
        rcount=_SURFACE_CELLS,
        ccount=_SURFACE_CELLS,
        linewidth=0,
        antialiased=False,
    )
    axes.set(xlabel="x, px", ylabel="y, px", zlabel="score")
    axes.set_title("the same as a surface", y=0.97)
    axes.locator_params(nbins=5)
    axes.invert_yaxis()
    axes.view_init(elev=40, azim=-70)
    axes.set_box_aspect((width, height, 0.6 * max(width, height)), zoom=0.87)
