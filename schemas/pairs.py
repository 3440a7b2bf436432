"""PAIRS: the manifest. One row is one pair of images with its annotations.

An image is either a URI (absolute, or relative to the image root given to the job) or inline encoded bytes.
`source_xy_px[k]` and `target_xy_px[k]` are the same keypoint; data sets whose annotations are 1-based stay as
published. Nuisance levels are SPair-71k's: viewpoint and scale 0 easy, 1 medium, 2 hard; truncation and occlusion
0 none, 1 source, 2 target, 3 both; null where the annotation does not say.
"""

import pyarrow as pa

from schemas.types import BOX_XYXY, POINTS_XY

PAIRS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("source_uri", pa.string()),
        pa.field("target_uri", pa.string()),
        pa.field("source_image", pa.binary()),
        pa.field("target_image", pa.binary()),
        pa.field("category", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("split", pa.string()),
        pa.field("source_xy_px", POINTS_XY),
        pa.field("target_xy_px", POINTS_XY),
        pa.field("keypoint_id", pa.list_(pa.string())),
        pa.field("source_box_xyxy", BOX_XYXY),
        pa.field("target_box_xyxy", BOX_XYXY),
        pa.field("viewpoint_variation", pa.int8()),
        pa.field("scale_variation", pa.int8()),
        pa.field("truncation", pa.int8()),
        pa.field("occlusion", pa.int8()),
        pa.field("seen_in_training", pa.bool_()),
    ],
    metadata={"table": "PAIRS", "schema_version": "2"},
)
