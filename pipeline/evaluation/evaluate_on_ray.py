"""Evaluation of runs too large for one process's memory: the same numbers, as a Ray Data aggregation.

Pairs and matches are dealt into buckets by a hash of the pair's id; every bucket is scored by itself, and the tallies
of the buckets are added. What one process holds is a bucket and the tallies; the driver also holds two keys per pair.
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

from pipeline.evaluation.bootstrap import REPLICATES, draws, image_keys, shared_images
from pipeline.evaluation.evaluate import (
    DEFAULT_ALPHAS,
    NO_PAIR_ANSWERED,
    LeftOut,
    Measures,
    about,
    check,
    left_out,
    measure,
    summary_rows,
)
from pipeline.evaluation.groups import Tallies
from pipeline.evaluation.keypoint_errors import MATCH_COLUMNS, Failed, directions_to_score
from pipeline.evaluation.metrics import SUMMARY, write_metrics
from pipeline.evaluation.protocols import Protocol
from pipeline.io import storage
from pipeline.io.manifest import INLINE_COLUMNS, manifest_files, open_parquet, row_group_lengths
from pipeline.runs.folder import read_success
from pipeline.runs.parts import KEY_COLUMNS, chosen_rows, list_parts
from schemas.check import check_schema, conform
from schemas.matches import MATCHES
from schemas.metrics import METRICS
from schemas.pairs import PAIRS

BUCKET_PAIRS = 50_000
"""About so many pairs are scored at once by a process, which takes some 700 MB."""

_PAIRS = pa.schema([field for field in PAIRS if field.name not in INLINE_COLUMNS], metadata=PAIRS.metadata)
_MATCHES = pa.schema([MATCHES.field(name) for name in dict.fromkeys([*MATCH_COLUMNS, *KEY_COLUMNS])])
_PIECE = pa.schema([("bucket", pa.int64()), ("part", pa.int64()), ("rows", pa.large_binary())])
"""Rows of one file that belong to one bucket, as an Arrow stream; `part` is -1 for the manifest's."""
_SCOPE = ("dataset", "protocol", "direction", "subset", "group_kind", "group")
_TALLY = pa.schema(
    [("bucket", pa.int64()), *((name, pa.string()) for name in _SCOPE), ("values", pa.large_list(pa.float64()))]
)
_LEFT_OUT = "left out"
"""In group_kind: the values are those of a LeftOut."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every task needs to know; plain values, since it travels."""

    out: str
    n_buckets: int
    measures: Measures
    replicates: int
    seed: int


