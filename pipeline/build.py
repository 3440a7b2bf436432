"""The main road, on one screen: slices -> decode -> match -> commit.

Ray Data moves the rows; what the stages do is in pipeline.decode, pipeline.match and pipeline.parts, none of which
knows Ray. Ray starts a process that died again, for ever; the quarantine sees to it that this ends. Every process that
matches runs torch on THREADS threads, since a result may change with their number; the others never import torch, which
would cost each of them 300 MB.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from pipeline import storage
from pipeline.decode import CHUNK_BYTES, Chunk, decode_rows
from pipeline.manifest import read_rows
from pipeline.options import MatchOptions
from pipeline.parts import count_reasons, write_part
from pipeline.plan import Slice
from pipeline.quarantine import Quarantine
from schemas.matches import MATCHES

THREADS = 1
MATCH_CPUS = 0.75
IO_CPUS = 0.25
"""What a matching process and a decoding or committing task ask for: together one core for each worker."""
CHUNKS_AHEAD = 4
"""Full chunks that may wait in the object store for each worker; decoding pauses beyond."""

_COUNTS = pa.schema([("reason", pa.string()), ("rows", pa.int64())])


@dataclass(frozen=True, kw_only=True)
class Stream:
    """Everything the stages need to know; plain values, since it travels to every worker."""

    out: str
    run_id: str
    attempt: int
    fingerprint: str
    stop_file: str
    begun_folder: str
    image_root: str | None
    matcher: str
    backbone_weights: str | None
    device: str
    workers: int
    options: MatchOptions


def build_stream(slices: list[Slice], stream: Stream) -> ray.data.Dataset:
    """The lazy Ray dataset whose execution matches the slices; its rows say what was committed."""
    context = ray.data.DataContext.get_current()
    context.execution_options.resource_limits = ray.data.ExecutionResources(
        object_store_memory=CHUNKS_AHEAD * CHUNK_BYTES * stream.workers
    )
    rows = [{"file": s.file, "row_group": s.row_group, "rows": s.rows.tobytes()} for s in slices]
    beside = ray.data.TaskPoolStrategy(size=stream.workers)
    return (
        ray.data.from_items(rows, override_num_blocks=len(rows))
        .map_batches(
            partial(decode_slice, stream=stream),
            batch_size=1,
            batch_format="pyarrow",
            compute=beside,
            num_cpus=IO_CPUS,
        )
        .map_batches(
            MatchWorker,
            fn_constructor_args=(stream,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=stream.workers),
            num_cpus=MATCH_CPUS,
            num_gpus=1 if stream.device.startswith("cuda") else 0,
        )
        .map_batches(
            partial(commit, stream=stream),
            batch_size=None,
            batch_format="pyarrow",
            compute=beside,
            num_cpus=IO_CPUS,
        )
    )


def decode_slice(row: pa.Table, stream: Stream) -> Iterator[pa.Table]:
    """One slice to chunks; none once the run was asked to stop."""
    if storage.exists(stream.stop_file):
        yield Chunk().to_row().slice(0, 0)
        return
    file, row_group = row["file"][0].as_py(), row["row_group"][0].as_py()
    rows = read_rows(file, row_group, np.frombuffer(row["rows"][0].as_py(), np.int32))
    quarantine = Quarantine(stream.out, stream.begun_folder)

    def decode(pair_ids: Sequence[str]) -> Iterator[pa.Table]:
        asked = rows.filter(pc.is_in(rows["pair_id"], pa.array(pair_ids)))
        for chunk in decode_rows(asked, stream.image_root, refused=quarantine.refused):
            yield chunk.to_row()

    yield from quarantine.guard("decode", rows["pair_id"].to_pylist(), decode)


class MatchWorker:
    """A process that holds the matcher and matches chunk after chunk."""

    def __init__(self, stream: Stream) -> None:
        import torch

        from nemf import load_matcher

        torch.set_num_threads(THREADS)
        self._stream = stream
        self._quarantine = Quarantine(stream.out, stream.begun_folder)
        self._matcher = load_matcher(stream.matcher, backbone_weights=stream.backbone_weights, device=stream.device)

    def __call__(self, row: pa.Table) -> pa.Table:
        from pipeline.match import match_chunk

        stream = self._stream
        if storage.exists(stream.stop_file):
            return MATCHES.empty_table()
        chunk = Chunk.from_row(row)

        def match(pair_ids: Sequence[str]) -> Iterator[pa.Table]:
            wanted = set(pair_ids)
            asked = Chunk(pairs=[pair for pair in chunk.pairs if pair["pair_id"] in wanted], images=chunk.images)
            yield match_chunk(
                self._matcher,
                asked,
                stream.options,
                fingerprint=stream.fingerprint,
                attempt=stream.attempt,
                refused=self._quarantine.refused,
            )

        pair_ids = [pair["pair_id"] for pair in chunk.pairs]
        return pa.concat_tables(self._quarantine.guard("match", pair_ids, match))


def commit(rows: pa.Table, stream: Stream) -> pa.Table:
    """Make match rows durable; how many rows there are of each reason."""
    if rows.num_rows:
        write_part(stream.out, rows, run_id=stream.run_id)
    return pa.Table.from_pylist([{"reason": reason, "rows": n} for reason, n in count_reasons(rows).items()], _COUNTS)
