"""Evaluation of runs too large for one process's memory: the same numbers, as a Ray Data aggregation.

Pairs and matches are split into buckets by a hash of the pair's id; every bucket is evaluated by itself, and the sums
of the buckets are added. One process holds a bucket and the sums; the driver also holds two keys per pair.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from jaxtyping import UInt64

from pipeline.evaluation import kap, pck_sums
from pipeline.evaluation.bootstrap import REPLICATES, bootstrap_weights, image_keys, shared_images
from pipeline.evaluation.evaluate import (
    DEFAULT_ALPHAS,
    NO_PAIR_ANSWERED,
    EvaluationSpec,
    ScopeSums,
    Unscored,
    check_protocols,
    count_unscored,
    match_columns,
    provenance_metadata,
    sum_pck,
    summary_rows,
)
from pipeline.evaluation.groups import Group, Scope, SumsByGroup
from pipeline.evaluation.keypoint_errors import Failed, directions_to_score
from pipeline.evaluation.metrics import SUMMARY, write_metrics
from pipeline.evaluation.protocols import Protocol
from pipeline.io import storage
from pipeline.io.manifest import INLINE_COLUMNS, Manifest, open_parquet
from pipeline.runs.parts import KEY_COLUMNS, chosen_rows, list_parts
from pipeline.runs.selection import planned_limit
from schemas.check import check_schema, conform
from schemas.matches import MATCHES
from schemas.metrics import METRICS
from schemas.pairs import PAIRS

BUCKET_PAIRS = 50_000
"""Approximate number of pairs that a process evaluates together, in some 700 MB."""
FLOW_BUCKET_PAIRS = 500
"""The same where flow is read, some 0.2 to 1 MB a pair."""

_PAIRS = pa.schema([field for field in PAIRS if field.name not in INLINE_COLUMNS], metadata=PAIRS.metadata)
_PIECE = pa.schema([("bucket", pa.int64()), ("part", pa.int64()), ("rows", pa.large_binary())])
"""Rows of one file that belong to one bucket, as an Arrow stream; `part` is -1 for the manifest's."""
_KEYS = ("dataset", "protocol", "direction", "subset", "measure", "group_kind", "group")
_PCK = "pck"
"""Value of measure in the rows of PCK; in others a measure of METRICS, or _KAP."""
_KAP = "kap"
"""Value of measure in rows whose values are ScoreCounts."""
_SUMS = pa.schema(
    [("bucket", pa.int64()), *((name, pa.string()) for name in _KEYS), ("values", pa.large_list(pa.float64()))]
)
"""One row per group of a bucket: its PCKSums or ScoreCounts, row after row."""
_UNSCORED = "unscored"
"""Value of group_kind in rows whose values are the fields of an Unscored."""
_RowGroup = tuple[str, int, int]
"""A manifest's file, the number of one of its row groups, and how many of its first rows count."""


@dataclass(frozen=True, kw_only=True)
class BucketTask:
    """The arguments of every bucket's evaluation apart from its rows; plain values, since it is sent to workers."""

    out: str
    n_buckets: int
    spec: EvaluationSpec
    replicates: int
    seed: int


