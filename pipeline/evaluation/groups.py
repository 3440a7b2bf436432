"""The groups of pairs that PCK is averaged over: data sets and their subsets, categories, levels of difficulty."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int64

from pipeline.evaluation.bootstrap import BootstrapWeights
from pipeline.evaluation.pck_sums import PCKSums, group_sums
from schemas.matches import sides_of

NUISANCES = ("viewpoint_variation", "scale_variation", "truncation", "occlusion")
"""Columns of PAIRS with SPair-71k's nuisances, each level of which is a group."""

LEVELS = ("level", "azimuth_difference")
"""Columns of PAIRS each value of which is a group; pairs without one are in none."""

OBJECTS = ("one", "several")
"""Groups of kind objects: pairs whose images have one object of the category each, and those with more in either."""

OBJECT_SHARES = ("0 to 30 %", "30 to 60 %", "60 to 100 %")
"""Groups of kind object_share: the longest side of the object's box in the reference image, of the image's."""
_SHARE_LIMITS = (0.3, 0.6)

Scope = tuple[str, str, str, str]
"""Dataset, protocol, direction and subset: the first columns of METRICS."""
Group = tuple[str, str]
"""Columns group_kind and group of METRICS."""
KINDS = ("category", *NUISANCES, *LEVELS, "objects", "object_share")
"""Values of group_kind apart from all and pair."""
SumsByGroup = dict[Group, PCKSums]


def group_columns(pairs: pa.Table) -> pd.DataFrame:
    """The columns that PAIRS rows are grouped by, as text; pair ids; and the leak columns.

    Null is 'unknown', and stays null in the columns of LEVELS and in objects. A pair of two categories is of
    'source -> target'.
    leak_is_known: the manifest has a value of seen_in_training; leak_free: that value is False. flip_is_known and
    without_flip: the same of mirrored.
    Raises ValueError if pair ids repeat.
    """
    repeated = pairs.num_rows - pc.count_distinct(pairs["pair_id"]).as_py()
    if repeated:
        raise ValueError(f"the manifest repeats {repeated} pair ids; every pair needs its own")
    kinds = ("dataset", "category", *NUISANCES)
    columns = {kind: pc.fill_null(pairs[kind].cast(pa.string()), "unknown") for kind in kinds}
    other = pc.fill_null(pairs["target_category"], columns["category"])
    both = pc.binary_join_element_wise(columns["category"], other, " -> ")
    columns["category"] = pc.if_else(pc.equal(columns["category"], other), columns["category"], both)
    columns |= {kind: pairs[kind].cast(pa.string()) for kind in LEVELS}
    columns["objects"] = _objects(pairs)
    columns["pair"] = pairs["pair_id"]
    columns["leak_is_known"] = pc.is_valid(pairs["seen_in_training"])
    columns["leak_free"] = pc.fill_null(pc.invert(pairs["seen_in_training"]), False)
    columns["flip_is_known"] = pc.is_valid(pairs["mirrored"])
    columns["without_flip"] = pc.fill_null(pc.invert(pairs["mirrored"]), False)
    return pa.table(columns).to_pandas()


def _objects(pairs: pa.Table) -> pa.ChunkedArray:
    """One of OBJECTS for each pair; null where it is not known."""
    n_others = [pc.list_value_length(pairs[f"{side}_other_boxes_xyxy"]) for side in ("source", "target")]
    is_alone = pc.and_kleene(*(pc.equal(count, 0) for count in n_others))
    return pc.if_else(is_alone, *OBJECTS)


def with_object_share(columns: pd.DataFrame, matches: pa.Table, pairs: pa.Table, direction: str) -> pd.DataFrame:
    """The group_columns of the pairs, and object_share in this direction: one of OBJECT_SHARES.

    Null without a box in the reference image, or without a match: matches know the size of the image.
    """
    _, reference = sides_of(direction)
    rows = matches.filter(pc.equal(matches["direction"], direction))
    image_hw = rows["reference_hw"].take(pc.index_in(pairs["pair_id"], rows["pair_id"]))
    box = [_element(pairs[f"{reference}_box_xyxy"], i) for i in range(4)]
    box_px = np.maximum(box[2] - box[0], box[3] - box[1])
    share = box_px / np.maximum(*(_element(image_hw, i) for i in range(2)))
    names = np.array(OBJECT_SHARES, object)[np.digitize(share, _SHARE_LIMITS, right=True)]
    names[~(share > 0)] = None
    return columns.assign(object_share=names)


def _element(lists: pa.ChunkedArray, index: int) -> Float64[np.ndarray, " p"]:
    """One element of each list; NaN for a null."""
    return pc.list_element(lists, index).cast(pa.float64()).to_numpy(zero_copy_only=False)


def subsets(pairs: pd.DataFrame) -> list[tuple[str, str, Bool[np.ndarray, " p"]]]:
    """(dataset, subset, mask of its pairs) of every subset to average over; pairs: their group_columns."""
    masks = []
    for dataset in sorted(pairs["dataset"].unique()):
        in_dataset = (pairs["dataset"] == dataset).to_numpy()
        masks.append((dataset, "all", in_dataset))
        if pairs["leak_is_known"][in_dataset].any():
            masks.append((dataset, "leak_free", in_dataset & pairs["leak_free"].to_numpy()))
        if pairs["flip_is_known"][in_dataset].any():
            masks.append((dataset, "without_flip", in_dataset & pairs["without_flip"].to_numpy()))
    return masks


def sum_groups(
    pairs: pd.DataFrame, sums: Float64[np.ndarray, "p columns"], weights: BootstrapWeights | None
) -> SumsByGroup:
    """The sums of group 'all' and of every category and level that has a pair.

    pairs: their group_columns with object_share. sums: of each pair, see pck_sums.pair_sums. weights: of the same
    pairs, None for sums without replicates.
    """
    rows = {(kind, name): rows for kind in KINDS for name, rows in rows_by_name(pairs[kind])}
    rows["all", "all"] = np.arange(len(sums))
    return dict(zip(rows, group_sums(sums, weights, list(rows.values())), strict=True))


def rows_by_name(names: pd.Series) -> Iterator[tuple[str, Int64[np.ndarray, " _"]]]:
    """Each distinct name, sorted, and the indices of the rows that have it; null is no name."""
    number, distinct = pd.factorize(names, sort=True)
    rows = np.argsort(number, kind="stable")[np.count_nonzero(number < 0) :]
    counts = np.bincount(number[rows])
    yield from zip(distinct, np.split(rows, np.cumsum(counts)[:-1]) if len(rows) else [], strict=True)
