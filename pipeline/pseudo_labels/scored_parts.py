"""The labels of a run with their probabilities, one file for each part of the run.

    <out>.work/plan.json              what they are made of; other files are of something else, and go
    <out>.work/scored-<number>.parquet    the labels of the part of this number, by place of the pair in the manifest
    <out>.work/attempts/              the lease of the process that is at work on them, see pipeline.runs.lease

A file that exists is whole, so a job that was killed goes on with the parts that have none. The folder goes when the
labels are written.
"""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from jaxtyping import Float64

from pipeline.io import storage
from pipeline.io.prefetch import prefetch
from pipeline.io.row_count import check_row_count
from pipeline.pseudo_labels.calibration import Calibration
from pipeline.pseudo_labels.other_run import OtherRun
from pipeline.pseudo_labels.pair_index import ChosenRows, PairIndex, direction_numbers
from pipeline.pseudo_labels.selection import Rules, best_of_pair
from pipeline.pseudo_labels.signals import MATCH_COLUMNS, points_xy_px, signals
from pipeline.runs.lease import acquire
from pipeline.runs.parts import open_part
from schemas.check import conform
from schemas.matches import DIRECTIONS, MATCHES, sides_of
from schemas.types import POINTS_XY

SCORED = pa.schema(
    [
        ("place", pa.int64()),  # of the pair in the manifest
        ("direction", pa.int8()),  # number in DIRECTIONS
        ("n_asked", pa.int32()),  # points that the matcher was asked for
        ("point", pa.list_(pa.int32())),  # which of them each label is of
        ("source_xy_px", POINTS_XY),
        ("target_xy_px", POINTS_XY),
        ("steps", pa.list_(pa.int32())),  # probability in 1 / PROBABILITY_STEPS
    ]
)
ROW_GROUP_ROWS = 1024
THREADS = 2
_COLUMNS = ("pair_id", "direction", "status", *MATCH_COLUMNS)
_BATCH_ROWS = 4096
_PLAN = "plan.json"


@dataclass(frozen=True, kw_only=True)
class ScoringTask:
    """What the labels of a run are made of."""

    sizes: Mapping[str, int]
    """The parts of the run and their bytes, in order."""
    index: PairIndex
    chosen: ChosenRows
    present: tuple[str, ...]
    """The signals that the run has; one that a row of it lacks is missing there."""
    calibration: Calibration
    rules: Rules
    other: OtherRun | None = None
    """A second run, for the agreement."""


@contextmanager
def hold(work: str) -> Iterator[None]:
    """Hold the folder, so that no other process works on it meanwhile.

    Raises RunInUseError where another one does, and ValueError if the folder holds other files than those of this
    module.
    """
    names = storage.file_names(work) | storage.folder_names(work)
    if any(not name.startswith((".", "scored-")) and name not in (_PLAN, "attempts") for name in names):
        raise ValueError(f"{work} holds other files than those of pseudo-label: move them, or give another --out")
    lease = acquire(work, job="pseudo-label")
    try:
        yield
    finally:
        lease.release()


def remove_scored(work: str) -> None:
    """Remove the labels and the plan of a folder."""
    for file in storage.list_files(work, ".parquet"):
        storage.delete_file(file)
    storage.delete_file(storage.join(work, _PLAN))


def score_parts(work: str, task: ScoringTask, made_of: Mapping[str, Any]) -> list[str]:
    """Write the files of all parts that have none; returns the URIs of all, in order of the parts.

    made_of: all that the labels depend on, as JSON values. The caller holds the lease of the folder.
    """
    description = json.dumps({**made_of, "parts": list(task.sizes)}, sort_keys=True)
    plan = {"digest": hashlib.sha256(description.encode()).hexdigest()}
    plan_file = storage.join(work, _PLAN)
    if not storage.exists(plan_file) or storage.read_json(plan_file) != plan:
        remove_scored(work)
        storage.write_bytes(plan_file, json.dumps(plan).encode())
    storage.remove_temporary_files(work)
    done = storage.file_names(work)
    files = [f"scored-{number:07}.parquet" for number in range(len(task.sizes))]
    left = [number for number, name in enumerate(files) if name not in done]

    def write(number: int) -> None:
        buffer = io.BytesIO()
        table = score_part(number, task)
        pq.write_table(table, buffer, compression="zstd", compression_level=1, row_group_size=ROW_GROUP_ROWS)
        storage.write_bytes(storage.join(work, files[number]), buffer.getvalue())

    for _ in prefetch(write, left, THREADS):
        pass
    return [storage.join(work, name) for name in files]


