"""PF-WILLOW: test_pairs.csv with imageA, imageB and ten keypoints of each, XA1..XA10, YA1..YA10, XB1.., YB1..

The category is the image's folder, the second part of its path ('car(G)'). There are no boxes.
https://www.di.ens.fr/willow/research/proposalflow
"""

from collections.abc import Iterator
from pathlib import PurePosixPath

from pipeline.datasets.common.fields import Fields
from pipeline.datasets.common.interface import (
    DataError,
    PairRow,
    Points,
    Rejected,
    SplitOptions,
    build_or_reject,
    choose_split,
)
from pipeline.datasets.common.records import CsvRow, csv_rows
from pipeline.io import storage

_KEYPOINTS = range(1, 11)
_COLUMNS = ["imageA", "imageB", *(f"{axis}{image}{k}" for image in "AB" for axis in "XY" for k in _KEYPOINTS)]


def pairs(options: SplitOptions) -> Iterator[PairRow | Rejected]:
    """Pairs in the order of the file; pair_id is made of the two image names and the category."""
    choose_split(options.split, ("test",), "PF-WILLOW")
    for row in csv_rows(storage.join(options.root, "test_pairs.csv"), _COLUMNS):
        yield build_or_reject(row.where, _pair, row, options.root)


def _pair(row: CsvRow, root: str) -> PairRow:
    fields = row.fields()
    source, target = PurePosixPath(fields.text("imageA")), PurePosixPath(fields.text("imageB"))
    if len(source.parts) < 3:
        raise DataError(
            row.where, "wrong value", f"field imageA: expected PF-dataset/CATEGORY/NAME, got {str(source)!r}"
        )
    category = source.parts[1]
    return PairRow(
        where=row.where,
        pair_id=f"{source.stem}-{target.stem}:{category}",
        source_uri=storage.join(root, str(source)),
        target_uri=storage.join(root, str(target)),
        category=category,
        split="test",
        source_xy_px=_points(fields, "A"),
        target_xy_px=_points(fields, "B"),
        keypoint_id=[str(k) for k in _KEYPOINTS],
    )


def _points(fields: Fields, image: str) -> Points:
    return [(fields.number(f"X{image}{k}"), fields.number(f"Y{image}{k}")) for k in _KEYPOINTS]
