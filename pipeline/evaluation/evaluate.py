"""Matches and the manifest's truth to METRICS: PCK under named protocols, without running a model again."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation import pck_sums
from pipeline.evaluation.bootstrap import REPLICATES, Draws, draws
from pipeline.evaluation.groups import Group, Scope, Tallies, groupable, subsets, tally_groups
from pipeline.evaluation.keypoint_errors import Failed, directions_to_score, score, without_keypoints
from pipeline.evaluation.metrics import load_metrics as load_metrics
from pipeline.evaluation.metrics import per_category as per_category
from pipeline.evaluation.protocols import Protocol
from schemas.metrics import METRICS

DEFAULT_ALPHAS = (0.01, 0.03, 0.05, 0.1, 0.15)
LARGE = 1_000_000
"""From so many pairs on pipeline.evaluation.evaluate_on_ray is for them; below, one process is faster."""


def evaluate(
    matches: pa.Table,
    pairs: pa.Table,
    protocols: Sequence[Protocol],
    alphas: Sequence[float] = DEFAULT_ALPHAS,
    failed: Failed = "wrong",
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> pa.Table:
    """METRICS of the matches: per dataset, protocol, direction, subset and alpha; overall, per group and per pair.

    matches: MATCHES rows of one matcher, at most one per pair and direction, with at least the columns
        pipeline.evaluation.keypoint_errors.MATCH_COLUMNS.
    pairs: PAIRS rows without inline images; pairs they lack are not scored, whatever the matches hold.
    alphas: thresholds as a share of the protocol's T, each above 0.
    failed: whether pairs that failed or are missing count as wrong or are excluded; `n_failed` counts them anyway.
    replicates, seed: of the bootstrap that the intervals come from; 0 replicates for no intervals.
    `n_pairs` and `n_points` count what the averages are over; where that is nothing, PCK is 0. Subset leak_free holds
    the pairs known not to be seen in training, and exists where the manifest knows of any pair.
    Raises ValueError if no protocol or no usable alpha is given, matches are of several matchers, a protocol's
    direction is absent, matches answer other pairs or points than the manifest holds, or a pair lacks what T needs.
    """
    check(protocols, alphas)
    fingerprints = check_matches(matches, pairs)
    measures = Measures(
        directions=directions_to_score(pc.unique(matches["direction"]).to_pylist(), protocols),
        alphas=tuple(sorted(set(alphas))),
        failed=failed,
    )
    pairs = pairs.take(pc.sort_indices(pairs["pair_id"]))  # sums depend on their order in the last digits
    tallies, of_pairs = measure(matches, pairs, draws(pairs, seed, replicates), measures)
    rows = [METRICS.empty_table(), *summary_rows(tallies, measures), *of_pairs]
    said = about(fingerprints, measures, replicates, seed)
    return pa.concat_tables(rows).replace_schema_metadata({**METRICS.metadata, **said})


def check(protocols: Sequence[Protocol], alphas: Sequence[float]) -> None:
    """Raises ValueError if there is nothing to measure."""
    if not protocols:
        raise ValueError("name at least one protocol")
    names = [protocol.name for protocol in dict.fromkeys(protocols)]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two protocols are called {', '.join(sorted(repeated))}; give each a name of its own")
    if not alphas or not all(0 < alpha < np.inf for alpha in alphas):
        raise ValueError(f"alphas must be numbers above 0, such as 0.1; got {list(alphas)}")


NO_PAIR_ANSWERED = "the matches answer none of the manifest's pairs: is it the manifest that was matched?"


def check_matches(matches: pa.Table, pairs: pa.Table) -> list[str]:
    """The fingerprint of the matches, none of none.

    Raises ValueError if they are of several matchers, or answer none of the pairs.
    """
    fingerprints = sorted(pc.unique(matches["fingerprint"]).to_pylist())
    if len(fingerprints) > 1:
        raise ValueError(f"the matches are of {len(fingerprints)} matchers, score one at a time: {fingerprints}")
    if matches.num_rows and not left_out(matches, pairs).n_answered:
        raise ValueError(NO_PAIR_ANSWERED)
    return fingerprints


@dataclass(frozen=True)
class LeftOut:
    """What is in no average, and how many pairs have a match at all, good or bad."""

    n_answered: int
    n_without_keypoints: int
    """Pairs."""
    n_foreign: int
    """Matches of pairs that the manifest does not hold."""


def left_out(matches: pa.Table, pairs: pa.Table) -> LeftOut:
    """Counted over MATCHES and PAIRS rows."""
    return LeftOut(
        n_answered=pc.sum(pc.is_in(pairs["pair_id"], matches["pair_id"])).as_py() or 0,
        n_without_keypoints=without_keypoints(pairs),
        n_foreign=pc.sum(pc.invert(pc.is_in(matches["pair_id"], pairs["pair_id"]))).as_py() or 0,
    )


@dataclass(frozen=True, kw_only=True)
class Measures:
    """What is measured."""

    directions: dict[Protocol, list[str]]
    alphas: tuple[float, ...]
    failed: Failed


def measure(matches: pa.Table, pairs: pa.Table, drawn: Draws, measures: Measures) -> tuple[Tallies, list[pa.Table]]:
    """The tallies of the pairs' groups, which can be added to those of other pairs, and METRICS rows of the pairs."""
    manifest = groupable(pairs)
    tallies: Tallies = {}
    of_pairs = []
    for protocol, directions in measures.directions.items():
        for direction in directions:
            scores = score(matches, pairs, protocol, direction)
            sums = pck_sums.pair_sums(scores, measures.alphas, measures.failed)
            for dataset, subset, chosen in subsets(manifest):
                scope = (dataset, protocol.name, direction, subset)
                chosen = chosen & (scores.n_points > 0)
                tallies[scope] = tally_groups(manifest[chosen], sums[chosen], drawn.of(chosen))
                of_pairs.append(_pair_rows(scope, manifest[chosen], sums[chosen], measures.alphas))
    return tallies, of_pairs


