"""METRICS: PCK of the matches under a named protocol. One row is one group at one alpha.

`group_kind` is all, category, level, objects, object_share, pair, mirror_case, azimuth_difference or a SPair-71k
nuisance, `group` the name of the group; pairs of two categories are of the category 'source -> target'; objects is one
or several, as the images have of the category; object_share is of the longest side of the object's box in the reference
image, as a share of that of the image, and has no pair without a match, whose image size is not known; a mirror_case is
a group of keypoints (see pipeline.evaluation.mirror_cases). Exactly one row per dataset, protocol, direction, subset
and alpha has `group_kind = group = 'all'`. PCK values are percent, 0..100: `pck_image` averages the pairs' own
percentages, `pck_point` averages over all keypoints, `pck_class_mean` is the unweighted mean of the categories'
`pck_image`. `_low` and `_high` are the ends of a 95 % bootstrap interval (see pipeline.evaluation.bootstrap), null for
single pairs and without a bootstrap.

Under a protocol about flow the points are the pixels whose true flow is known, and PCK is FAcc.

Other measures are percent of the same points, averaged over images or over points; null where the protocol, the
manifest or the matches do not give them:

    ceiling     points that the nearest place of the matcher's answer grid would get right
    jitter      farther than alpha T from the truth, but not farther than 2 alpha T
    miss        no keypoint of the target is within alpha T
    swap        within alpha T of another keypoint of the target, which is the nearest; jitter may be miss or swap too
    twin        within alpha T of the twin of the truth, such as the right ear for the left one, and not of the truth
    both        within alpha T of the truth and of its twin; twin and both count keypoints whose twin is labelled

`kap` is the keypoint average precision, percent, of the group's scores (see pipeline.evaluation.kap), also of pairs
without a common keypoint, which are in no other number; of group all the mean of the categories'. Null but under a
protocol with KAP, at an alpha of schemas.matches.SCORE_ALPHAS.
"""

import pyarrow as pa

MEASURES = ("ceiling", "jitter", "miss", "swap", "twin", "both")
"""Shares of points other than PCK, each with the columns MEASURE_image and MEASURE_point."""

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
        *(pa.field(f"{measure}_{average}", pa.float64()) for measure in MEASURES for average in ("image", "point")),
        pa.field("kap", pa.float64()),
    ],
    metadata={"table": "METRICS", "schema_version": "2"},
)
