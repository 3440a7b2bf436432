import io

import numpy as np
import pytest
from make import noise_rgb
from matplotlib.figure import Figure
from PIL import Image

from pipeline.visualization.field import FORMATS, ScoredPoint, draw_field, encode_figure, format_of, highest_score

QUERY, REFERENCE = noise_rgb(0, (40, 60)), noise_rgb(1, (61, 101))
FOUND = ScoredPoint(70.5, 30.25, 0.875)


def _hill(hw: tuple[int, int] = (31, 26)) -> np.ndarray:
    """Scores with their highest, 0.9, three quarters of the way to the right and two thirds down."""
    y, x = np.meshgrid(np.linspace(0, 1, hw[0]), np.linspace(0, 1, hw[1]), indexing="ij")
    return (0.9 * np.exp(-((x - 0.76) ** 2 + (y - 2 / 3) ** 2) / 0.02)).astype(np.float32)


def _draw(scores: np.ndarray, reference_rgb: np.ndarray = REFERENCE) -> Figure:
    return draw_field(QUERY, reference_rgb, (12.0, 34.5), scores, FOUND)


def _marks(figure: Figure, panel: int) -> list[tuple[float, float]]:
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in figure.axes[panel].lines]


def test_highest_is_in_pixels_of_the_image():
    best = highest_score(_hill(), (61, 101))
    assert best.x_px == pytest.approx(76)  # column 19 of 26, 4 pixels apart
    assert best.y_px == pytest.approx(40)  # row 20 of 31, 2 pixels apart
    assert best.score == pytest.approx(0.9)
    assert highest_score(np.zeros((3, 4), np.float32), (61, 101)) == (0, 0, 0)


def test_the_point_is_marked_left_and_both_answers_in_the_middle():
    figure = _draw(_hill())
    assert _marks(figure, 0) == [(12, 34.5)]
    assert _marks(figure, 1) == [pytest.approx((70.5, 30.25)), pytest.approx((76, 40))]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "query point (12.0, 34.5)",
        "found (70.5, 30.2), score 0.875",
        "highest of the grid (76.0, 40.0), score 0.900",
    ]


def test_contours_are_around_the_hill():
    """Positions at half the maximum: exp(-r^2 / 0.02) = 1/2 at r = 0.118, of 100 pixels across and 60 down."""
    filled, lines = _draw(_hill()).axes[1].collections
    assert np.allclose(lines.levels, np.linspace(0, 0.9, 13)[1:], atol=1e-6)
    assert np.array_equal(filled.levels, lines.levels)
    (half,) = lines.get_paths()[5].to_polygons(closed_only=False)
    assert np.abs(half.min(axis=0) - [76 - 11.8, 40 - 7.1]).max() < 1
    assert np.abs(half.max(axis=0) - [76 + 11.8, 40 + 7.1]).max() < 1


def test_the_surface_spans_the_image_and_the_scores():
    axes = _draw(_hill()).axes[2]
    assert axes.name == "3d"
    assert len(axes.collections) == 1
    assert axes.xy_dataLim.extents == pytest.approx([0, 0, 100, 60])
    assert axes.zz_dataLim.intervalx == pytest.approx([0, 0.9], abs=1e-6)
    assert axes.yaxis_inverted()


def test_colours_are_perceptually_uniform_and_explained():
    figure = _draw(_hill())
    (bar,) = figure.axes[1].child_axes
    assert bar.get_ylabel() == "score"
    assert bar.get_ylim() == pytest.approx((0, 0.9), abs=1e-6)
    assert {collection.get_cmap().name for collection in figure.axes[1].collections} == {"viridis"}


@pytest.mark.parametrize(
    ("scores", "reference_hw"),
    [
        (np.full((9, 8), 0.5, np.float32), (61, 101)),  # a plain
        (np.nextafter(np.full((9, 8), 0.5, np.float32), np.eye(9, 8, dtype=np.float32)), (61, 101)),  # nearly one
        (_hill((2, 2)), (2, 2)),
        (_hill((2, 300)), (3, 2000)),
        (_hill((300, 200)), (900, 600)),
    ],
)
def test_any_scores_and_sizes_are_drawn(scores: np.ndarray, reference_hw: tuple[int, int]):
    """Warnings are errors here, and matplotlib warns of contours that it cannot draw."""
    picture = Image.open(io.BytesIO(encode_figure(_draw(scores, noise_rgb(2, reference_hw)), "png")))
    assert picture.size == (2400, 750)


@pytest.mark.parametrize("image_format", sorted(FORMATS))
def test_every_format_is_written(image_format: str):
    data = encode_figure(Figure(figsize=(1, 1)), image_format)
    known = {"png": b"\x89PNG", "jpg": b"\xff\xd8", "pdf": b"%PDF", "svg": b"<?xml", "tif": b"II*", "gif": b"GIF8"}
    assert data.startswith(known.get(image_format, b""))
    assert format_of(f"s3://bucket/field.{image_format.upper()}") == image_format


@pytest.mark.parametrize("out", ["field", "field.xyz", "field.pgf", "png", "a.png/field"])
def test_other_suffixes_are_refused(out: str):
    with pytest.raises(ValueError, match=r"is no image format to write; \.png is one"):
        format_of(out)


def test_one_row_has_no_contours():
    with pytest.raises(ValueError, match=r"at least 2 x 2; got an image of 1 x 9 and 31 x 26 scores"):
        _draw(_hill(), noise_rgb(0, (1, 9)))
    with pytest.raises(ValueError, match=r"at least 2 x 2; got an image of 61 x 101 and 1 x 5 scores"):
        _draw(_hill((1, 5)))
