"""METRICS: PCK of the matches under a named protocol. One row is one group at one alpha.

`group_kind` is all, category, pair or a SPair-71k nuisance, `group` the name of the group. Exactly one row
per dataset, protocol, direction, subset and alpha has `group_kind = group = 'all'`. PCK values are percent, 0..100:
`pck_image` averages the pairs' own percentages, `pck_point` averages over all keypoints, `pck_class_mean` is the
unweighted mean of the categories' `pck_image`. `_low` and `_high` are the ends of a 95 % bootstrap interval (see
pipeline.evaluation.bootstrap), null for single pairs and without a bootstrap.
"""

import pyarrow as pa

METRICS = pa.schema(
    [
        pa.field("dataset", pa.string(), nullable=False),
        pa.field("protocol", pa.string(), nullable=False),
        pa.field("direction", pa.string(), nullable=False),
        pa.field("subset", pa.string(), nullable=False),
        pa.field("alpha", pa.float64(), nullable=False),
        pa.field("group_kind", pa.string(), nullable=False),
        pa.field("group", pa.string(), nullable=False),
        pa.field("n_pairs", pa.int64(), nullable=False),
        pa.field("n_points", pa.int64(), nullable=False),
        pa.field("n_failed", pa.int64(), nullable=False),
        pa.field("pck_image", pa.float64(), nullable=False),
        pa.field("pck_image_low", pa.float64()),
        pa.field("pck_image_high", pa.float64()),
        pa.field("pck_point", pa.float64(), nullable=False),
        pa.field("pck_point_low", pa.float64()),
        pa.field("pck_point_high", pa.float64()),
        pa.field("pck_class_mean", pa.float64()),
        pa.field("pck_class_mean_low", pa.float64()),
        pa.field("pck_class_mean_high", pa.float64()),
    ],
    metadata={"table": "METRICS", "schema_version": "1"},
)