def about(fingerprints: Sequence[str], measures: Measures, replicates: int, seed: int) -> dict[bytes, bytes]:
    """What a METRICS file says of itself beside its schema's name and version."""
    return {
        b"fingerprint": "".join(fingerprints).encode(),
        b"failed": measures.failed.encode(),
        b"protocols": json.dumps([asdict(protocol) for protocol in measures.directions]).encode(),
        b"bootstrap": json.dumps({"replicates": replicates, "seed": seed}).encode(),
    }


def summary_rows(tallies: Tallies, measures: Measures) -> list[pa.Table]:
    """METRICS of all groups."""
    return [_rows_of(scope, of_groups, measures.alphas) for scope, of_groups in tallies.items()]


def _rows_of(scope: Scope, of_groups: dict[Group, pck_sums.Tally], alphas: Sequence[float]) -> pa.Table:
    categories = [of for (kind, _), of in of_groups.items() if kind == "category"]
    named = dict(zip(METRICS.names, scope, strict=False))
    rows = []
    for (kind, name), of in of_groups.items():
        averages = {"pck_image": pck_sums.image_average(of), "pck_point": pck_sums.point_average(of)}
        if kind == "all" and categories:
            averages["pck_class_mean"] = pck_sums.class_mean(categories)
        n_pairs, n_points, n_failed = pck_sums.counts(of)
        columns: dict[str, np.ndarray] = {}
        for column, percents in averages.items():
            low, high = pck_sums.interval(percents) if n_pairs > 1 else np.full((2, len(alphas)), np.nan)
            columns |= {column: percents[0], f"{column}_low": low, f"{column}_high": high}
        for number, alpha in enumerate(alphas):
            values = {column: _present(column, values[number]) for column, values in columns.items()}
            counts = {"n_pairs": n_pairs, "n_points": n_points, "n_failed": n_failed}
            rows.append({**named, "alpha": alpha, "group_kind": kind, "group": name, **counts, **values})
    return pa.Table.from_pylist(rows, METRICS)


def _pair_rows(scope: Scope, manifest: pd.DataFrame, sums: np.ndarray, alphas: Sequence[float]) -> pa.Table:
    """METRICS of single pairs, which have no intervals."""
    (n_pairs, n_points, n_failed), percents = pck_sums.of_pairs(sums)
    tables = []
    for percent, alpha in zip(percents.T, alphas, strict=True):
        columns = {
            **{name: _repeated(value, len(sums)) for name, value in zip(METRICS.names, scope, strict=False)},
            "alpha": np.full(len(sums), alpha),
            "group_kind": _repeated("pair", len(sums)),
            "group": pa.array(manifest["pair"], pa.string()),
            **{"n_pairs": n_pairs, "n_points": n_points, "n_failed": n_failed},
            **{"pck_image": percent, "pck_point": percent},
        }
        absent = {name: pa.nulls(len(sums), METRICS.field(name).type) for name in METRICS.names if name not in columns}
        table = pa.table(columns | absent).select(METRICS.names)
        tables.append(pa.Table.from_arrays(table.columns, schema=METRICS))
    return pa.concat_tables(tables)


def _present(column: str, percent: float) -> float | None:
    """Nothing to average over is 0 where METRICS always has a number, and null elsewhere."""
    if np.isfinite(percent):
        return float(percent)
    return None if METRICS.field(column).nullable else 0.0


def _repeated(value: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), count)
