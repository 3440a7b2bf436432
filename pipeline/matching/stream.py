"""The stages of a match job as a Ray Data stream: slices -> decode -> match -> commit.

Ray Data moves the rows; the work is that of pipeline.matching.stages. Ray restarts a dead process with the same work
without limit. Every process that matches holds a matcher; the others never import torch.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from pipeline.matching.decode import CHUNK_BYTES, Chunk
from pipeline.matching.options import MATCH_MEMORY
from pipeline.matching.plan import Slice
from pipeline.matching.prometheus import timed, timed_items
from pipeline.matching.stages import Committed, MatchStage, StageConfig, commit, decode_slice, load

MATCH_CPUS = 0.75
IO_CPUS = 0.25
"""CPUs that a matching process and a decoding or committing task reserve: together one core for each worker."""
IO_MEMORY = 3 * 2**27
"""Bytes that a decoding or committing task reserves, as measured: 384 MiB; a matching process reserves MATCH_MEMORY.
What reserves nothing, Ray Data takes to need 2.4 GiB a CPU, and waits for them."""
CHUNKS_AHEAD = 4
"""Full chunks that may wait in the object store for each worker; decoding pauses beyond."""

_COMMITTED = pa.schema(
    [
        ("part", pa.string()),
        ("bytes", pa.int64()),
        ("reasons", pa.map_(pa.string(), pa.int64())),
        ("match_seconds", pa.float64()),
        ("commit_seconds", pa.float64()),
    ]
)
"""The columns of Committed."""


def committed_parts(
    slices: list[Slice], config: StageConfig, *, device: str, workers: tuple[int, int]
) -> Iterator[Committed]:
    """Match and commit the slices on the Ray that this process has joined; the parts as they are committed.

    device: cpu or cuda. workers: processes that match, at least and at most.
    """
    for row in _stream(slices, config, device, workers).iter_rows():
        part: Any = row | {"reasons": dict(row["reasons"])}
        yield part


def _stream(slices: list[Slice], config: StageConfig, device: str, workers: tuple[int, int]) -> ray.data.Dataset:
    """The lazy Ray dataset whose execution matches the slices; its rows describe the committed parts."""
    least, most = workers
    rows = [{"file": s.file, "row_group": s.row_group, "rows": s.rows.tobytes()} for s in slices]
    items = ray.data.from_items(rows, override_num_blocks=len(rows))
    # the limits of this stream alone, not of the process, whose next dataset may need more
    items.context.execution_options.resource_limits = ray.data.ExecutionResources(
        object_store_memory=CHUNKS_AHEAD * CHUNK_BYTES * most
    )
    io_tasks = ray.data.TaskPoolStrategy(size=most)
    return (
        items.map_batches(
            partial(_decode, config=config),
            batch_size=1,
            batch_format="pyarrow",
            compute=io_tasks,
            num_cpus=IO_CPUS,
            memory=IO_MEMORY,
        )
        .map_batches(
            MatchWorker,
            fn_constructor_args=(config, device),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
            num_cpus=MATCH_CPUS,
            memory=MATCH_MEMORY,
            num_gpus=config.matching.gpus_per_worker if device.startswith("cuda") else 0,
        )
        .map_batches(
            partial(_commit, config=config),
            batch_size=None,
            batch_format="pyarrow",
            compute=io_tasks,
            num_cpus=IO_CPUS,
            memory=IO_MEMORY,
        )
    )


def _decode(row: pa.Table, config: StageConfig) -> Iterator[pa.Table]:
    """One slice, {file, row_group, rows}, to chunks as Chunk.to_row."""
    work = Slice(
        file=row["file"][0].as_py(),
        row_group=row["row_group"][0].as_py(),
        rows=np.frombuffer(row["rows"][0].as_py(), np.int32),
    )
    yield Chunk().to_row().slice(0, 0)  # so that there is a table where there is no chunk
    for chunk in timed_items("decode", decode_slice(work, config)):
        yield chunk.to_row()


class MatchWorker:
    """A process that holds the matcher and matches chunks: rows of Chunk.to_row to MATCHES rows."""

    def __init__(self, config: StageConfig, device: str) -> None:
        self._error: ValueError | OSError | None = None
        try:
            self._stage = MatchStage(config, load(config.matching, device))
        except (ValueError, OSError) as error:
            self._error = error  # raised by its first work: of an actor that cannot begin Ray says that it died

    def __call__(self, row: pa.Table) -> pa.Table:
        if self._error is not None:
            raise self._error
        chunk = Chunk.from_row(row)
        with timed("match"):
            return self._stage.match(chunk)


def _commit(rows: pa.Table, config: StageConfig) -> pa.Table:
    """One row that describes the part that was written, none if there are no rows."""
    if not rows.num_rows:
        return _COMMITTED.empty_table()
    with timed("commit"):
        committed = commit(rows, config)
    return pa.Table.from_pylist([{**committed, "reasons": list(committed["reasons"].items())}], _COMMITTED)
