"""The stages of a match job: decode the images of a slice, match them, commit the rows as a part of the run.

Nothing here knows Ray: pipeline.matching.stream runs them on a Ray cluster, pipeline.matching.local_worker in
processes of this machine. A stage whose process dies is run again with the same work; the quarantine ends this.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypedDict

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.io import storage
from pipeline.io.manifest import read_rows
from pipeline.matching.decode import Chunk, decode_rows
from pipeline.matching.options import THREADS, MatchConfig
from pipeline.matching.plan import Slice
from pipeline.matching.watchdog import Watchdog
from pipeline.runs.folder import Run
from pipeline.runs.parts import count_reasons, write_part
from pipeline.runs.quarantine import Quarantine
from schemas.matches import MATCHES

if TYPE_CHECKING:
    from nemf.matcher import Matcher


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """What the stages of an attempt need to know; plain values, since they are pickled to other processes."""

    run: Run
    attempt: int
    stop_file: str
    in_progress_folder: str
    matching: MatchConfig


class Committed(TypedDict):
    """A part of the run that was written."""

    part: str
    """Its file's name."""
    bytes: int
    reasons: dict[str, int]
    """Number of its rows by reason: 'ok', or 'stage: kind' of an error."""
    match_seconds: float
    commit_seconds: float


def decode_slice(work: Slice, config: StageConfig) -> Iterator[Chunk]:
    """The chunks of a slice, in the order of its rows; none after a request to stop."""
    if storage.exists(config.stop_file):
        return
    quarantine = Quarantine(config.run.out, config.in_progress_folder)

    def decode(rows: pa.Table, pair_ids: Sequence[str]) -> Iterator[Chunk]:
        return decode_rows(
            rows.filter(pc.is_in(rows["pair_id"], pa.array(pair_ids))),
            config.matching.image_root,
            allowed_prefixes=config.matching.allow_prefix,
            known_failures=quarantine.failures,
            reduced_side=config.run.reduced_side,
        )

    for rows in read_rows(work.file, work.row_group, work.rows):
        yield from quarantine.guard("decode", rows["pair_id"].to_pylist(), partial(decode, rows))


def load(matching: MatchConfig, device: str) -> "Matcher":
    """The matcher of a job on a device, cpu or cuda; from now on this process computes on THREADS threads.

    Raises ValueError or OSError as nemf.load_matcher does.
    """
    import torch  # here and below: the processes that only decode and commit do without its 300 MB

    from nemf import load_matcher

    torch.set_num_threads(THREADS)
    return load_matcher(matching.matcher, backbone_weights=matching.backbone_weights, device=device)


class MatchStage:
    """Matches chunks with a matcher that it holds.

    Raises ValueError for a matcher that is not the run's: its weights were changed since the run began.
    """

    def __init__(self, config: StageConfig, matcher: "Matcher") -> None:
        expected = config.run.matcher_fingerprint
        if expected not in (None, matcher.fingerprint):
            raise ValueError(
                f"{config.matching.matcher} was changed while the run went on: its fingerprint was {expected} and is "
                f"{matcher.fingerprint}; put back what it was, or take another run folder"
            )
        self._config = config
        self._matcher = matcher
        self._quarantine = Quarantine(config.run.out, config.in_progress_folder)
        self._watchdog = Watchdog(config.matching.answer_timeout, self._quarantine.mark_hung)

    def match(self, chunk: Chunk) -> pa.Table:
        """The MATCHES rows of a chunk, pairs in order; none after a request to stop."""
        from pipeline.matching.match import match_chunk

        config = self._config
        if storage.exists(config.stop_file):
            return MATCHES.empty_table()

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
        with self._watchdog.on_guard():
            return pa.concat_tables(self._quarantine.guard("match", pair_ids, match))


def commit(rows: pa.Table, config: StageConfig) -> Committed:
    """Write MATCHES rows as a part. Raises OSError where it cannot be written."""
    start = time.perf_counter()
    try:
        part = write_part(config.run.out, rows, run_id=config.run.run_id)
    except OSError as error:  # one text, since Ray Data replaces a file's name by a text of its own
        raise OSError(f"{config.run.out}: a part could not be written: {error}") from error
    return Committed(
        part=part.name,
        bytes=part.n_bytes,
        reasons=count_reasons(rows),
        match_seconds=(pc.sum(pc.struct_field(rows["milliseconds"], "match")).as_py() or 0) / 1000,
        commit_seconds=time.perf_counter() - start,
    )
