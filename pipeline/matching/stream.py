"""The Ray Data stream of a match job: slices -> decode -> match -> commit.

Ray Data moves the rows; the work of the stages is in pipeline.matching.decode, pipeline.matching.match and
pipeline.runs.parts, none of which knows Ray. Ray restarts a dead process with the same work without limit; the
quarantine ends this. Every process that matches runs torch on options.THREADS threads; the others never import torch,
which would cost each of them 300 MB.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from pipeline.io import storage
from pipeline.io.manifest import read_rows
from pipeline.matching.decode import CHUNK_BYTES, Chunk, decode_rows
from pipeline.matching.options import THREADS, MatchConfig
from pipeline.matching.plan import Slice
from pipeline.matching.prometheus import timed, timed_items
from pipeline.matching.watchdog import Watchdog
from pipeline.runs.folder import Run
from pipeline.runs.parts import count_reasons, write_part
from pipeline.runs.quarantine import Quarantine
from schemas.matches import MATCHES

MATCH_CPUS = 0.75
IO_CPUS = 0.25
"""CPUs that a matching process and a decoding or committing task reserve: together one core for each worker."""
MATCH_MEMORY = 3 * 2**29
IO_MEMORY = 3 * 2**27
"""Bytes that they reserve, as measured: 1.5 GiB and 384 MiB. What reserves nothing, Ray Data takes to need 2.4 GiB a
CPU, and waits for them."""
CHUNKS_AHEAD = 4
"""Full chunks that may wait in the object store for each worker; decoding pauses beyond."""

_COMMITTED = pa.schema(
    [
        ("part", pa.string()),
        ("bytes", pa.int64()),
        ("reasons", pa.list_(pa.struct([("reason", pa.string()), ("rows", pa.int64())]))),
        ("match_seconds", pa.float64()),
        ("commit_seconds", pa.float64()),
    ]
)


@dataclass(frozen=True, kw_only=True)
class MatchStageConfig:
    """The configuration of the stages; plain values, since it is pickled to every worker."""

    run: Run
    attempt: int
    stop_file: str
    in_progress_folder: str
    device: str
    workers: tuple[int, int]
    """Processes that match, at least and at most."""
    matching: MatchConfig


def build_stream(slices: list[Slice], config: MatchStageConfig) -> ray.data.Dataset:
    """The lazy Ray dataset whose execution matches the slices; its rows describe the committed parts."""
    least, most = config.workers
    rows = [{"file": s.file, "row_group": s.row_group, "rows": s.rows.tobytes()} for s in slices]
    items = ray.data.from_items(rows, override_num_blocks=len(rows))
    # the limits of this stream alone, not of the process, whose next dataset may need more
    items.context.execution_options.resource_limits = ray.data.ExecutionResources(
        object_store_memory=CHUNKS_AHEAD * CHUNK_BYTES * most
    )
    io_tasks = ray.data.TaskPoolStrategy(size=most)
    return (
        items.map_batches(
            partial(decode_slice, config=config),
            batch_size=1,
            batch_format="pyarrow",
            compute=io_tasks,
            num_cpus=IO_CPUS,
            memory=IO_MEMORY,
        )
        .map_batches(
            MatchWorker,
            fn_constructor_args=(config,),
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(min_size=least, max_size=most),
            num_cpus=MATCH_CPUS,
            memory=MATCH_MEMORY,
            num_gpus=config.matching.gpus_per_worker if config.device.startswith("cuda") else 0,
        )
        .map_batches(
            partial(commit, config=config),
            batch_size=None,
            batch_format="pyarrow",
            compute=io_tasks,
            num_cpus=IO_CPUS,
            memory=IO_MEMORY,
        )
    )


def decode_slice(row: pa.Table, config: MatchStageConfig) -> Iterator[pa.Table]:
    """One slice, {file, row_group, rows}, to chunks as Chunk.to_row; none after a request to stop."""
    if storage.exists(config.stop_file):
        yield Chunk().to_row().slice(0, 0)
        return
    file, row_group = row["file"][0].as_py(), row["row_group"][0].as_py()
    quarantine = Quarantine(config.run.out, config.in_progress_folder)

    def decode(rows: pa.Table, pair_ids: Sequence[str]) -> Iterator[pa.Table]:
        some = rows.filter(pc.is_in(rows["pair_id"], pa.array(pair_ids)))
        chunks = decode_rows(
            some,
            config.matching.image_root,
            allowed_prefixes=config.matching.allow_prefix,
            known_failures=quarantine.failures,
            reduced_side=config.run.reduced_side,
        )
        yield from (chunk.to_row() for chunk in chunks)

    for rows in read_rows(file, row_group, np.frombuffer(row["rows"][0].as_py(), np.int32)):
        guarded = quarantine.guard("decode", rows["pair_id"].to_pylist(), partial(decode, rows))
        yield from timed_items("decode", guarded)


class MatchWorker:
    """A process that holds the matcher and matches chunks: rows of Chunk.to_row to MATCHES rows."""

    def __init__(self, config: MatchStageConfig) -> None:
        import torch

        from nemf import load_matcher

        torch.set_num_threads(THREADS)
        self._config = config
        self._quarantine = Quarantine(config.run.out, config.in_progress_folder)
        matching = config.matching
        self._watchdog = Watchdog(matching.answer_timeout, self._quarantine.mark_hung)
        self._matcher = load_matcher(matching.matcher, backbone_weights=matching.backbone_weights, device=config.device)

    def __call__(self, row: pa.Table) -> pa.Table:
        from pipeline.matching.match import match_chunk

        config = self._config
        if storage.exists(config.stop_file):
            return MATCHES.empty_table()
        chunk = Chunk.from_row(row)

        def match(pair_ids: Sequence[str]) -> Iterator[pa.Table]:
            ids = set(pair_ids)
            some = Chunk(pairs=[pair for pair in chunk.pairs if pair["pair_id"] in ids], images=chunk.images)
            yield match_chunk(
                self._matcher,
                some,
                config.matching.options,
                fingerprint=config.run.fingerprint,
                attempt=config.attempt,
                known_failures=self._quarantine.failures,
                on_prediction=self._watchdog.alive,
            )

        pair_ids = [pair["pair_id"] for pair in chunk.pairs]
        with timed("match"), self._watchdog.on_guard():
            return pa.concat_tables(self._quarantine.guard("match", pair_ids, match))


def commit(rows: pa.Table, config: MatchStageConfig) -> pa.Table:
    """Write MATCHES rows as a part; one row that describes it, none if there are no rows."""
    if not rows.num_rows:
        return _COMMITTED.empty_table()
    start = time.perf_counter()
    with timed("commit"):
        try:
            part = write_part(config.run.out, rows, run_id=config.run.run_id)
        except OSError as error:  # one text, since Ray Data replaces a file's name by a text of its own
            raise OSError(f"{config.run.out}: a part could not be written: {error}") from error
    committed = {
        "part": part.name,
        "bytes": part.n_bytes,
        "reasons": [{"reason": reason, "rows": n} for reason, n in count_reasons(rows).items()],
        "match_seconds": (pc.sum(pc.struct_field(rows["milliseconds"], "match")).as_py() or 0) / 1000,
        "commit_seconds": time.perf_counter() - start,
    }
    return pa.Table.from_pylist([committed], _COMMITTED)