def evaluate_large(
    matches_uri: str,
    pairs_uri: str,
    out: str,
    protocols: Sequence[Protocol],
    alphas: Sequence[float] = DEFAULT_ALPHAS,
    failed: Failed = "wrong",
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    bucket_pairs: int = BUCKET_PAIRS,
) -> tuple[pa.Table, LeftOut]:
    """METRICS of all groups but single pairs, as evaluate gives them, and what is in no average; Ray must be connected.

    Writes METRICS to the folder `out`: summary.parquet, and the rows of single pairs in one file per bucket; those of
    an earlier evaluation are replaced. Raises ValueError as evaluate does, in a worker as Ray's RayTaskError of one,
    and for a folder that holds anything else; FileNotFoundError where there are no matches.
    """
    check(protocols, alphas)
    parts = list_parts(matches_uri)
    if not parts:
        raise FileNotFoundError(f"no matches at {matches_uri}: expected a run folder with parts/*.parquet")
    present, fingerprints = (_unique(parts, name) for name in ("direction", "fingerprint"))
    if len(fingerprints) > 1:
        raise ValueError(f"the matches are of {len(fingerprints)} matchers, score one at a time: {fingerprints}")
    slices = _slices(pairs_uri, (read_success(matches_uri) or {}).get("limit"))
    if not slices:
        raise ValueError(f"{pairs_uri}: the manifest has no rows")
    job = Job(
        out=out,
        n_buckets=max(1, round(sum(count for *_, count in slices) / bucket_pairs)),
        measures=Measures(
            directions=directions_to_score(present, protocols), alphas=tuple(sorted(set(alphas))), failed=failed
        ),
        replicates=replicates,
        seed=seed,
    )
    _delete_earlier(out)
    shared = ray.put(_shared_images(slices))
    items = [{"file": file, "group": group, "part": -1, "count": count} for file, group, count in slices]
    items += [{"file": file, "group": -1, "part": rank, "count": -1} for rank, file in enumerate(parts)]
    rows = (
        ray.data.from_items(items, override_num_blocks=len(items))
        .map_batches(partial(deal, n_buckets=job.n_buckets), batch_size=1, batch_format="pyarrow")
        .groupby("bucket", num_partitions=job.n_buckets)
        .map_groups(partial(score_bucket, job=job, shared=shared), batch_format="pyarrow")
        .iter_batches(batch_size=None, batch_format="pyarrow")
    )
    # sums depend on their order in the last digits, and buckets come in any
    buckets = pa.concat_tables([_TALLY.empty_table(), *rows])
    buckets = buckets.take(pc.sort_indices(buckets["bucket"]))
    counted = _left_out(buckets)
    if not counted.n_answered:
        raise ValueError(NO_PAIR_ANSWERED)
    tallies = _added(buckets.filter(pc.not_equal(buckets["group_kind"], _LEFT_OUT)), 1 + replicates)
    in_order = {scope: _ordered(of_groups) for scope, of_groups in sorted(tallies.items())}
    said = about(fingerprints, job.measures, replicates, seed)
    summary = pa.concat_tables(summary_rows(in_order, job.measures))
    summary = summary.replace_schema_metadata({**METRICS.metadata, **said})
    write_metrics(storage.join(out, SUMMARY), summary)
    return summary, counted


def deal(item: pa.Table, n_buckets: int) -> Iterator[pa.Table]:
    """The rows of one row group of the manifest, or of one part, by bucket."""
    file, group, part, count = (item[name][0].as_py() for name in ("file", "group", "part", "count"))
    wanted = _MATCHES if group < 0 else _PAIRS
    with open_parquet(file) as parquet:
        if group < 0:
            check_schema(parquet.schema_arrow, MATCHES, file)
        groups = range(parquet.num_row_groups) if group < 0 else [group]
        columns = [name for name in wanted.names if name in parquet.schema_arrow.names]
        rows = conform(parquet.read_row_groups(list(groups), columns=columns), wanted, file)
    rows = rows if count < 0 else rows.slice(0, count)
    bucket = pd.util.hash_array(rows["pair_id"].to_numpy(), categorize=False) % np.uint64(n_buckets)
    for number in np.unique(bucket):
        chosen = rows.filter(pa.array(bucket == number))
        yield pa.table({"bucket": [int(number)], "part": [part], "rows": [_as_stream(chosen)]}, schema=_PIECE)


def score_bucket(pieces: pa.Table, job: Job, shared: "ray.ObjectRef[np.ndarray]") -> pa.Table:
    """The tallies of one bucket; the rows of its pairs are written."""
    of_manifest, of_parts, ranks = [_PAIRS.empty_table()], [_MATCHES.empty_table()], []
    for part, data in sorted(zip(pieces["part"].to_pylist(), pieces["rows"].to_pylist(), strict=True)):
        rows = pa.ipc.open_stream(data).read_all()
        (of_manifest if part < 0 else of_parts).append(rows)
        ranks += [] if part < 0 else [pa.array([part] * rows.num_rows, pa.int32())]
    matches = pa.concat_tables(of_parts)
    matches = matches.take(chosen_rows(matches, pa.chunked_array(ranks, pa.int32())))
    pairs = pa.concat_tables(of_manifest)
    pairs = pairs.take(pc.sort_indices(pairs["pair_id"]))
    drawn = draws(pairs, job.seed, job.replicates, ray.get(shared))
    tallies, of_pairs = measure(matches, pairs, drawn, job.measures)
    if of_pairs:
        name = f"pairs-{pieces['bucket'][0].as_py():05}.parquet"
        write_metrics(storage.join(job.out, name), pa.concat_tables(of_pairs))
    found = [
        {**dict(zip(_SCOPE, (*scope, *group), strict=True)), "values": values.ravel()}
        for scope, of_groups in tallies.items()
        for group, values in of_groups.items()
    ]
    found.append({"group_kind": _LEFT_OUT, "values": astuple(left_out(matches, pairs))})
    bucket = pieces["bucket"][0].as_py()
    return pa.Table.from_pylist([{"bucket": bucket, **row} for row in found], _TALLY)


