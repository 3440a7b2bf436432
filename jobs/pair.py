"""Match one pair of images: print, and draw, where points of the first are in the second.

    nemf pair a.jpg b.jpg --points 10,20 30,40 --out match.png

Prints the position of each point in the second image, and draws the matches into --out. Takes seconds. The numbers
are those of `nemf match` on the same machine and device, to the last bit, if --pair-id is the manifest's pair_id.
"""

import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated

import tyro
from PIL import Image

from jobs.command import MatcherName, run_command
from pipeline.io.images import decode_image, decode_reduced, fetch_image
from pipeline.io.storage import refuse_overwrite, write_bytes
from pipeline.io.uri_field import LocalPath, Uri


@dataclass(frozen=True, kw_only=True)
class Config:
    """The images and points to match, the matcher and the output."""

    query: tyro.conf.Positional[Uri]
    """Image that has the points, path or URI."""
    reference: tyro.conf.Positional[Uri]
    """Image to find the points in, path or URI."""
    points: Annotated[tuple[str, ...], tyro.conf.arg(metavar="X,Y [X,Y ...]")] = ()
    """Points in pixels of the query image, 0,0 being the centre of its top-left pixel; by default a grid of 4 x 4."""
    out: Uri | None = None
    """Image file (.png, .jpg, ...) to draw the match into, path or URI."""
    pair_id: str = ""
    """Identity of the pair, on which the random numbers of a search depend; for a row of MATCHES, its pair_id."""
    json: bool = False
    """Print JSON instead of a table."""
    matcher: MatcherName = "nemf-small"
    backbone_weights: LocalPath | None = None
    """Local safetensors file of weights, as timm or torchvision publish them; default: the library's own."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""


def run(config: Config) -> None:
    """Match, draw, print."""
    # these import torch, which takes more than a second
    import numpy as np
    import torch

    from jobs.points import grid_points, parse_points
    from nemf.load import load_matcher
    from nemf.matcher import ImagePair, squashed_side_of
    from pipeline.matching.options import THREADS
    from pipeline.matching.reduced import Reductions, reduced_side
    from pipeline.visualization.matches import draw_match

    image_format = None
    if config.out is not None:
        image_format = _format_of(config.out)
        refuse_overwrite(config.out, config.query, config.reference)
    uris = (config.query, config.reference)
    files = [fetch_image(uri) for uri in uris]
    query_rgb, reference_rgb = (decode_image(data, uri) for data, uri in zip(files, uris, strict=True))
    query_xy_px = parse_points(config.points, query_rgb) if config.points else grid_points(query_rgb)
    torch.set_num_threads(THREADS)
    matcher = load_matcher(config.matcher, backbone_weights=config.backbone_weights, device=config.device)
    # large photographs at the scale that nemf match reads them at
    side = reduced_side(squashed_side_of(matcher), ("keypoints", "confidence"), "none")
    query, reference = (decode_reduced(data, uri, side) for data, uri in zip(files, uris, strict=True))
    reductions = Reductions(
        query_hw=query.whole_hw,
        reference_hw=reference.whole_hw,
        read_query_hw=query.rgb.shape[:2],
        read_reference_hw=reference.rgb.shape[:2],
    )
    pair = ImagePair(query_rgb=query.rgb, reference_rgb=reference.rgb, query_xy_px=query_xy_px, pair_id=config.pair_id)
    (match,) = matcher.match_batch([reductions.pair_as_read(pair)])
    reference_xy_px = reductions.in_reference(match.reference_xy_px).astype(np.float32)

    if config.out is not None:
        buffer = io.BytesIO()
        draw_match(query_rgb, reference_rgb, query_xy_px, reference_xy_px).save(buffer, image_format)
        write_bytes(config.out, buffer.getvalue())

    rows = zip(query_xy_px.tolist(), reference_xy_px.tolist(), match.point_confidence.tolist(), strict=True)
    if config.json:
        result = {
            "matcher": matcher.name,
            "fingerprint": matcher.fingerprint,
            "query_hw": query_rgb.shape[:2],
            "reference_hw": reference_rgb.shape[:2],
            "points": [
                {"query_xy_px": query, "reference_xy_px": reference, "confidence": confidence}
                for query, reference, confidence in rows
            ],
        }
        print(json.dumps(result, indent=1))
        return
    print(f"{'query x':>9} {'y':>8}    {'reference x':>11} {'y':>8}   confidence")
    for (query_x, query_y), (x, y), confidence in rows:
        print(f"{query_x:9.1f} {query_y:8.1f}    {x:11.1f} {y:8.1f}   {confidence:10.3f}")
    if config.out is not None:
        print(f"drawn: {config.out}")


def _format_of(out: str) -> str:
    suffix = PurePosixPath(out).suffix.lower()
    image_format = Image.registered_extensions().get(suffix)
    if image_format not in Image.SAVE:
        raise ValueError(f"--out {out}: {suffix or 'no suffix'!r} is no image format to write; .png is one")
    return image_format


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the command."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