def evaluate_on_ray(
    matches_uri: str,
    pairs_uri: str,
    out: str,
    protocols: Sequence[Protocol],
    alphas: Sequence[float] = DEFAULT_ALPHAS,
    failed: Failed = "wrong",
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    bucket_pairs: int | None = None,
) -> tuple[pa.Table, Unscored]:
    """METRICS of all groups but single pairs, as evaluate returns them, and the counts of pairs in no average.

    Ray must be connected. Writes METRICS to the folder `out`: summary.parquet, and the rows of single pairs in one file
    per bucket; those of an earlier evaluation are replaced. Raises ValueError as evaluate does, in a worker as Ray's
    RayTaskError of one, and for a folder that holds anything else; FileNotFoundError where there are no matches.
    """
    check_protocols(protocols, alphas)
    if bucket_pairs is None:
        bucket_pairs = FLOW_BUCKET_PAIRS if any(protocol.of == "flow" for protocol in protocols) else BUCKET_PAIRS
    parts = list_parts(matches_uri)
    if not parts:
        raise FileNotFoundError(f"no matches at {matches_uri}: expected a run folder with parts/*.parquet")
    directions, fingerprints = (_unique(parts, name) for name in ("direction", "fingerprint"))
    if len(fingerprints) > 1:
        raise ValueError(f"the matches are of {len(fingerprints)} matchers, score one at a time: {fingerprints}")
    with Manifest(pairs_uri) as manifest:
        row_groups = _row_groups(manifest, planned_limit(manifest, matches_uri))
        manifest_digest = manifest.digest()
    if not row_groups:
        raise ValueError(f"{pairs_uri}: the manifest has no rows")
    task = BucketTask(
        out=out,
        n_buckets=max(1, round(sum(count for *_, count in row_groups) / bucket_pairs)),
        spec=EvaluationSpec(
            directions=directions_to_score(directions, protocols), alphas=tuple(sorted(set(alphas))), failed=failed
        ),
        replicates=replicates,
        seed=seed,
    )
    _delete_earlier(out)
    columns = match_columns(protocols)
    shared = ray.put(_shared_images(row_groups))
    items = [{"file": file, "group": group, "part": -1, "count": count} for file, group, count in row_groups]
    items += [{"file": file, "group": -1, "part": rank, "count": -1} for rank, file in enumerate(parts)]
    tables = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(
            partial(split_by_bucket, n_buckets=task.n_buckets, columns=columns), batch_size=1, batch_format="pyarrow"
        )
        .groupby("bucket", num_partitions=task.n_buckets)
        .map_groups(partial(evaluate_bucket, task=task, shared=shared), batch_format="pyarrow")
        .iter_batches(batch_size=None, batch_format="pyarrow")
    )
    # sums depend on their order in the last digits, and buckets arrive in any order
    rows = pa.concat_tables([_SUMS.empty_table(), *tables])
    rows = rows.take(pc.sort_indices(rows["bucket"]))
    unscored = _add_unscored(rows)
    if not unscored.n_answered:
        raise ValueError(NO_PAIR_ANSWERED)
    in_order = _add_sums(rows.filter(pc.not_equal(rows["group_kind"], _UNSCORED)), len(task.spec.alphas))
    provenance = provenance_metadata(
        fingerprints, _unique(parts, "matcher"), task.spec, replicates, seed, manifest_digest
    )
    summary = pa.concat_tables(summary_rows(in_order, task.spec))
    summary = summary.replace_schema_metadata({**METRICS.metadata, **provenance})
    write_metrics(storage.join(out, SUMMARY), summary)
    return summary, unscored


def split_by_bucket(item: pa.Table, n_buckets: int, columns: Sequence[str]) -> Iterator[pa.Table]:
    """The rows of one row group of the manifest, or of one part, by bucket; columns: those of MATCHES that are read."""
    file, group, part, count = (item[name][0].as_py() for name in ("file", "group", "part", "count"))
    schema = _matches_schema(columns) if group < 0 else _PAIRS
    with open_parquet(file) as parquet:
        if group < 0:
            check_schema(parquet.schema_arrow, MATCHES, file)
        groups = range(parquet.num_row_groups) if group < 0 else [group]
        present = [name for name in schema.names if name in parquet.schema_arrow.names]
        rows = conform(parquet.read_row_groups(list(groups), columns=present), schema, file)
    rows = rows if count < 0 else rows.slice(0, count)
    bucket = pd.util.hash_array(rows["pair_id"].to_numpy(), categorize=False) % np.uint64(n_buckets)
    for number in np.unique(bucket):
        stream = _ipc_stream(rows.filter(pa.array(bucket == number)))
        yield pa.table({"bucket": [int(number)], "part": [part], "rows": [stream]}, schema=_PIECE)


def evaluate_bucket(pieces: pa.Table, task: BucketTask, shared: "ray.ObjectRef[np.ndarray]") -> pa.Table:
    """The sums of one bucket, _SUMS; METRICS of its single pairs are written.

    pieces: _PIECE rows of the bucket. shared: the images that are in more than one pair of the manifest.
    """
    schema = _matches_schema(match_columns(list(task.spec.directions)))
    pair_tables, match_tables, ranks = [_PAIRS.empty_table()], [schema.empty_table()], []
    for part, stream in sorted(zip(pieces["part"].to_pylist(), pieces["rows"].to_pylist(), strict=True)):
        rows = pa.ipc.open_stream(stream).read_all()
        (pair_tables if part < 0 else match_tables).append(rows)
        ranks += [] if part < 0 else [pa.array([part] * rows.num_rows, pa.int32())]
    matches = pa.concat_tables(match_tables)
    matches = matches.take(chosen_rows(matches, pa.chunked_array(ranks, pa.int32())))
    pairs = pa.concat_tables(pair_tables)
    pairs = pairs.take(pc.sort_indices(pairs["pair_id"]))
    weights = bootstrap_weights(pairs, task.seed, task.replicates, ray.get(shared))
    sums_by_scope, pair_rows = sum_pck(matches, pairs, weights, task.spec)
    bucket = pieces["bucket"][0].as_py()
    if pair_rows:
        write_metrics(storage.join(task.out, f"pairs-{bucket:05}.parquet"), pa.concat_tables(pair_rows))
    rows = [
        {"bucket": bucket, **dict(zip(_KEYS, (*scope, measure, *group), strict=True)), "values": sums.ravel()}
        for scope, scope_sums in sums_by_scope.items()
        for measure, sums_by_group in {
            _PCK: scope_sums.pck,
            **scope_sums.measures,
            _KAP: scope_sums.score_counts,
        }.items()
        for group, sums in sums_by_group.items()
    ]
    unscored = {"bucket": bucket, "group_kind": _UNSCORED, "values": astuple(count_unscored(matches, pairs))}
    return pa.Table.from_pylist([*rows, unscored], _SUMS)


