"""The driver of a match job: the stream on Ray, a progress bar, and signals passed on as a request to stop."""

import sys
from typing import Any

from tqdm import tqdm

from pipeline.cluster.connect import this_cluster
from pipeline.cluster.resources import choose_device
from pipeline.matching.options import MatchConfig
from pipeline.matching.plan import Plan
from pipeline.matching.prometheus import count_committed
from pipeline.matching.stream import MatchStageConfig, build_stream
from pipeline.matching.workers import choose_workers
from pipeline.runs.folder import Run
from pipeline.runs.lease import Lease
from pipeline.runs.quarantine import QuarantineMonitor
from pipeline.runs.signals import stopping_on_signals


def match_on_ray(
    config: MatchConfig,
    plan: Plan,
    run: Run,
    lease: Lease,
    *,
    device: str = "auto",
    workers: tuple[int, int] | None = None,
) -> None:
    """Match and commit the slices of a plan on the Ray that this process has joined.

    The lease counts committed rows as they come.
    lease: that of the run folder. device: cpu, cuda, or auto for GPUs if the cluster has any.
    workers: processes that match, at least and at most; None for one per core, or per GPU.
    Raises ValueError for resources that the cluster does not have, what Ray and its processes raise, see
    pipeline.cluster.connect.connected, and KeyboardInterrupt after a signal, once what was in flight is committed.
    """
    lease.on_heartbeat.append(QuarantineMonitor(run.out, lease).record_new)
    cluster = this_cluster()
    device = choose_device(device, cluster)
    least, most = choose_workers(workers, device, config.gpus_per_worker, cluster)
    stage = MatchStageConfig(
        run=run,
        attempt=lease.attempt.number,
        stop_file=lease.stop_file,
        in_progress_folder=lease.in_progress_folder,
        device=device,
        workers=(min(least, len(plan.slices)), min(most, len(plan.slices))),
        matching=config,
    )
    total = plan.n_left * len(config.options.directions)
    interval = 0.5 if sys.stderr.isatty() else 10.0
    unit = "pair" if total == plan.n_left else "row"
    with stopping_on_signals(lease) as stopped, tqdm(total=total, unit=unit, mininterval=interval) as progress:
        for part in build_stream(plan.slices, stage).iter_rows():
            progress.update(_record_commit(part, lease))
            progress.set_postfix(errors=lease.counts.total() - lease.counts["ok"], refresh=False)
    if stopped.is_set():
        raise KeyboardInterrupt("what was in flight is committed: run the same command again to go on")


def _record_commit(part: dict[str, Any], lease: Lease) -> int:
    """Add a committed part to the lease, its event log and Prometheus; returns the number of its rows."""
    reasons = {entry["reason"]: entry["rows"] for entry in part["reasons"]}
    lease.count(reasons)
    count_committed(reasons, part["bytes"])
    rows = sum(reasons.values())
    seconds = {stage: round(part[f"{stage}_seconds"], 3) for stage in ("match", "commit")}
    lease.events.record(
        "committed", part=part["part"], bytes=part["bytes"], rows=rows, reasons=reasons, seconds=seconds
    )
    return rows
