"""Arrow types the tables share. Coordinates are x before y, in pixels, (0, 0) at the centre of the top-left pixel."""

import pyarrow as pa

POINTS_XY = pa.list_(pa.list_(pa.float32(), 2))
"""K points (x, y)."""

BOX_XYXY = pa.list_(pa.float32(), 4)
"""One box (x_min, y_min, x_max, y_max)."""

SIZE_HW = pa.list_(pa.int32(), 2)
"""Image size (height, width) after EXIF orientation."""
