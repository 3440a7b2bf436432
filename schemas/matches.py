"""MATCHES: the predictions of a matcher. One row is one pair in one direction, matched or failed with a reason.

`query` has the points and the grid of the flow, `reference` is searched: for direction `source_to_target` the query is
the pair's source image, for `target_to_source` its target image.

A row with status `error` has a failure instead (schemas.failures): its stage, kind and message.

Flow is fixed point, each row as its difference from the one above, so that it is small and readable anywhere:

    shape = (*row.flow_hw, 2)
    raw = pyarrow.decompress(row.flow, int(numpy.prod(shape)) * 2, codec="zstd")
    rises = numpy.frombuffer(raw, row.flow_dtype).reshape(shape)
    flow_px = rises.cumsum(axis=0, dtype=row.flow_dtype) * row.flow_scale

`flow_px[y, x]` is the displacement (dx, dy) from query pixel (x, y) to its match in the reference image, exact to
half of `flow_scale`. `flow_confidence` is zstd-compressed uint8 of shape `flow_hw`, 0..255 for 0..1.

`point_margin` (output `margin`) is the matcher's best score within MARGIN_RADIUS of the reference's longest side round
the answer, less its best score farther away, in the matcher's own scores; the greater, the surer.

A confidence is the probability that an answer is within 0.1 T of the true place, T being the longest side of the
object's box in the reference image (nemf/calibration.py). Matchers of your own may mean something else by it, and
identity always says 1.

`answer_grid_hw`: the matcher's answers are centres of cells of this many rows and columns over the reference image;
null for a matcher that answers with any point.

`scored_keypoint_id` are the ids of all labelled keypoints of the query image, also those that the reference lacks
(output `scores`). `score_inside[k]` are the matcher's best scores within each radius of SCORE_ALPHAS around the true
match of keypoint k, and at the place nearest to it, however far that is; null where the reference lacks it.
`score_outside[k]` are the best ones everywhere else, of all where the reference lacks it; null where that is nowhere.
`score_lowest` is the lowest score of the pair. Scores are rounded to float16; the greater, the surer.
"""

import pyarrow as pa

from schemas.types import POINTS_XY, SIZE_HW

SCORE_ALPHAS = (0.01, 0.05, 0.1)
"""The radii of `score_inside` and `score_outside`: shares of the longest side of the reference's box."""
MARGIN_RADIUS = 0.06
"""The radius of `point_margin`: a share of the longest side of the reference image."""
SCORES = pa.list_(pa.list_(pa.float32()))
"""For each point a number per radius of SCORE_ALPHAS."""

DIRECTIONS = ("source_to_target", "target_to_source")
"""The values of column direction: source_to_target if the source image is the query, target_to_source otherwise."""

MATCHES = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("direction", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("status", pa.string(), nullable=False),  # ok | error
        pa.field("error_stage", pa.string()),  # one of schemas.failures.ERROR_STAGES
        pa.field("error_kind", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("query_hw", SIZE_HW),
        pa.field("reference_hw", SIZE_HW),
        pa.field("query_xy_px", POINTS_XY),
        pa.field("reference_xy_px", POINTS_XY),
        pa.field("point_confidence", pa.list_(pa.float32())),
        pa.field("point_cycle_error_px", pa.list_(pa.float32())),
        pa.field("point_margin", pa.list_(pa.float32())),
        pa.field("answer_grid_hw", SIZE_HW),
        pa.field("scored_keypoint_id", pa.list_(pa.string())),
        pa.field("score_inside", SCORES),
        pa.field("score_outside", SCORES),
        pa.field("score_lowest", pa.float32()),
        pa.field("flow", pa.binary()),
        pa.field("flow_hw", SIZE_HW),
        pa.field("flow_dtype", pa.string()),
        pa.field("flow_scale", pa.float64()),
        pa.field("flow_confidence", pa.binary()),
        pa.field("matcher", pa.string(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("milliseconds", pa.struct([("decode", pa.float32()), ("match", pa.float32())])),
        pa.field("worker", pa.string()),
    ],
    metadata={"table": "MATCHES", "schema_version": "5"},
)

RESULT_COLUMNS = tuple(name for name in MATCHES.names if name not in ("attempt", "worker", "milliseconds"))
"""The columns that two runs over the same pairs with the same fingerprint agree on, row for row."""


def directions_of(direction: str) -> tuple[str, ...]:
    """The members of DIRECTIONS that the option value 'source_to_target', 'target_to_source' or 'both' names."""
    return DIRECTIONS if direction == "both" else (direction,)


def sides_of(direction: str) -> tuple[str, str]:
    """The sides of the pair, 'source' and 'target', that are query and reference in a direction."""
    query, reference = direction.split("_to_")
    return query, reference
