"""Matches and the manifest's truth to METRICS: PCK under named protocols, without running a model again."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nemf import pck
from pipeline.manifest import read_pairs
from pipeline.metrics import load_metrics as load_metrics
from pipeline.metrics import per_category as per_category
from pipeline.protocols import Protocol
from pipeline.run_folder import read_success
from schemas.check import conform
from schemas.metrics import METRICS

DEFAULT_ALPHAS = (0.01, 0.03, 0.05, 0.1, 0.15)
MATCH_COLUMNS = (
    *("pair_id", "direction", "status", "fingerprint"),
    *("reference_hw", "query_xy_px", "reference_xy_px"),
)
"""The columns of MATCHES that evaluate reads."""

Failed = Literal["wrong", "exclude"]
_NUISANCES = ("viewpoint_variation", "scale_variation", "truncation", "occlusion")


@dataclass(frozen=True, kw_only=True, eq=False)
class Scores:
    """The P pairs of a manifest under one protocol and direction; N keypoints, those of pair after pair."""

    n_points: np.ndarray
    """(P,) int64: keypoints with a known truth; 0 for a pair that has none."""
    failed: np.ndarray
    """(P,) bool: there are keypoints, but the pair failed or is missing in the matches."""
    error_px: np.ndarray
    """(N,) float64; infinite for failed pairs."""
    base_px: np.ndarray
    """(N,) float64: T of the threshold alpha T; 0 for failed pairs."""

    def correct(self, alpha: float) -> np.ndarray:
        """(N,) bool: which keypoints are correct."""
        return pck.is_correct(self.error_px, self.base_px, alpha)

    def n_correct(self, alpha: float) -> np.ndarray:
        """(P,) int64: how many keypoints of each pair are correct."""
        return pck.count_correct(self.correct(alpha), self.n_points)

    def n_counted(self, failed: Failed) -> np.ndarray:
        """(P,) int64: how many keypoints of each pair enter the averages when failed pairs count as wrong or not."""
        return np.where(self.failed, 0, self.n_points) if failed == "exclude" else self.n_points

    def of(self, chosen: np.ndarray) -> "Scores":
        """The scores of the chosen pairs, (P,) bool, alone."""
        points = np.repeat(chosen, self.n_points)
        return Scores(
            n_points=self.n_points[chosen],
            failed=self.failed[chosen],
            error_px=self.error_px[points],
            base_px=self.base_px[points],
        )


def evaluate(
    matches: pa.Table,
    pairs: pa.Table,
    protocols: Sequence[Protocol],
    alphas: Sequence[float] = DEFAULT_ALPHAS,
    failed: Failed = "wrong",
) -> pa.Table:
    """METRICS of the matches: per dataset, protocol, direction, subset and alpha; overall, per group and per pair.

    matches: MATCHES rows of one matcher, at most one per pair and direction, at least MATCH_COLUMNS.
    pairs: PAIRS rows without inline images; pairs they lack are not scored, whatever the matches hold.
    alphas: thresholds as a share of the protocol's T, each above 0.
    failed: whether pairs that failed or are missing count as wrong or are excluded; `n_failed` counts them anyway.
    `n_pairs` and `n_points` count what the averages are over; where that is nothing, PCK is 0. Subset leak_free holds
    the pairs known not to be seen in training, and exists where the manifest knows of any pair.
    Raises ValueError if no protocol or no usable alpha is given, matches are of several matchers, a protocol's
    direction is absent, matches answer other pairs or points than the manifest holds, or a pair lacks what T needs.
    """
    if not protocols:
        raise ValueError("name at least one protocol")
    if not alphas or not all(0 < alpha < np.inf for alpha in alphas):
        raise ValueError(f"alphas must be numbers above 0, such as 0.1; got {list(alphas)}")
    fingerprints = sorted(pc.unique(matches["fingerprint"]).to_pylist())
    if len(fingerprints) > 1:
        raise ValueError(f"the matches are of {len(fingerprints)} matchers, score one at a time: {fingerprints}")
    if matches.num_rows and not pc.any(pc.is_in(pairs["pair_id"], matches["pair_id"])).as_py():
        raise ValueError("the matches answer none of the manifest's pairs: is it the manifest that was matched?")

    manifest = _groupable(pairs)
    tables = [METRICS.empty_table()]
    for protocol in dict.fromkeys(protocols):
        for direction in directions(matches, protocol):
            scores = score(matches, pairs, protocol, direction)
            for dataset, subset, chosen in _subsets(manifest):
                rows = _summaries(manifest, scores, chosen, sorted(set(alphas)), failed)
                named = {"dataset": dataset, "protocol": protocol.name, "direction": direction, "subset": subset}
                for name, value in named.items():
                    rows = rows.append_column(name, _repeated(value, rows.num_rows, pa.string()))
                tables.append(conform(rows, METRICS, "metrics"))
    about = {b"fingerprint": "".join(fingerprints).encode(), b"failed": failed.encode()}
    return pa.concat_tables(tables).replace_schema_metadata({**METRICS.metadata, **about})


def directions(matches: pa.Table, protocol: Protocol) -> list[str]:
    """The directions to score: those the protocol allows and the matches have. Raises ValueError if there is none.

    Matches without any row are all failures, scored in the protocol's first direction.
    """
    present = set(pc.unique(matches["direction"]).to_pylist())
    chosen = [direction for direction in protocol.directions if direction in present or not present]
    if not chosen:
        wanted = " or ".join(protocol.directions)
        raise ValueError(
            f"protocol {protocol.name} measures {wanted}, the matches hold only {', '.join(sorted(present))}; "
            f"match again: python -m jobs.match --direction {protocol.directions[0]} ... (or --direction both)"
        )
    return chosen


def score(matches: pa.Table, pairs: pa.Table, protocol: Protocol, direction: str) -> Scores:
    """Error and T of every keypoint of `pairs` under one protocol and direction. Raises ValueError as evaluate does."""
    query, reference = ("source", "target") if direction == "source_to_target" else ("target", "source")
    n_points = _n_points(pairs, query, reference)

    matches = matches.filter(pc.equal(matches["direction"], direction))
    rows = matches.take(pc.index_in(pairs["pair_id"], matches["pair_id"]))
    ok = pc.fill_null(pc.equal(rows["status"], "ok"), False).to_numpy()
    answered = ok & (n_points > 0)
    rows, scored, counts = rows.filter(pa.array(answered)), pairs.filter(pa.array(answered)), n_points[answered]

    query_xy_px, truth_xy_px = _keypoints(scored, query, reference)
    asked_xy_px, n_asked = _points(rows, "query_xy_px")
    predicted_xy_px, n_predicted = _points(rows, "reference_xy_px")
    _refuse(
        n_asked == 0,
        rows["pair_id"],
        "has keypoints in the manifest, but the matches hold none for it; match with --outputs keypoints",
    )
    stale = (
        "was matched at other query points than this manifest has: the run is stale or of another manifest; "
        "match again into a new folder"
    )
    _refuse(n_asked != counts, rows["pair_id"], stale)
    differs = (asked_xy_px != query_xy_px).any(axis=1)
    _refuse(pck.count_correct(differs, counts) > 0, rows["pair_id"], stale)
    _refuse(n_predicted != counts, rows["pair_id"], "has another number of reference_xy_px than of query_xy_px")

    if protocol.base == "box":
        base_px = _box_sides_px(scored, f"{reference}_box_xyxy", protocol.name)
    elif protocol.base == "image":
        _refuse(pc.is_null(rows["reference_hw"]).to_numpy(), rows["pair_id"], "has no reference_hw in the matches")
        base_px = _values(rows["reference_hw"]).reshape(-1, 2).max(axis=1, initial=0).astype(np.float64)
    else:
        base_px = pck.longest_side_px(pck.tight_boxes_xyxy(truth_xy_px, counts))
        no_extent = (
            f"has its {reference} keypoints all at one place: their box has no extent, so there is no T under protocol "
            f"{protocol.name}; leave it out of the manifest, or score it under a protocol with another T"
        )
        _refuse(base_px == 0, scored["pair_id"], no_extent)

    is_answered = np.repeat(answered, n_points)
    error_px, base_of_point_px = np.full(len(is_answered), np.inf), np.zeros(len(is_answered))
    error_px[is_answered] = pck.errors_px(predicted_xy_px, truth_xy_px)
    base_of_point_px[is_answered] = np.repeat(base_px, counts)
    failed = ~answered & (n_points > 0)
    return Scores(n_points=n_points, failed=failed, error_px=error_px, base_px=base_of_point_px)


def planned_pairs(pairs_uri: str, matches_uri: str) -> pa.Table:
    """The pairs of a manifest that a run was to match: the first `--limit` if it finished with one, else all."""
    limit = (read_success(matches_uri) or {}).get("limit")
    return read_pairs(pairs_uri).slice(0, limit)


def without_keypoints(pairs: pa.Table) -> int:
    """How many pairs have no keypoints with a known truth, and so are in no average."""
    return int(np.count_nonzero(_n_points(pairs, "source", "target") == 0))


def _n_points(pairs: pa.Table, query: str, reference: str) -> np.ndarray:
    """(P,) int64: how many keypoints the query image has; 0 where the reference image has none."""
    n_query, n_truth = (
        pc.fill_null(pc.list_value_length(pairs[f"{side}_xy_px"]), 0).to_numpy() for side in (query, reference)
    )
    return np.where(n_truth > 0, n_query, 0).astype(np.int64)


def _keypoints(pairs: pa.Table, query: str, reference: str) -> tuple[np.ndarray, np.ndarray]:
    """Query (N, 2) and truth (N, 2) in pixels. Raises ValueError for a pair whose keypoints cannot be scored."""
    (query_xy_px, n_query), (truth_xy_px, n_truth) = (_points(pairs, f"{side}_xy_px") for side in (query, reference))
    _refuse(n_query != n_truth, pairs["pair_id"], "has unequal numbers of source and target keypoints")
    not_finite = ~np.isfinite(np.concatenate([query_xy_px, truth_xy_px], axis=1)).all(axis=1)
    _refuse(pck.count_correct(not_finite, n_truth) > 0, pairs["pair_id"], "has a keypoint that is not finite")
    return query_xy_px, truth_xy_px


def _points(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A column of point lists as (N, 2) float64 and (P,) int64 counts; a null list counts as none."""
    counts = pc.fill_null(pc.list_value_length(table[name]), 0).to_numpy().astype(np.int64)
    points = pc.list_flatten(table[name])
    if points.null_count:
        raise ValueError(f"column {name} has {points.null_count} null points; a keypoint that is absent is left out")
    return _values(points).reshape(-1, 2).astype(np.float64), counts