def _matches_schema(columns: Sequence[str]) -> pa.Schema:
    return pa.schema([MATCHES.field(name) for name in dict.fromkeys([*columns, *KEY_COLUMNS])])


def _add_sums(rows: pa.Table, n_alphas: int) -> dict[Scope, ScopeSums]:
    """The sums of all buckets by scope and group, both in order, added in the order of the _SUMS rows."""
    sums_by_scope: dict[Scope, dict[str, SumsByGroup]] = {}
    counts_by_scope: dict[Scope, dict[Group, list[kap.ScoreCounts]]] = {}
    keys = zip(*(rows[name].to_pylist() for name in _KEYS), strict=True)
    for (dataset, protocol, direction, subset, measure, *group), values in zip(keys, rows["values"], strict=True):
        scope, key, numbers = (dataset, protocol, direction, subset), (group[0], group[1]), values.values.to_numpy()
        if measure == _KAP:
            counts_by_scope.setdefault(scope, {}).setdefault(key, []).append(numbers.reshape(-1, 4))
            continue
        sums_by_group = sums_by_scope.setdefault(scope, {}).setdefault(measure, {})
        sums = pck_sums.from_values(numbers, n_alphas)
        sums_by_group[key] = sums_by_group[key] + sums if key in sums_by_group else sums.copy()
    in_order = {}
    for scope, by_measure in sorted(sums_by_scope.items()):
        ordered = {measure: _sorted_groups(sums_by_group) for measure, sums_by_group in by_measure.items()}
        counts = {key: kap.add_counts(parts) for key, parts in sorted(counts_by_scope.get(scope, {}).items())}
        in_order[scope] = ScopeSums(ordered.pop(_PCK), ordered, counts)
    return in_order


def _add_unscored(rows: pa.Table) -> Unscored:
    """The counts of all buckets, added."""
    counts = rows.filter(pc.equal(rows["group_kind"], _UNSCORED))["values"].to_pylist()
    return Unscored(*(int(sum(values)) for values in zip(*counts, strict=True)))


def _delete_earlier(out: str) -> None:
    """Delete the files of an earlier evaluation. Raises ValueError if the folder holds any other."""
    names = {file.rpartition("/")[2]: file for file in storage.list_files(out, "")}
    if others := [name for name in names if name != SUMMARY and not re.fullmatch(r"pairs-\d+\.parquet", name)]:
        raise ValueError(
            f"{out} holds other files than METRICS of an evaluation, such as {sorted(others)[0]}: give another --out"
        )
    for file in names.values():
        storage.delete_file(file)


def _sorted_groups(sums_by_group: SumsByGroup) -> SumsByGroup:
    """The sums sorted by group_kind and group, 'all' last."""
    return dict(sorted(sums_by_group.items(), key=lambda item: (item[0] == ("all", "all"), item[0])))


def _row_groups(manifest: Manifest, limit: int | None) -> list[_RowGroup]:
    """The row groups with the first `limit` pairs of a manifest, or with all for None."""
    row_groups = []
    for file, group, length in manifest.row_groups:
        count = length if limit is None else min(length, limit)
        limit = None if limit is None else limit - count
        if count:
            row_groups.append((file, group, count))
    return row_groups


def _shared_images(row_groups: Sequence[_RowGroup]) -> UInt64[np.ndarray, " i"]:
    """The keys of the images that are in more than one pair, sorted."""
    keys: list[tuple[np.ndarray, np.ndarray]] = []
    names = ["pair_id", "source_uri", "target_uri"]
    expected = pa.schema([PAIRS.field(name) for name in names])
    for file, group, count in row_groups:
        with open_parquet(file) as parquet:
            columns = [name for name in names if name in parquet.schema_arrow.names]
            rows = conform(parquet.read_row_group(group, columns=columns), expected, file)
        keys.append(image_keys(rows.slice(0, count)))
    source, target = (np.concatenate(side) for side in zip(*keys, strict=True))
    return shared_images(source, target)


def _unique(parts: Sequence[str], column: str) -> list[str]:
    """The distinct values of a text column of MATCHES files, sorted."""
    values: set[str] = set()
    for file in parts:
        with open_parquet(file) as parquet:
            check_schema(parquet.schema_arrow, MATCHES, file)
            values.update(pc.unique(parquet.read(columns=[column])[column]).drop_null().to_pylist())
    return sorted(values)


def _ipc_stream(rows: pa.Table) -> bytes:
    """The rows in Arrow's IPC stream format."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()
