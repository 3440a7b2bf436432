"""Draw the matching field of one point: its score at every position of the other image.

    nemf field a.jpg b.jpg --point 120,80 --out field.png

Draws the first image with the point, contours of the score over the second image, and the score as a surface; prints
the point of the highest score on the grid that was drawn, the point that the matcher predicts, and its confidence.
Takes seconds.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import tyro

from jobs.command import MatcherName, run_command
from pipeline.io.images import read_image
from pipeline.io.storage import refuse_overwrite, write_bytes
from pipeline.io.uri_field import Uri

_RESOLUTION_RANGE = (2, 2048)
_MATCHER_HELP = "A NeMF network: nemf-small, or the path or URI of a checkpoint folder. Options follow a '?'."


@dataclass(frozen=True, kw_only=True)
class Config:
    """The images and the point, the matcher, the resolution and the output file."""

    query: tyro.conf.Positional[Uri]
    """Image that has the point, path or URI."""
    reference: tyro.conf.Positional[Uri]
    """Image to score, path or URI."""
    point: Annotated[str, tyro.conf.arg(metavar="X,Y")]
    """Point in pixels of the query image, 0,0 being the centre of its top-left pixel."""
    out: Uri
    """Image file (.png, .jpg, .svg, ...) to draw into, path or URI."""
    matcher: Annotated[MatcherName, tyro.conf.arg(help=_MATCHER_HELP)] = "nemf-small"
    resolution: int = 256
    """Scores along the longer side of the reference image."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""


def run(config: Config) -> None:
    """Score, match, draw, print."""
    # these import torch and matplotlib, which take two seconds
    import torch

    from jobs.points import parse_point
    from nemf.load import load_matcher
    from nemf.matchers.nemf import NemfMatcher
    from pipeline.matching.options import THREADS
    from pipeline.visualization.field import ScoredPoint, draw_field, encode_figure, format_of, highest_score

    image_format = format_of(config.out)
    refuse_overwrite(config.out, config.query, config.reference)
    low, high = _RESOLUTION_RANGE
    if not low <= config.resolution <= high:
        raise ValueError(f"--resolution must be {low} to {high}; got {config.resolution}")
    query_rgb, reference_rgb = read_image(config.query), read_image(config.reference)
    query_xy_px = parse_point(config.point, query_rgb, "--point", "X,Y such as 120,80")
    torch.set_num_threads(THREADS)
    matcher = load_matcher(config.matcher, device=config.device)
    if not isinstance(matcher, NemfMatcher):
        raise ValueError(
            f"--matcher {config.matcher} has no matching field to draw: give a NeMF network, by its name or folder"
        )

    reference_hw = reference_rgb.shape[0], reference_rgb.shape[1]
    height, width = (max(low, round(config.resolution * side / max(reference_hw))) for side in reference_hw)
    scores = matcher.score_map(query_rgb, reference_rgb, query_xy_px, (height, width))
    best = highest_score(scores, reference_hw)
    match = matcher.match(query_rgb, reference_rgb, [query_xy_px])
    x_px, y_px = match.reference_xy_px[0].tolist()
    score = matcher.scores(query_rgb, reference_rgb, query_xy_px, match.reference_xy_px).item()
    matched = ScoredPoint(x_px, y_px, score)
    figure = draw_field(query_rgb, reference_rgb, query_xy_px, scores, matched)
    write_bytes(config.out, encode_figure(figure, image_format))

    print(f"{'':21} {'x':>8} {'y':>8}    score")
    print(f"{'query':21} {query_xy_px[0]:8.1f} {query_xy_px[1]:8.1f}")
    for label, point in ((f"highest of {width} x {height}", best), ("found by the matcher", matched)):
        print(f"{label:21} {point.x_px:8.1f} {point.y_px:8.1f}   {point.score:6.4f}")
    print(f"confidence, the probability that it is right: {match.point_confidence.item():.2f}")
    print(f"drawn: {config.out}")


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
