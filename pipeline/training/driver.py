"""The driver of a training run: workers of Ray Train, a progress bar, and signals passed on as a request to stop."""

import queue
import sys
import tempfile
import threading
from dataclasses import fields
from typing import Any

import ray
from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError, get_context
from ray.train.torch import TorchTrainer, get_device
from ray.util.queue import Empty, Queue
from tqdm import tqdm

from nemf.training.config import REPORTED_LOSSES
from pipeline.cluster.connect import connected, this_cluster
from pipeline.cluster.errors import ClusterError
from pipeline.cluster.resources import choose_device
from pipeline.io import storage
from pipeline.runs.lease import Lease
from pipeline.runs.signals import stopping_on_signals
from pipeline.training.config import SELECTION_METRIC, TrainingConfig
from pipeline.training.folder import write_success
from pipeline.training.worker import WorkerContext, train


def train_on_ray(
    config: TrainingConfig, lease: Lease, *, device: str = "auto", n_workers: int = 1, address: str | None = None
) -> None:
    """Train to the last step in worker processes, and mark the run as finished.

    lease: that of the run folder. device: cpu, cuda, or auto for GPUs if the cluster has any.
    address: Ray cluster; None for RAY_ADDRESS, else an embedded one.
    Raises ValueError or OSError for bad input, ClusterError where Ray or a worker failed, and
    KeyboardInterrupt after a signal; the last saved state stays in every case.
    """
    # the job's subclass may be defined in __main__, which workers cannot import
    plain = TrainingConfig(**{field.name: getattr(config, field.name) for field in fields(TrainingConfig)})
    with connected(address), tempfile.TemporaryDirectory() as scratch:
        device = choose_device(device, this_cluster())
        each = {"CPU": float(max(config.threads, config.loaders))} | ({"GPU": 1.0} if device == "cuda" else {})
        _require(ray.cluster_resources(), n_workers, each)
        progress_queue = Queue(actor_options={"num_cpus": 0})
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"config": plain, "progress_queue": progress_queue, "stop_file": lease.stop_file},
            scaling_config=ScalingConfig(num_workers=n_workers, use_gpu=device == "cuda", resources_per_worker=each),
            run_config=RunConfig(
                name="train",
                storage_path=scratch,  # Ray's own files; the run's are written to config.out
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        failures: list[Exception] = []
        thread = threading.Thread(target=_fit, args=(trainer, failures), daemon=True)
        thread.start()
        with stopping_on_signals(lease) as stopped:
            user_error = _show_progress(thread, progress_queue, config.trainer.steps)
        if user_error is not None:
            raise ValueError(user_error)
        if failures and isinstance(failures[0], TrainingFailedError):
            reason = " ".join(str(failures[0]).split())[:1000]
            raise ClusterError(f"a worker failed; run the same command again to go on: {reason}")
        if failures:
            raise failures[0]
    if stopped.is_set():
        raise KeyboardInterrupt("the state is saved: run the same command again to go on")
    write_success(config.out, {"steps": config.trainer.steps})


def _fit(trainer: TorchTrainer, failures: list[Exception]) -> None:
    """Run the trainer to its end; its error is kept for the main thread, the one that signals reach."""
    try:
        trainer.fit()
    except Exception as error:
        failures.append(error)


def _worker(train_loop_config: dict[str, Any]) -> None:
    """The function that Ray Train runs in each process."""
    context, progress_queue = get_context(), train_loop_config["progress_queue"]
    worker = WorkerContext(rank=context.get_world_rank(), n_workers=context.get_world_size(), device=get_device())
    stop_file = train_loop_config["stop_file"]
    try:
        train(train_loop_config["config"], worker, progress_queue.put, lambda: storage.exists(stop_file))
    except (ValueError, OSError, FloatingPointError) as error:
        advice = "; lessen --lr, in a new --out" if isinstance(error, FloatingPointError) else ""
        progress_queue.put({"user_error": f"{error}{advice}"})
        raise


def _require(resources: dict[str, float], n_workers: int, each: dict[str, float]) -> None:
    """Raises ValueError if the cluster has too few resources; Ray would wait forever."""
    for kind, amount in each.items():
        if n_workers * amount > resources.get(kind, 0):
            raise ValueError(
                f"{n_workers} workers need {n_workers * amount:g} {kind}s, the Ray cluster has "
                f"{resources.get(kind, 0):g}: ask for fewer --workers, --threads or --loaders, or a larger cluster"
            )


def _show_progress(thread: threading.Thread, progress_queue: Queue, n_steps: int) -> str | None:
    """Show a progress bar until the thread has ended; returns the error of a worker that means bad input, if any."""
    user_error = None
    interval = 0.5 if sys.stderr.isatty() else 10.0
    with tqdm(total=n_steps, unit="step", mininterval=interval) as progress:
        while thread.is_alive() or not progress_queue.empty():
            try:
                metrics = progress_queue.get(timeout=0.5)
            except (Empty, queue.Empty):
                continue
            user_error = metrics.get("user_error", user_error)
            if "step" in metrics:
                _update(progress, metrics)
    return user_error


def _update(progress: tqdm, metrics: dict[str, Any]) -> None:
    """Show a row of the history, or the first step if there is nothing else."""
    step = metrics["step"]
    if len(metrics) == 1:
        progress.initial = progress.n = step
    progress.update(step - progress.n)
    if (pck := metrics.get(SELECTION_METRIC)) is not None:
        progress.write(f"step {step}: {SELECTION_METRIC} {pck:.2f} on the validation pairs", file=sys.stderr)
    elif "total" in metrics:
        progress.set_postfix(
            {name: f"{metrics[name]:.3f}" for name in REPORTED_LOSSES if name in metrics}, refresh=False
        )
