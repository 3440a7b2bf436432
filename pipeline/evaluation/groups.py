"""The groups of pairs that PCK is averaged over: data sets and their subsets, categories, nuisance levels."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation import pck_sums
from pipeline.evaluation.bootstrap import Draws

NUISANCES = ("viewpoint_variation", "scale_variation", "truncation", "occlusion")
"""SPair-71k's, whose levels are groups."""

Scope = tuple[str, str, str, str]
"""Dataset, protocol, direction and subset: the first columns of METRICS."""
Group = tuple[str, str]
"""Kind and name."""
Tallies = dict[Scope, dict[Group, pck_sums.Tally]]


def groupable(pairs: pa.Table) -> pd.DataFrame:
    """What pairs are grouped by, one text column each with 'unknown' for null; and what is known of a leak."""
    repeated = pairs.num_rows - pc.count_distinct(pairs["pair_id"]).as_py()
    if repeated:
        raise ValueError(f"the manifest repeats {repeated} pair ids; every pair needs its own")
    kinds = ("dataset", "category", *NUISANCES)
    columns = {kind: pc.fill_null(pairs[kind].cast(pa.string()), "unknown") for kind in kinds}
    columns["pair"] = pairs["pair_id"]
    columns["leak_is_known"] = pc.is_valid(pairs["seen_in_training"])
    columns["leak_free"] = pc.fill_null(pc.invert(pairs["seen_in_training"]), False)
    return pa.table(columns).to_pandas()


def subsets(manifest: pd.DataFrame) -> list[tuple[str, str, np.ndarray]]:
    """(dataset, subset, which pairs (P,) bool) of everything to summarise."""
    found = []
    for dataset in sorted(manifest["dataset"].unique()):
        here = (manifest["dataset"] == dataset).to_numpy()
        found.append((dataset, "all", here))
        if manifest["leak_is_known"][here].any():
            found.append((dataset, "leak_free", here & manifest["leak_free"].to_numpy()))
    return found


def tally_groups(manifest: pd.DataFrame, sums: np.ndarray, drawn: Draws) -> dict[Group, pck_sums.Tally]:
    """The tallies of 'all' and of every group that has a pair."""
    rows_of = {(kind, name): rows for kind in ("category", *NUISANCES) for name, rows in _groups(manifest[kind])}
    rows_of["all", "all"] = np.arange(len(sums))
    return dict(zip(rows_of, pck_sums.tally(sums, drawn, list(rows_of.values())), strict=True))


def _groups(names: pd.Series) -> Iterator[tuple[str, np.ndarray]]:
    """Each name, in order, and the rows that have it."""
    number, found = pd.factorize(names, sort=True)
    rows = np.argsort(number, kind="stable")
    yield from zip(found, np.split(rows, np.cumsum(np.bincount(number))[:-1]) if len(rows) else [], strict=True)