def score_part(number: int, task: ScoringTask) -> pa.Table:
    """The SCORED rows of one part, by place and direction; pairs without labels are left out."""
    uri = list(task.sizes)[number]
    expected = pa.schema([MATCHES.field(name) for name in _COLUMNS], metadata=MATCHES.metadata)
    tables, first_row = [SCORED.empty_table()], 0
    with open_part(uri, task.sizes[uri]) as parquet:
        present = [name for name in _COLUMNS if name in parquet.schema_arrow.names]
        for batch in parquet.iter_batches(_BATCH_ROWS, columns=present, use_threads=False):
            rows = conform(pa.Table.from_batches([batch]), expected, uri)
            tables.append(_score(rows, first_row, number, task))
            first_row += batch.num_rows
        check_row_count(first_row, parquet.metadata.num_rows, uri)
    scored = pa.concat_tables(tables)
    return scored.sort_by([("place", "ascending"), ("direction", "ascending")])


def _score(rows: pa.Table, first_row: int, number: int, task: ScoringTask) -> pa.Table:
    """The SCORED rows of some rows of a part, in their order."""
    place, direction = task.index.places(rows["pair_id"]), direction_numbers(rows)
    counted = task.chosen.of_part(number, direction, place, first_row) & (rows["status"].to_numpy() == "ok")
    counted &= pc.fill_null(pc.list_value_length(rows["query_xy_px"]), 0).to_numpy() > 0
    tables = []
    for value, name in enumerate(DIRECTIONS):
        mask = counted & (direction == value)
        if mask.any():
            tables.append(_score_direction(rows.filter(pa.array(mask)), place[mask], name, task))
    return pa.concat_tables([SCORED.empty_table(), *tables])


def _score_direction(rows: pa.Table, place: np.ndarray, direction: str, task: ScoringTask) -> pa.Table:
    query, reference = sides_of(direction)
    size_px = {"source": task.index.source_size_px[place], "target": task.index.target_size_px[place]}
    others = None if task.other is None else task.other.answers(place, direction)
    values = signals(rows, size_px[query].astype(np.float64), size_px[reference].astype(np.float64), others)
    query_xy_px, counts = points_xy_px(rows, "query_xy_px")
    values |= {name: np.full(len(query_xy_px), np.nan) for name in task.present if name not in values}
    steps = task.calibration.probability_steps(values)
    kept = np.isfinite(query_xy_px).all(axis=1)
    if task.rules.max_cycle is not None:
        kept &= values["cycle"] <= task.rules.max_cycle  # a point without a cycle error is left out
    kept &= best_of_pair(np.where(kept, steps, -1), counts, task.rules.per_pair)
    of_pair = np.repeat(np.arange(len(counts)), counts)
    n_kept = np.bincount(of_pair[kept], minlength=len(counts))
    has_labels = n_kept > 0
    point = np.arange(len(of_pair)) - np.repeat(np.cumsum(counts) - counts, counts)
    offsets = np.concatenate([[0], np.cumsum(n_kept[has_labels])])
    xy_px = {query: query_xy_px[kept], reference: points_xy_px(rows, "reference_xy_px")[0][kept]}
    columns = {
        "place": place[has_labels],
        "direction": np.full(has_labels.sum(), DIRECTIONS.index(direction)),
        "n_asked": counts[has_labels],
        "point": lists(offsets, pa.array(point[kept], pa.int32())),
        "source_xy_px": lists(offsets, points_array(xy_px["source"])),
        "target_xy_px": lists(offsets, points_array(xy_px["target"])),
        "steps": lists(offsets, pa.array(steps[kept], pa.int32())),
    }
    return pa.table(columns).cast(SCORED)


def points_array(xy_px: Float64[np.ndarray, "n 2"]) -> pa.Array:
    """Points as lists of two numbers each."""
    return lists(np.arange(0, 2 * len(xy_px) + 1, 2), pa.array(xy_px.astype(np.float32).ravel()))


def lists(offsets: np.ndarray, values: pa.Array) -> pa.Array:
    """Lists of values; list k is from offset k up to, not including, k + 1."""
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)
