"""Training in one process: from the folder's last state to the last step. Does not import Ray.

Batches, negatives and validation pairs are functions of (seed, step), so that the state holds no position in the data.
"""

import copy
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed
from torch import nn

from nemf.lpmflow.network import LPMFlow
from nemf.matcher import Matcher
from nemf.matchers.descriptors import descriptors_matcher
from nemf.matchers.lpmflow import LpmflowMatcher
from nemf.matchers.nemf import NemfMatcher
from nemf.matchers.pmnc import PMNCMatcher
from nemf.pmnc.config import PMNCSearch
from nemf.pmnc.network import PMNC
from nemf.search.config import SearchConfig
from nemf.training.batch import ImageFormat
from nemf.training.loop import Trainer
from pipeline.evaluation.protocols import protocol
from pipeline.training.config import SELECTION_METRIC, TrainingConfig
from pipeline.training.examples import Examples
from pipeline.training.folder import merge_unusable, read_state, write_checkpoint, write_state
from pipeline.training.log import TrainingLog
from pipeline.training.model_card import PCKResult
from pipeline.training.network import initial_network, search_settings
from pipeline.training.validation import ALPHAS, Validation


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """One worker of a run: its number, the number of workers, and its device."""

    rank: int
    n_workers: int
    device: torch.device


def train(
    config: TrainingConfig,
    worker: WorkerContext,
    report_progress: Callable[[dict[str, Any]], None],
    stop_requested: Callable[[], bool],
) -> None:
    """Train from the folder's last state to the last step.

    report_progress: called by the first worker with {"step": n} at the start, then with each row of the history.
    stop_requested: called at each row of the history; once it is true the state is saved and training ends.
    Raises ValueError or OSError for bad input, FloatingPointError where training diverges.
    """
    torch.set_num_threads(config.threads)
    search = search_settings(config)
    model, network = initial_network(
        config.start,
        config.backbone_weights,
        config.cost_features,
        config.image_size,
        config.seed,
        config.backbone,
    )
    trainer = Trainer(model, config.trainer, worker.device, rank=worker.rank, wrap=_wrapper(worker))
    history: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "unusable": []}
    if state := read_state(config.out):
        trainer.load_state_dict(state["trainer"])
        history = state["history"]
    with closing(TrainingLog(config.out, trainer.step_number)) if worker.rank == 0 else nullcontext() as log:
        _train_steps(config, worker, trainer, network, search, history, log, report_progress, stop_requested)
    if worker.rank == 0 and config.validation is None and trainer.step_number == config.trainer.steps:
        write_checkpoint(config.out, trainer.averaged, network, search, [])


def _train_steps(
    config: TrainingConfig,
    worker: WorkerContext,
    trainer: Trainer,
    network: Any,
    search: Mapping[str, Any],
    history: dict[str, list[dict[str, Any]]],
    log: TrainingLog | None,
    report_progress: Callable[[dict[str, Any]], None],
    stop_requested: Callable[[], bool],
) -> None:
    """The steps, with logging, validation and saving when due. Only the first worker has a log, and validates."""
    if log:
        report_progress({"step": trainer.step_number})
    validation = _validation(config) if log else None
    examples = Examples(config)
    slots = range(worker.rank, config.batch_size, worker.n_workers)
    batches = examples.batches(trainer.step_number, slots, ImageFormat.from_model(trainer.model))
    row_time, row_step = time.perf_counter(), trainer.step_number
    for batch in batches:
        metrics = trainer.step(batch)
        step = trainer.step_number
        last, stop = step == config.trainer.steps, False
        if step % config.log_every == 0 or last:
            seconds = (time.perf_counter() - row_time) / (step - row_step)
            metrics = _mean_over_workers({**metrics, "stop": float(stop_requested())}, worker)
            stop = metrics.pop("stop") > 0
            row = {"step": step, **metrics, "seconds_per_step": seconds}
            history["training"].append(row)
            if log:
                log.add("training", row)
                report_progress(row)
            row_time, row_step = time.perf_counter(), step
        if log and validation and (step % config.validate_every == 0 or last):
            before = time.perf_counter()
            row = {"step": step, **validation(_matcher(trainer, search, worker.device))}
            if all(row[SELECTION_METRIC] > earlier[SELECTION_METRIC] for earlier in history["validation"]):
                write_checkpoint(config.out, trainer.averaged, network, search, _pck_results(config, row))
            seconds = time.perf_counter() - before
            history["validation"].append(row | {"seconds": seconds})
            log.add("validation", row)
            report_progress(row)
            row_time += time.perf_counter() - before
        if step % config.checkpoint_every == 0 or last or stop:
            history["unusable"] = _unusable(history["unusable"], examples, worker)
            if log:
                log.save(history)  # before the state: a resumed run discards events beyond its state
                write_state(config.out, {"trainer": trainer.state_dict(), "history": history})
        if stop:
            return


def _matcher(trainer: Trainer, search: Mapping[str, Any], device: torch.device) -> Matcher:
    """A matcher with a copy of the averaged network, which uses its trained parts only."""
    model, loss = copy.deepcopy(trainer.averaged), trainer.config.loss
    if isinstance(model, LPMFlow):
        return LpmflowMatcher("averaged", model, device)
    if isinstance(model, PMNC):
        return PMNCMatcher("averaged", model, device, PMNCSearch(**search))
    if loss.field_weight:
        return NemfMatcher("averaged", model, device, SearchConfig(**search))
    if loss.flow_weight:
        return NemfMatcher("averaged", model, device, SearchConfig(patchmatch_steps=0, refine_steps=0))
    return descriptors_matcher("averaged", model, device, image_size=model.image_size)


def _validation(config: TrainingConfig) -> Validation | None:
    if config.validation is None:
        return None
    return Validation(
        config.validation, config.image_root, config.validation_pairs, config.seed, protocol(config.protocol)
    )


def _pck_results(config: TrainingConfig, row: dict[str, Any]) -> list[PCKResult]:
    """The results of a validation for the model card."""
    suffix = "" if config.trainer.loss.field_weight else ", without the field, which is not trained"
    return [
        PCKResult(f"validation pairs{suffix}", int(row["n_pairs"]), config.protocol, alpha, row[f"pck@{alpha:g}"])
        for alpha in ALPHAS
    ]


def _wrapper(worker: WorkerContext) -> Callable[[nn.Module], nn.Module] | None:
    """DistributedDataParallel for several workers, None for one."""
    if worker.n_workers == 1:
        return None
    devices = [worker.device] if worker.device.type == "cuda" else None
    return lambda module: nn.parallel.DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)


def _mean_over_workers(metrics: dict[str, float], worker: WorkerContext) -> dict[str, float]:
    """The metrics averaged over all workers; each must call it with the same names."""
    if worker.n_workers == 1:
        return metrics
    values = torch.tensor(list(metrics.values()), device=worker.device, dtype=torch.float64)
    torch.distributed.all_reduce(values)
    return dict(zip(metrics, (values / worker.n_workers).tolist(), strict=True))


def _unusable(earlier: list[dict[str, str]], examples: Examples, worker: WorkerContext) -> list[dict[str, str]]:
    """The earlier unusable rows and those of all workers."""
    tables = [examples.unusable()]
    if worker.n_workers > 1:
        tables = [[] for _ in range(worker.n_workers)]
        torch.distributed.all_gather_object(tables, examples.unusable())
    return merge_unusable(earlier, *tables)