def _added(rows: pa.Table, n_rows: int) -> Tallies:
    """The sums of the tallies of one scope and group, in the order of the rows."""
    tallies: Tallies = {}
    names = zip(*(rows[name].to_pylist() for name in _SCOPE), strict=True)
    for (*scope, kind, group), values in zip(names, rows["values"], strict=True):
        of_groups = tallies.setdefault((scope[0], scope[1], scope[2], scope[3]), {})
        found = values.values.to_numpy().reshape(n_rows, -1)
        of_groups[kind, group] = of_groups[kind, group] + found if (kind, group) in of_groups else found.copy()
    return tallies


def _left_out(rows: pa.Table) -> LeftOut:
    counts = rows.filter(pc.equal(rows["group_kind"], _LEFT_OUT))["values"].to_pylist()
    return LeftOut(*(int(sum(count)) for count in zip(*counts, strict=True)))


def _delete_earlier(out: str) -> None:
    """Delete what an earlier evaluation wrote. Raises ValueError where there is anything else."""
    names = {file.rpartition("/")[2]: file for file in storage.list_files(out, "")}
    if others := [name for name in names if name != SUMMARY and not re.fullmatch(r"pairs-\d+\.parquet", name)]:
        raise ValueError(
            f"{out} holds other files than METRICS of an evaluation, such as {sorted(others)[0]}: give another --out"
        )
    for file in names.values():
        storage.delete_file(file)


def _ordered(of_groups: dict[tuple[str, str], np.ndarray]) -> dict[tuple[str, str], np.ndarray]:
    """By name within a kind, 'all' last."""
    return dict(sorted(of_groups.items(), key=lambda item: (item[0] == ("all", "all"), item[0])))


def _slices(pairs_uri: str, limit: int | None) -> list[tuple[str, int, int]]:
    """(file, row group, how many of its rows) of the first `limit` pairs of a manifest, or of all."""
    found = []
    for file in manifest_files(pairs_uri):
        for group, count in enumerate(row_group_lengths(file)):
            taken = count if limit is None else min(count, limit)
            limit = None if limit is None else limit - taken
            if taken:
                found.append((file, group, taken))
    return found


def _shared_images(slices: Sequence[tuple[str, int, int]]) -> np.ndarray:
    """The keys of the images that are in more than one pair."""
    keys: list[tuple[np.ndarray, np.ndarray]] = []
    names = ["pair_id", "source_uri", "target_uri"]
    expected = pa.schema([PAIRS.field(name) for name in names])
    for file, group, count in slices:
        with open_parquet(file) as parquet:
            columns = [name for name in names if name in parquet.schema_arrow.names]
            rows = conform(parquet.read_row_group(group, columns=columns), expected, file)
        keys.append(image_keys(rows.slice(0, count)))
    source, target = (np.concatenate(side) for side in zip(*keys, strict=True))
    return shared_images(source, target)


def _unique(parts: Sequence[str], column: str) -> list[str]:
    """All values of a column of text."""
    found: set[str] = set()
    for file in parts:
        with open_parquet(file) as parquet:
            check_schema(parquet.schema_arrow, MATCHES, file)
            found.update(pc.unique(parquet.read(columns=[column])[column]).to_pylist())
    return sorted(found)


def _as_stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return sink.getvalue().to_pybytes()
