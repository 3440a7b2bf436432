"""Two runs over the same pairs: the difference of their PCK, with an interval that knows they are the same pairs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation import pck_sums
from pipeline.evaluation.bootstrap import REPLICATES, draws
from pipeline.evaluation.evaluate import DEFAULT_ALPHAS, check, check_matches
from pipeline.evaluation.groups import Group, groupable, subsets, tally_groups
from pipeline.evaluation.keypoint_errors import Failed, directions_to_score, score
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
    check(protocols, alphas)
    for run in (matches, others):
        check_matches(run, pairs)
    alphas = sorted(set(alphas))
    pairs = pairs.take(pc.sort_indices(pairs["pair_id"]))
    manifest, drawn = groupable(pairs), draws(pairs, seed, replicates)
    rows: list[dict[str, object]] = []
    mine, theirs = (
        directions_to_score(pc.unique(run["direction"]).to_pylist(), protocols) for run in (matches, others)
    )
    for protocol in mine:
        common = [direction for direction in mine[protocol] if direction in theirs[protocol]]
        if not common:
            raise ValueError(f"protocol {protocol.name}: the runs have no direction in common, so nothing to compare")
        for direction in common:
            scored = [score(table, pairs, protocol, direction) for table in (matches, others)]
            usable = (scored[0].n_points > 0) & (scored[1].n_points > 0)
            if failed == "exclude":
                usable &= ~(scored[0].failed | scored[1].failed)
            sums = [pck_sums.pair_sums(scores, alphas, failed) for scores in scored]
            for dataset, subset, chosen in subsets(manifest):
                here = chosen & usable
                tallies = [tally_groups(manifest[here], each[here], drawn.of(here)) for each in sums]
                named = {"dataset": dataset, "protocol": protocol.name, "direction": direction, "subset": subset}
                for kind, group in tallies[0]:
                    found = _differences(tallies[0], tallies[1], (kind, group), alphas)
                    rows += [{**named, "group_kind": kind, "group": group, **row} for row in found]
    return pd.DataFrame(rows)


def _differences(
    mine: dict[Group, pck_sums.Tally],
    theirs: dict[Group, pck_sums.Tally],
    key: Group,
    alphas: Sequence[float],
) -> list[dict[str, object]]:
    of, other = mine[key], theirs[key]
    n_pairs, n_points, n_failed = pck_sums.counts(of)
    if not n_pairs:
        return []
    averages = {name: (average(of), average(other)) for name, average in _AVERAGES.items()}
    if key == ("all", "all"):
        classes = ([found for (kind, _), found in run.items() if kind == "category"] for run in (mine, theirs))
        mean, mean_other = (pck_sums.class_mean(of_categories) for of_categories in classes)
        averages["class"] = (mean, mean_other)
    counted = {
        "n_pairs": n_pairs,
        "n_points": n_points,
        "n_failed": n_failed,
        "n_failed_other": pck_sums.counts(other)[2],
    }
    rows: list[dict[str, object]] = []
    for average, (pck, pck_other) in averages.items():
        low, high = pck_sums.interval(pck_other - pck) if n_pairs > 1 else np.full((2, len(alphas)), np.nan)
        for number, alpha in enumerate(alphas):
            values = {
                "pck": pck[0, number],
                "pck_other": pck_other[0, number],
                "difference": pck_other[0, number] - pck[0, number],
                "difference_low": low[number],
                "difference_high": high[number],
            }
            rows.append({"average": average, "alpha": alpha, **counted, **values})
    return rows
