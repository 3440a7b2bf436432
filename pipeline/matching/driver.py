"""The driver of a match job: one process of this machine from the first second, Ray where there is more to do; a
progress bar, and signals passed on as a request to stop."""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from pipeline.matching.local_process import LocalMatching, MatcherProcess
from pipeline.matching.options import MatchConfig
from pipeline.matching.plan import Plan, Slice
from pipeline.matching.stages import Committed, StageConfig
from pipeline.runs.folder import Run
from pipeline.runs.lease import Lease
from pipeline.runs.quarantine import QuarantineMonitor
from pipeline.runs.signals import stopping_on_signals

RAY_AFTER_SECONDS = 10.0
"""Time that one process works alone before its pace says how long the rest would take it."""
RAY_COSTS_SECONDS = 30.0
"""What starting and ending Ray and its workers costs, as measured on two cores; it is to save more than that."""


def match(
    config: MatchConfig,
    plan: Plan,
    run: Run,
    lease: Lease,
    *,
    local: MatcherProcess | None,
    join_ray: Callable[[], None],
    device: str = "auto",
    workers: tuple[int, int] | None = None,
) -> None:
    """Match and commit the slices of a plan.

    The lease counts committed rows as they come.
    lease: that of the run folder. local: begins with the work, and Ray gets the rest if it takes long; None for Ray
    alone. join_ray: joins Ray, called if it is needed; it must be left after this function has returned.
    device: cpu, cuda, or auto for GPUs if there are any.
    workers: processes that match on Ray, at least and at most; None for one per core, or per GPU.
    Raises ValueError for resources that the cluster does not have, what Ray and its processes raise, see
    pipeline.cluster.connect.connected, and KeyboardInterrupt after a signal, once what was in flight is committed.
    """
    lease.on_heartbeat.append(QuarantineMonitor(run.out, lease).record_new)
    stage = StageConfig(
        run=run,
        attempt=lease.attempt.number,
        stop_file=lease.stop_file,
        in_progress_folder=lease.in_progress_folder,
        matching=config,
    )

    def on_ray(slices: list[Slice]) -> Iterator[Committed]:
        join_ray()
        return _parts_of_ray(slices, stage, device, workers)

    total = plan.n_left * len(config.options.directions)
    interval = 0.5 if sys.stderr.isatty() else 10.0
    unit = "pair" if total == plan.n_left else "row"
    with stopping_on_signals(lease) as stopped, tqdm(total=total, unit=unit, mininterval=interval) as progress:
        if local is None:
            parts = on_ray(plan.slices)
        else:
            parts = _local_parts(LocalMatching(local, plan.slices, stage), on_ray, total, stopped)
        for part in parts:
            progress.update(_record_commit(part, lease))
            progress.set_postfix(errors=lease.counts.total() - lease.counts["ok"], refresh=False)
    if stopped.is_set():
        raise KeyboardInterrupt("what was in flight is committed: run the same command again to go on")


def _local_parts(
    local: LocalMatching,
    on_ray: Callable[[list[Slice]], Iterator[Committed]],
    n_rows: int,
    stopped: threading.Event,
) -> Iterator[Committed]:
    """The parts of `n_rows` rows, of one process and of Ray, which gets the slices that are not begun by then."""
    start = time.monotonic()
    n_done = 0

    def is_long() -> bool:
        seconds = time.monotonic() - start
        left_seconds = (n_rows - n_done) * seconds / n_done if n_done else seconds
        saved_seconds = left_seconds * (1 - 1 / (os.cpu_count() or 1))
        return bool(local.waiting) and seconds >= RAY_AFTER_SECONDS and saved_seconds >= RAY_COSTS_SECONDS

    for part in local.parts(until=lambda: stopped.is_set() or is_long()):
        n_done += sum(part["reasons"].values())
        yield part
    rest = list(local.waiting)
    local.waiting.clear()
    if rest and not stopped.is_set():
        yield from on_ray(rest)
    yield from local.parts()


def _parts_of_ray(
    slices: list[Slice], stage: StageConfig, device: str, workers: tuple[int, int] | None
) -> Iterator[Committed]:
    """The parts that the Ray which this process has joined commits."""
    from pipeline.cluster.connect import this_cluster  # Ray takes seconds to import, and few pairs need none of it
    from pipeline.cluster.resources import choose_device
    from pipeline.matching.prometheus import count_committed
    from pipeline.matching.stream import committed_parts
    from pipeline.matching.workers import choose_workers

    cluster = this_cluster()
    device = choose_device(device, cluster)
    least, most = choose_workers(workers, device, stage.matching.gpus_per_worker, cluster)
    numbers = min(least, len(slices)), min(most, len(slices))
    for part in committed_parts(slices, stage, device=device, workers=numbers):
        count_committed(part["reasons"], part["bytes"])
        yield part


def _record_commit(part: Committed, lease: Lease) -> int:
    """Add a committed part to the lease and its event log; returns the number of its rows."""
    lease.count(part["reasons"])
    rows = sum(part["reasons"].values())
    seconds = {"match": round(part["match_seconds"], 3), "commit": round(part["commit_seconds"], 3)}
    lease.events.record(
        "committed", part=part["part"], bytes=part["bytes"], rows=rows, reasons=part["reasons"], seconds=seconds
    )
    return rows
