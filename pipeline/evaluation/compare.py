"""Two runs over the same pairs: the difference of their PCK, with the interval of paired samples."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation import pck_sums
from pipeline.evaluation.bootstrap import REPLICATES, bootstrap_weights
from pipeline.evaluation.evaluate import DEFAULT_ALPHAS, check_matches, check_protocols
from pipeline.evaluation.flow_errors import errors_under
from pipeline.evaluation.groups import Group, SumsByGroup, group_columns, subsets, sum_groups, with_object_share
from pipeline.evaluation.keypoint_errors import Failed, directions_to_score
from pipeline.evaluation.protocols import Protocol

_AVERAGES = {"image": pck_sums.image_average, "point": pck_sums.point_average}


def compare(
    matches: pa.Table,
    others: pa.Table,
    pairs: pa.Table,
    protocols: Sequence[Protocol],
    alphas: Sequence[float] = DEFAULT_ALPHAS,
    failed: Failed = "wrong",
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pd.DataFrame:
    """One row per data set, protocol, direction, subset, group, average and alpha: both runs' PCK and the difference.

    matches, others: as evaluate takes them. failed: where failed pairs are excluded, those of either run are.
    Columns: dataset, protocol, direction, subset, group_kind, group, average ('image', 'point', 'class'), alpha,
    n_pairs, n_points, n_failed, n_failed_other, pck, pck_other, difference = pck_other - pck, and difference_low and
    difference_high, the ends of its 95 % interval: both runs are averaged over the same bootstrap replicates.
    Raises ValueError as evaluate does, and where the runs have no direction in common.
    """
    check_protocols(protocols, alphas)
    for run in (matches, others):
        check_matches(run, pairs)
    alphas = sorted(set(alphas))
    pairs = pairs.take(pc.sort_indices(pairs["pair_id"]))
    columns, weights = group_columns(pairs), bootstrap_weights(pairs, seed, replicates)
    rows: list[dict[str, object]] = []
    directions, other_directions = (
        directions_to_score(pc.unique(run["direction"]).to_pylist(), protocols) for run in (matches, others)
    )
    for protocol in directions:
        common = [direction for direction in directions[protocol] if direction in other_directions[protocol]]
        if not common:
            raise ValueError(f"protocol {protocol.name}: the runs have no direction in common, so nothing to compare")
        for direction in common:
            columns = with_object_share(columns, matches, pairs, direction)
            errors, other_errors = (errors_under(run, pairs, protocol, direction, alphas) for run in (matches, others))
            usable = (errors.n_points > 0) & (other_errors.n_points > 0)
            if failed == "exclude":
                usable &= ~(errors.failed | other_errors.failed)
            sums, other_sums = (pck_sums.pair_sums(run, alphas, failed) for run in (errors, other_errors))
            for dataset, subset, mask in subsets(columns):
                kept = mask & usable
                by_group, other_by_group = (
                    sum_groups(columns[kept], run[kept], weights.select(kept)) for run in (sums, other_sums)
                )
                scope = {"dataset": dataset, "protocol": protocol.name, "direction": direction, "subset": subset}
                for kind, group in by_group:
                    differences = _differences(by_group, other_by_group, (kind, group), alphas)
                    rows += [{**scope, "group_kind": kind, "group": group, **row} for row in differences]
    return pd.DataFrame(rows)


def _differences(
    by_group: SumsByGroup, other_by_group: SumsByGroup, key: Group, alphas: Sequence[float]
) -> list[dict[str, object]]:
    """The rows of one group, by average and alpha, without the columns that name it; none for a group without pairs."""
    sums, other_sums = by_group[key], other_by_group[key]
    n_pairs, n_points, n_failed = pck_sums.counts(sums)
    if not n_pairs:
        return []
    averages = {name: (average(sums), average(other_sums)) for name, average in _AVERAGES.items()}
    if key == ("all", "all"):
        averages["class"] = (_class_mean(by_group), _class_mean(other_by_group))
    counts = {
        "n_pairs": n_pairs,
        "n_points": n_points,
        "n_failed": n_failed,
        "n_failed_other": pck_sums.counts(other_sums)[2],
    }
    rows: list[dict[str, object]] = []
    for average, (pck, pck_other) in averages.items():
        low, high = pck_sums.interval(pck_other - pck) if n_pairs > 1 else np.full((2, len(alphas)), np.nan)
        for index, alpha in enumerate(alphas):
            values = {
                "pck": pck[0, index],
                "pck_other": pck_other[0, index],
                "difference": pck_other[0, index] - pck[0, index],
                "difference_low": low[index],
                "difference_high": high[index],
            }
            rows.append({"average": average, "alpha": alpha, **counts, **values})
    return rows


def _class_mean(by_group: SumsByGroup) -> pck_sums.Percents:
    return pck_sums.class_mean([sums for (kind, _), sums in by_group.items() if kind == "category"])
