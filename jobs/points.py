"""Points of an image as people write them."""

from nemf.matcher import RGB


def parse_point(text: str, query_rgb: RGB, option: str, expected: str) -> tuple[float, float]:
    """The (x, y) that 'X,Y' says, in pixels of the query image; its border pixels count to their outer edge.

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
