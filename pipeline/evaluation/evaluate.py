"""METRICS from stored matches and the manifest's keypoints: PCK under named protocols, without running a model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64

from pipeline.evaluation import kap, pck_sums
from pipeline.evaluation.bootstrap import REPLICATES, BootstrapWeights, bootstrap_weights
from pipeline.evaluation.flow_errors import FLOW_COLUMNS, errors_under
from pipeline.evaluation.groups import Group, Scope, SumsByGroup, group_columns, subsets, sum_groups, with_object_share
from pipeline.evaluation.keypoint_errors import (
    MATCH_COLUMNS,
    Failed,
    KeypointErrors,
    count_without_keypoints,
    directions_to_score,
)
from pipeline.evaluation.metrics import load_metrics as load_metrics
from pipeline.evaluation.metrics import per_category as per_category
from pipeline.evaluation.mirror_cases import MIRROR_CASES
from pipeline.evaluation.protocols import Protocol
from schemas.matches import SCORE_ALPHAS
from schemas.metrics import METRICS

DEFAULT_ALPHAS = (0.01, 0.03, 0.05, 0.1, 0.15)
LARGE = 1_000_000
"""Minimum number of pairs evaluated by pipeline.evaluation.evaluate_on_ray; for fewer, one process is faster."""
NO_PAIR_ANSWERED = "the matches answer none of the manifest's pairs: is it the manifest that was matched?"


def evaluate(
    matches: pa.Table,
    pairs: pa.Table,
    protocols: Sequence[Protocol],
    alphas: Sequence[float] = DEFAULT_ALPHAS,
    failed: Failed = "wrong",
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    manifest_digest: str | None = None,
) -> pa.Table:
    """METRICS of the matches: per dataset, protocol, direction, subset and alpha; overall, per group and per pair.

    matches: MATCHES rows of one matcher, at most one per pair and direction, with at least the columns
        match_columns, and `matcher` if the metadata are to name it.
    pairs: PAIRS rows without inline images; pairs they lack are not evaluated, whatever the matches hold.
    alphas: thresholds as a share of the protocol's T, each above 0 and at most 1.
    failed: whether pairs that failed or are missing count as wrong or are excluded; `n_failed` counts them anyway.
    manifest_digest: of the manifest that the pairs are from, to be written down with the numbers.
    replicates, seed: of the bootstrap that the intervals come from; 0 replicates for no intervals.
    `n_pairs` and `n_points` count what the averages are over; where that is nothing, PCK is 0. Subset leak_free holds
    the pairs known not to be seen in training, without_flip those known not to be mirrored; each exists where the
    manifest knows of any pair.
    Raises ValueError if no protocol or no usable alpha is given, matches are of several matchers, a protocol's
    direction is absent, matches answer other pairs or points than the manifest holds, or a pair lacks what T needs.
    """
    check_protocols(protocols, alphas)
    fingerprints = check_matches(matches, pairs)
    spec = EvaluationSpec(
        directions=directions_to_score(pc.unique(matches["direction"]).to_pylist(), protocols),
        alphas=tuple(sorted(set(alphas))),
        failed=failed,
    )
    pairs = pairs.take(pc.sort_indices(pairs["pair_id"]))  # sums depend on their order in the last digits
    sums, pair_rows = sum_pck(matches, pairs, bootstrap_weights(pairs, seed, replicates), spec)
    rows = [METRICS.empty_table(), *summary_rows(sums, spec), *pair_rows]
    matchers = pc.unique(matches["matcher"]).to_pylist() if "matcher" in matches.column_names else []
    provenance = provenance_metadata(fingerprints, matchers, spec, replicates, seed, manifest_digest)
    return pa.concat_tables(rows).replace_schema_metadata({**METRICS.metadata, **provenance})


def match_columns(protocols: Sequence[Protocol]) -> tuple[str, ...]:
    """The columns of MATCHES that these protocols read."""
    of_flow = FLOW_COLUMNS if any(protocol.of == "flow" for protocol in protocols) else ()
    of_scores = kap.SCORE_COLUMNS if any(protocol.kap for protocol in protocols) else ()
    return (*MATCH_COLUMNS, *of_flow, *of_scores)


def check_protocols(protocols: Sequence[Protocol], alphas: Sequence[float]) -> None:
    """Raises ValueError if there is no protocol or no usable alpha, none that a protocol with KAP has scores of, or two
    protocols have one name."""
    if not protocols:
        raise ValueError("name at least one protocol")
    names = [protocol.name for protocol in dict.fromkeys(protocols)]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"two protocols are called {', '.join(sorted(repeated))}; give each a name of its own")
    if not alphas or not all(0 < alpha <= 1 for alpha in alphas):
        raise ValueError(f"alphas must be above 0 and at most 1, such as 0.1; got {list(alphas)}")
    with_kap = [protocol.name for protocol in protocols if protocol.kap]
    if with_kap and not set(alphas) & set(SCORE_ALPHAS):
        known = ", ".join(map(str, SCORE_ALPHAS))
        raise ValueError(
            f"protocol {with_kap[0]}: KAP is known at the alphas {known} alone, and none of them is asked for; got "
            f"{list(alphas)}"
        )


def check_matches(matches: pa.Table, pairs: pa.Table) -> list[str]:
    """The fingerprint of the matches in a list, which is empty if there are no matches.

    Raises ValueError if they are of several matchers, or answer none of the pairs.
    """
    fingerprints = sorted(pc.unique(matches["fingerprint"]).to_pylist())
    if len(fingerprints) > 1:
        raise ValueError(f"the matches are of {len(fingerprints)} matchers, score one at a time: {fingerprints}")
    if matches.num_rows and not count_unscored(matches, pairs).n_answered:
        raise ValueError(NO_PAIR_ANSWERED)
    return fingerprints


@dataclass(frozen=True)
class Unscored:
    """Counts of pairs and matches that are in no average."""

    n_answered: int
    """Number of pairs that have a match, ok or error."""
    n_without_keypoints: int
    """Number of pairs without keypoints and without true flow."""
    n_foreign: int
    """Number of matches of pairs that the manifest does not hold."""


def count_unscored(matches: pa.Table, pairs: pa.Table) -> Unscored:
    """The counts of MATCHES and PAIRS rows."""
    return Unscored(
        n_answered=pc.sum(pc.is_in(pairs["pair_id"], matches["pair_id"])).as_py() or 0,
        n_without_keypoints=count_without_keypoints(pairs),
        n_foreign=pc.sum(pc.invert(pc.is_in(matches["pair_id"], pairs["pair_id"]))).as_py() or 0,
    )


@dataclass(frozen=True)
class ScopeSums:
    """The sums of the groups of one scope."""

    pck: SumsByGroup
    measures: dict[str, dict[Group, pck_sums.MeasureSums]]
    """Of other measures than PCK that are known of any pair, by name."""
    score_counts: dict[Group, kap.ScoreCounts]
    """Empty unless the protocol has KAP."""


@dataclass(frozen=True, kw_only=True)
class EvaluationSpec:
    """The protocols to score, their directions and alphas, and how failed pairs count."""

    directions: dict[Protocol, list[str]]
    alphas: tuple[float, ...]
    """Thresholds as shares of T, ascending."""
    failed: Failed


def sum_pck(
    matches: pa.Table, pairs: pa.Table, weights: BootstrapWeights, spec: EvaluationSpec
) -> tuple[dict[Scope, ScopeSums], list[pa.Table]]:
    """The sums of every group of the pairs, which can be added to those of other pairs, and METRICS of single pairs.

    matches, pairs: MATCHES and PAIRS rows. weights: of these pairs.
    """
    columns = group_columns(pairs)
    sums_by_scope: dict[Scope, ScopeSums] = {}
    pair_rows = []
    for protocol, directions in spec.directions.items():
        for direction in directions:
            errors = errors_under(matches, pairs, protocol, direction, spec.alphas)
            columns = with_object_share(columns, matches, pairs, direction)
            sums = pck_sums.pair_sums(errors, spec.alphas, spec.failed)
            measures = pck_sums.measure_sums(errors, spec.alphas, spec.failed)
            scores = kap.pair_scores(matches, pairs, direction, spec.alphas, spec.failed) if protocol.kap else None
            for dataset, subset, mask in subsets(columns):
                scope = (dataset, protocol.name, direction, subset)
                scored = mask & (errors.n_points > 0)
                own, own_measures = columns[scored], {name: values[scored] for name, values in measures.items()}
                scope_sums = ScopeSums(
                    sum_groups(own, sums[scored], weights.select(scored)),
                    {name: sum_groups(own, values, None) for name, values in own_measures.items()},
                    {} if scores is None else scores.counts_by_group(columns, mask),
                )
                if isinstance(errors, KeypointErrors) and errors.mirror_case is not None:
                    _add_mirror_cases(scope_sums, errors.select(mask), weights.select(mask), spec)
                sums_by_scope[scope] = scope_sums
                pair_rows.append(_pair_rows(scope, own, sums[scored], own_measures, spec.alphas))
    return sums_by_scope, pair_rows


def _add_mirror_cases(sums: ScopeSums, errors: KeypointErrors, weights: BootstrapWeights, spec: EvaluationSpec) -> None:
    """Add the groups of the cases of left and right, which are of keypoints and not of pairs."""
    assert errors.mirror_case is not None
    for number, name in enumerate(MIRROR_CASES):
        of_case = errors.select_points(errors.mirror_case == number)
        scored = of_case.n_points > 0
        if scored.any():
            group, rows = ("mirror_case", name), [np.flatnonzero(scored)]
            of_pairs = pck_sums.pair_sums(of_case, spec.alphas, spec.failed)
            (sums.pck[group],) = pck_sums.group_sums(of_pairs, weights, rows)
            for measure, values in pck_sums.measure_sums(of_case, spec.alphas, spec.failed).items():
                (sums.measures[measure][group],) = pck_sums.group_sums(values, None, rows)


def provenance_metadata(
    fingerprints: Sequence[str],
    matchers: Sequence[str | None],
    spec: EvaluationSpec,
    replicates: int,
    seed: int,
    manifest_digest: str | None,
) -> dict[bytes, bytes]:
    """Metadata of a METRICS file in addition to its schema's: matcher, manifest, protocols, bootstrap."""
    manifest = {b"manifest_digest": manifest_digest.encode()} if manifest_digest else {}
    return manifest | {
        b"fingerprint": "".join(fingerprints).encode(),
        b"matcher": ", ".join(sorted({name for name in matchers if name})).encode(),
        b"failed": spec.failed.encode(),
        b"protocols": json.dumps([asdict(protocol) for protocol in spec.directions]).encode(),
        b"bootstrap": json.dumps({"replicates": replicates, "seed": seed}).encode(),
    }


