"""PAIRS version 1 and MATCHES version 2, which have lists of a fixed size."""

import pyarrow as pa

_POINTS = pa.list_(pa.list_(pa.float32(), 2))
_TYPES = {
    **dict.fromkeys(("source_xy_px", "target_xy_px", "query_xy_px", "reference_xy_px"), _POINTS),
    **dict.fromkeys(("source_box_xyxy", "target_box_xyxy"), pa.list_(pa.float32(), 4)),
    **dict.fromkeys(("query_hw", "reference_hw", "flow_hw"), pa.list_(pa.int32(), 2)),
}
_LATER = {
    *("target_category", "level", "source_visibility", "target_visibility"),
    *("source_all_xy_px", "source_all_keypoint_id", "target_all_xy_px", "target_all_keypoint_id"),
    *("mirror_keypoint_ids", "geometry_groups", "target_valid_xy_px", "azimuth_difference", "mirrored"),
    *("keypoint_probability", "point_margin"),
    *("source_other_boxes_xyxy", "target_other_boxes_xyxy"),
    *("source_flow_uri", "target_flow_uri", "flow_format", "source_mask_uri", "target_mask_uri"),
    *("answer_grid_hw", "scored_keypoint_id", "score_inside", "score_outside", "score_lowest"),
}


def as_earlier(schema: pa.Schema) -> pa.Schema:
    """The schema of PAIRS version 1 or of MATCHES version 2."""
    fields = [field.with_type(_TYPES.get(field.name, field.type)) for field in schema if field.name not in _LATER]
    version = {b"PAIRS": b"1", b"MATCHES": b"2"}[schema.metadata[b"table"]]
    return pa.schema(fields, metadata={**schema.metadata, b"schema_version": version})