def _values(column: pa.ChunkedArray) -> np.ndarray:
    """The numbers in a column of fixed-size lists, one list after another."""
    return pc.list_flatten(column).to_numpy()


def _box_sides_px(pairs: pa.Table, column: str, protocol: str) -> np.ndarray:
    need = f"has no usable {column}, which protocol {protocol} needs for its T"
    _refuse(pc.is_null(pairs[column]).to_numpy(), pairs["pair_id"], need)
    sides_px = pck.longest_side_px(_values(pairs[column]).reshape(-1, 4))
    _refuse(~(np.isfinite(sides_px) & (sides_px > 0)), pairs["pair_id"], need)
    return sides_px


def _refuse(bad: np.ndarray, pair_id: pa.ChunkedArray, why: str) -> None:
    """ValueError naming the first of the pairs that are bad, and how many more there are."""
    if bad.any():
        first, count = int(np.flatnonzero(bad)[0]), int(np.count_nonzero(bad))
        others = f" (and {count - 1} more pairs)" if count > 1 else ""
        raise ValueError(f"pair {pair_id[first].as_py()}{others} {why}")


def _groupable(pairs: pa.Table) -> pd.DataFrame:
    """What pairs are grouped by, one text column each with 'unknown' for null; and what is known of a leak."""
    repeated = pairs.num_rows - pc.count_distinct(pairs["pair_id"]).as_py()
    if repeated:
        raise ValueError(f"the manifest repeats {repeated} pair ids; every pair needs its own")
    kinds = ("dataset", "category", *_NUISANCES)
    columns = {kind: pc.fill_null(pairs[kind].cast(pa.string()), "unknown") for kind in kinds}
    columns["pair"] = pairs["pair_id"]
    columns["leak_is_known"] = pc.is_valid(pairs["seen_in_training"])
    columns["leak_free"] = pc.fill_null(pc.invert(pairs["seen_in_training"]), False)
    return pa.table(columns).to_pandas()