def summary_rows(sums_by_scope: dict[Scope, ScopeSums], spec: EvaluationSpec) -> list[pa.Table]:
    """METRICS of all groups but single pairs."""
    return [_group_rows(scope, sums, spec.alphas) for scope, sums in sums_by_scope.items()]


def _group_rows(scope: Scope, scope_sums: ScopeSums, alphas: Sequence[float]) -> pa.Table:
    sums_by_group = scope_sums.pck
    category_sums = [sums for (kind, _), sums in sums_by_group.items() if kind == "category"]
    scope_columns = dict(zip(METRICS.names, scope, strict=False))
    kap_by_group = kap.kap(scope_sums.score_counts, len(alphas))
    rows = []
    for (kind, name), sums in sums_by_group.items():
        averages = {"pck_image": pck_sums.image_average(sums), "pck_point": pck_sums.point_average(sums)}
        if kind == "all" and category_sums:
            averages["pck_class_mean"] = pck_sums.class_mean(category_sums)
        n_pairs, n_points, n_failed = pck_sums.counts(sums)
        columns: dict[str, np.ndarray] = {}
        for column, percents in averages.items():
            low, high = pck_sums.interval(percents) if n_pairs > 1 else np.full((2, len(alphas)), np.nan)
            columns |= {column: percents[0], f"{column}_low": low, f"{column}_high": high}
        for measure, measure_sums in scope_sums.measures.items():
            of_group = measure_sums.get((kind, name))
            if of_group is None:
                continue
            columns[f"{measure}_image"] = pck_sums.image_average(of_group)[0]
            columns[f"{measure}_point"] = pck_sums.point_average(of_group)[0]
        columns["kap"] = kap_by_group.get((kind, name), np.full(len(alphas), np.nan))
        counts = {"n_pairs": n_pairs, "n_points": n_points, "n_failed": n_failed}
        for index, alpha in enumerate(alphas):
            values = {column: _stored(column, values[index]) for column, values in columns.items()}
            rows.append({**scope_columns, "alpha": alpha, "group_kind": kind, "group": name, **counts, **values})
    return pa.Table.from_pylist(rows, METRICS)


