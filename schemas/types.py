"""Arrow types the tables share. Coordinates are x before y, in pixels, (0, 0) at the centre of the top-left pixel.

Lists are plain ones, whose lengths schemas.check verifies: pyarrow up to 25 cannot read lists of a fixed size from
Parquet where one is null.
"""

import pyarrow as pa

POINTS_XY = pa.list_(pa.list_(pa.float32()))
"""K points (x, y)."""

BOX_XYXY = pa.list_(pa.float32())
"""One box (x_min, y_min, x_max, y_max)."""

SIZE_HW = pa.list_(pa.int32())
"""Image size (height, width) after EXIF orientation."""

LIST_SIZES = {
    **dict.fromkeys(("source_xy_px", "target_xy_px", "query_xy_px", "reference_xy_px"), 2),
    **dict.fromkeys(("source_all_xy_px", "target_all_xy_px", "target_valid_xy_px", "mirror_keypoint_ids"), 2),
    **dict.fromkeys(("source_box_xyxy", "target_box_xyxy"), 4),
    **dict.fromkeys(("source_other_boxes_xyxy", "target_other_boxes_xyxy"), 4),
    **dict.fromkeys(("query_hw", "reference_hw", "answer_grid_hw", "flow_hw"), 2),
}
"""Length of the innermost lists, by column."""
