"""Points of an image as they are given on a command line, and a grid of them if there are none."""

from collections.abc import Sequence

from nemf.coordinates import pixel_grid, rescale_px
from nemf.matcher import RGB, Points, as_points

GRID_HW = (4, 4)


def parse_point(text: str, query_rgb: RGB, option: str, expected: str) -> tuple[float, float]:
    """The point (x, y) written as 'X,Y', in pixels of the query image; its border pixels count to their outer edge.

    option, expected: the option that was given and what it takes, for the error.
    Raises ValueError for text that is something else, and for a point outside the image.
    """
    height, width = query_rgb.shape[:2]
    try:
        x, y = (float(number) for number in text.split(","))
    except ValueError as error:
        raise ValueError(f"{option} takes {expected}; got {text!r}") from error
    if not (-0.5 <= x <= width - 0.5 and -0.5 <= y <= height - 0.5):
        raise ValueError(
            f"{option} {text} is outside the query image, whose x go from 0 to {width - 1} and y from 0 to {height - 1}"
        )
    return x, y


def parse_points(texts: Sequence[str], query_rgb: RGB) -> Points:
    """The points that --points gives, (K, 2) pixels of the query image. Raises ValueError as parse_point does."""
    expected = "X,Y pairs such as 10,20 30.5,40"
    return as_points([parse_point(text, query_rgb, "--points", expected) for text in texts])


def grid_points(query_rgb: RGB) -> Points:
    """The centres of the parts of the query image when it is divided into GRID_HW, (16, 2) pixels."""
    return rescale_px(pixel_grid(GRID_HW), GRID_HW, query_rgb.shape[:2]).view(-1, 2).numpy()
