"""PAIRS: the manifest. One row is one pair of images with its annotations.

An image is either a URI (absolute, or relative to the image root given to the job) or inline encoded bytes.
`source_xy_px[k]` and `target_xy_px[k]` are the same keypoint; data sets whose annotations are 1-based stay as
published. Nuisance levels are SPair-71k's: viewpoint and scale 0 easy, 1 medium, 2 hard; truncation and occlusion
0 none, 1 source, 2 target, 3 both; null where the annotation does not say.

What only some protocols read, null where a data set does not have it:

    target_category         the target's category where it differs from `category`, which is then the source's
    level                   how far apart the two are: intra-species, cross-species, cross-family, ...
    SIDE_visibility         one number per keypoint of the pair, as in COCO: 1 labelled but hidden, 2 visible
    SIDE_all_xy_px, SIDE_all_keypoint_id
                            every labelled keypoint of the image's object, also those that the other image lacks
    mirror_keypoint_ids     the ids that are each other's mirror image, [left, right] each
    geometry_groups         lists of ids that look alike and are told apart only by where they are on the object
    target_valid_xy_px      for each keypoint all points of the target image that count as its match
    azimuth_difference      steps of 45 degrees between the objects' azimuths, 0 to 4
    keypoint_probability    for each keypoint of the pair the probability that it is right, 0..1, of points that a
                            matcher found; null for annotated ones
    SIDE_other_boxes_xyxy   the boxes of the image's other objects of the same category; empty where it is the only one
    mirrored                one of the two objects is the mirror image of what it would be in the other's pose
    SIDE_flow_uri           true flow on the image's grid, pointing into the other image, in `flow_format`
    SIDE_mask_uri           mask of the image's object, not 0 inside

SIDE is source or target. `flow_format` is one of FLOW_FORMATS.
"""

import pyarrow as pa

from schemas.types import BOX_XYXY, POINTS_XY

FLOW_FORMATS = ("flo",)
"""flo: Middlebury's, little-endian: float32 202021.25, int32 width and height, then float32 (u, v) row by row; 1e9 or
more is unknown."""

_IDS = pa.list_(pa.string())

PAIRS = pa.schema(
    [
        pa.field("pair_id", pa.string(), nullable=False),
        pa.field("source_uri", pa.string()),
        pa.field("target_uri", pa.string()),
        pa.field("source_image", pa.binary()),
        pa.field("target_image", pa.binary()),
        pa.field("category", pa.string()),
        pa.field("target_category", pa.string()),
        pa.field("level", pa.string()),
        pa.field("dataset", pa.string()),
        pa.field("split", pa.string()),
        pa.field("source_xy_px", POINTS_XY),
        pa.field("target_xy_px", POINTS_XY),
        pa.field("keypoint_id", _IDS),
        pa.field("keypoint_probability", pa.list_(pa.float32())),
        pa.field("source_visibility", pa.list_(pa.int8())),
        pa.field("target_visibility", pa.list_(pa.int8())),
        pa.field("source_all_xy_px", POINTS_XY),
        pa.field("source_all_keypoint_id", _IDS),
        pa.field("target_all_xy_px", POINTS_XY),
        pa.field("target_all_keypoint_id", _IDS),
        pa.field("mirror_keypoint_ids", pa.list_(_IDS)),
        pa.field("geometry_groups", pa.list_(_IDS)),
        pa.field("target_valid_xy_px", pa.list_(POINTS_XY)),
        pa.field("source_box_xyxy", BOX_XYXY),
        pa.field("target_box_xyxy", BOX_XYXY),
        pa.field("source_other_boxes_xyxy", pa.list_(BOX_XYXY)),
        pa.field("target_other_boxes_xyxy", pa.list_(BOX_XYXY)),
        pa.field("viewpoint_variation", pa.int8()),
        pa.field("scale_variation", pa.int8()),
        pa.field("truncation", pa.int8()),
        pa.field("occlusion", pa.int8()),
        pa.field("azimuth_difference", pa.int8()),
        pa.field("mirrored", pa.bool_()),
        pa.field("source_flow_uri", pa.string()),
        pa.field("target_flow_uri", pa.string()),
        pa.field("flow_format", pa.string()),
        pa.field("source_mask_uri", pa.string()),
        pa.field("target_mask_uri", pa.string()),
        pa.field("seen_in_training", pa.bool_()),
    ],
    metadata={"table": "PAIRS", "schema_version": "4"},
)
