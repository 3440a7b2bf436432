"""The driver of a match job: processes of this machine or a Ray cluster do the work; a progress bar, and signals passed
on as a request to stop."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing

from tqdm import tqdm

from pipeline.matching.local_matching import LocalMatching, most_processes
from pipeline.matching.local_process import MatcherProcess
from pipeline.matching.options import MatchConfig
from pipeline.matching.plan import Plan, Slice
from pipeline.matching.stages import Committed, StageConfig
from pipeline.runs.folder import Run
from pipeline.runs.lease import Lease
from pipeline.runs.quarantine import QuarantineMonitor
from pipeline.runs.signals import stopping_on_signals


def match(
    config: MatchConfig,
    plan: Plan,
    run: Run,
    lease: Lease,
    *,
    local: MatcherProcess | None,
    device: str = "auto",
    workers: tuple[int, int] | None = None,
) -> None:
    """Match and commit the slices of a plan.

    The lease counts committed rows as they come.
    lease: that of the run folder. local: the first process of this machine, which does it with more like it; None for
    the Ray that this process has joined.
    device: of Ray's processes: cpu, cuda, or auto for GPUs if there are any.
    workers: processes that match, at least and at most, of which the latter counts on this machine; None for one per
    core, or per GPU.
    Raises ValueError for resources that the cluster does not have, what Ray and its processes raise, see
    pipeline.cluster.connect.connected, and KeyboardInterrupt after a signal, once what was in flight is committed.
    """
    lease.on_heartbeat.append(QuarantineMonitor(run.out, lease, with_deaths=local is None).record_new)
    stage = StageConfig(
        run=run,
        attempt=lease.attempt.number,
        stop_file=lease.stop_file,
        in_progress_folder=lease.in_progress_folder,
        matching=config,
    )
    total = plan.n_left * len(config.options.directions)
    interval = 0.5 if sys.stderr.isatty() else 10.0
    unit = "pair" if total == plan.n_left else "row"
    with (
        stopping_on_signals(lease) as stopped,
        ExitStack() as processes,
        tqdm(total=total, unit=unit, mininterval=interval) as progress,
    ):
        if local is None:
            parts = _parts_of_ray(plan.slices, stage, device, workers)
        else:
            most = workers[1] if workers else most_processes(local.facts(), config.gpus_per_worker)
            matching = LocalMatching(
                local,
                plan.slices,
                stage,
                most=most,
                on_death=lambda ending, pairs: lease.events.record("worker_died", ending=ending, pairs=pairs),
            )
            parts = processes.enter_context(closing(matching)).parts(stopped.is_set)
        for part in parts:
            progress.update(_record_commit(part, lease))
            progress.set_postfix(errors=lease.counts.total() - lease.counts["ok"], refresh=False)
    if stopped.is_set():
        raise KeyboardInterrupt("what was in flight is committed: run the same command again to go on")


def _parts_of_ray(
    slices: list[Slice], stage: StageConfig, device: str, workers: tuple[int, int] | None
) -> Iterator[Committed]:
    """The parts that the Ray which this process has joined commits."""
    from pipeline.cluster.connect import this_cluster  # Ray takes seconds to import, and this machine needs none of it
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