def _subsets(manifest: pd.DataFrame) -> list[tuple[str, str, np.ndarray]]:
    """(dataset, subset, which pairs (P,) bool) of everything to summarise."""
    found = []
    for dataset in sorted(manifest["dataset"].unique()):
        here = (manifest["dataset"] == dataset).to_numpy()
        found.append((dataset, "all", here))
        if manifest["leak_is_known"][here].any():
            found.append((dataset, "leak_free", here & manifest["leak_free"].to_numpy()))
    return found


def _summaries(
    manifest: pd.DataFrame, scores: Scores, chosen: np.ndarray, alphas: Sequence[float], failed: Failed
) -> pa.Table:
    """The rows of one subset, without its name: 'all', and every group that has a pair with keypoints."""
    chosen = chosen & (scores.n_points > 0)
    n_points, n_failed = scores.n_counted(failed)[chosen], scores.failed[chosen]
    n_correct = {alpha: scores.n_correct(alpha)[chosen] for alpha in alphas}
    class_means: dict[float, float | None] = {}
    tables = []
    for kind in ("category", *_NUISANCES, "pair", "all"):
        group, names = np.zeros(len(n_points), np.int64), pd.Index(["all"])
        if kind != "all":
            group, names = pd.factorize(manifest[kind][chosen], sort=True)
        n_pairs = _sums(n_points > 0, group, len(names))
        for alpha in alphas:
            of_pairs = n_correct[alpha], n_points, group, len(names)
            pck_image, pck_point = pck.image_average(*of_pairs), pck.point_average(*of_pairs)
            if kind == "category":
                class_means[alpha] = pck.class_mean(pck_image, n_pairs)
            columns = {
                "alpha": _repeated(alpha, len(names), pa.float64()),
                "group_kind": _repeated(kind, len(names), pa.string()),
                "group": pa.array(names, pa.string()),
                "n_pairs": n_pairs,
                "n_points": _sums(n_points, group, len(names)),
                "n_failed": _sums(n_failed, group, len(names)),
                "pck_image": pck_image,
                "pck_point": pck_point,
                "pck_class_mean": _repeated(class_means[alpha] if kind == "all" else None, len(names), pa.float64()),
            }
            tables.append(pa.table(columns))
    return pa.concat_tables(tables)


def _sums(values: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    return np.bincount(group, values, minlength=n_groups).astype(np.int64)


def _repeated(value: str | float | None, count: int, kind: pa.DataType) -> pa.Array:
    return pa.repeat(pa.scalar(value, kind), count)