def _pair_rows(
    scope: Scope,
    columns: pd.DataFrame,
    sums: Float64[np.ndarray, "p columns"],
    measures: Mapping[str, Float64[np.ndarray, "p columns"]],
    alphas: Sequence[float],
) -> pa.Table:
    """METRICS of single pairs, which have no intervals; columns: their group_columns, measures: their measure_sums."""
    (n_pairs, n_points, n_failed), percents = pck_sums.pair_percents(sums)
    measured = {name: pck_sums.pair_percents(values) for name, values in measures.items()}
    tables = []
    for index, (percent, alpha) in enumerate(zip(percents.T, alphas, strict=True)):
        values = {
            **{name: _repeated(value, len(sums)) for name, value in zip(METRICS.names, scope, strict=False)},
            "alpha": np.full(len(sums), alpha),
            "group_kind": _repeated("pair", len(sums)),
            "group": pa.array(columns["pair"], pa.string()),
            **{"n_pairs": n_pairs, "n_points": n_points, "n_failed": n_failed},
            **{"pck_image": percent, "pck_point": percent},
        }
        for name, ((is_known, *_), of_measure) in measured.items():
            column = pa.array(of_measure[:, index], mask=is_known == 0)
            values |= {f"{name}_image": column, f"{name}_point": column}
        absent = {name: pa.nulls(len(sums), METRICS.field(name).type) for name in METRICS.names if name not in values}
        table = pa.table(values | absent).select(METRICS.names)
        tables.append(pa.Table.from_arrays(table.columns, schema=METRICS))
    return pa.concat_tables(tables)


def _stored(column: str, percent: float) -> float | None:
    """A percentage as METRICS store it: NaN is 0 in a column that always has a number, and null in the others."""
    if np.isfinite(percent):
        return float(percent)
    return None if METRICS.field(column).nullable else 0.0


def _repeated(value: str, count: int) -> pa.Array:
    return pa.repeat(pa.scalar(value, pa.string()), count)
