"""PAIRS version 1 and MATCHES version 2, which have lists of a fixed size."""

import pyarrow as pa

_POINTS = pa.list_(pa.list_(pa.float32(), 2))
_TYPES = {
    **dict.fromkeys(("source_xy_px", "target_xy_px", "query_xy_px", "reference_xy_px"), _POINTS),
    **dict.fromkeys(("source_box_xyxy", "target_box_xyxy"), pa.list_(pa.float32(), 4)),
    **dict.fromkeys(("query_hw", "reference_hw", "flow_hw"), pa.list_(pa.int32(), 2)),
}


def as_earlier(schema: pa.Schema) -> pa.Schema:
    """The schema of PAIRS or MATCHES in the version before."""
    fields = [field.with_type(_TYPES.get(field.name, field.type)) for field in schema]
    version = str(int(schema.metadata[b"schema_version"]) - 1)
    return pa.schema(fields, metadata={**schema.metadata, b"schema_version": version.encode()})
