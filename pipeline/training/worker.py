"""What each process of a training run does: from the folder's state to its last step. Does not know Ray.

Batches, negatives and validation pairs are functions of (seed, step), so the state need not hold where the data are.
"""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import Generator, nn

from nemf import checkpoints
from nemf.matcher import RGB, Matcher
from nemf.matchers.nearest_neighbour import NearestNeighbourMatcher
from nemf.matchers.nemf import NemfMatcher
from nemf.model import presets
from nemf.model.backbone import load_backbone
from nemf.model.build import build
from nemf.model.descriptors import Descriptors
from nemf.model.network import NeMF
from nemf.model.presets import PRESETS, CostFeatureKind, NeMFConfig
from nemf.search.config import SearchConfig
from nemf.training.augment import AugmentConfig, augment
from nemf.training.batch import Batch, ImageFormat, collate
from nemf.training.example import Example
from nemf.training.initialization import initialize_at_correlation
from nemf.training.loop import Trainer, TrainerConfig
from nemf.training.rng import chance, generator_of
from nemf.training.sampler import Pick, Sampler
from nemf.training.warps import WarpConfig, warped_pair
from pipeline.evaluation.protocols import protocol
from pipeline.io.prefetch import prefetch
from pipeline.training.dataset import ImageCache, TrainingPairs, draw_photograph
from pipeline.training.folder import merge_unusable, read_state, write_checkpoint, write_state
from pipeline.training.log import TrainingLog
from pipeline.training.model_card import PCKResult
from pipeline.training.validation import ALPHAS, SELECTION_METRIC, Validation

WARP_POINTS = 16
"""Points of a warped pair: about as many as annotated pairs have."""


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Everything a process needs to know; plain values, since it travels."""

    out: str
    pairs: tuple[str, ...]
    weights: tuple[float, ...]
    """How often each manifest is drawn from, relative to the others."""
    photographs: tuple[str, ...]
    """Manifests whose images are warped; none to warp those of `pairs`."""
    image_root: str | None
    names_across_categories: bool
    start: str
    """A key of nemf.model.presets.PRESETS, or a checkpoint folder."""
    backbone_weights: str | None
    cost_features: CostFeatureKind | None
    image_size: int | None
    """Side of the square images the network takes, in pixels; None for what the start has."""
    trainer: TrainerConfig
    batch_size: int
    """Of all workers together."""
    augment: bool
    warp_share: float
    search: dict[str, Any]
    """Settings of the search that validates, and that the checkpoint brings along."""
    validation: str | None
    validation_pairs: int
    protocol: str
    log_every: int
    checkpoint_every: int
    validate_every: int
    threads: int
    loaders: int

    @property
    def seed(self) -> int:
        """Of all draws."""
        return self.trainer.seed


@dataclass(frozen=True, kw_only=True)
class WorkerContext:
    """Which of the workers this process is, and where it computes."""

    rank: int
    n_workers: int
    device: torch.device


def network_config(start: str, cost_features: CostFeatureKind | None, image_size: int | None) -> NeMFConfig:
    """The sizes of the network that training starts from, see `initial_network`.

    Raises ValueError for an image size that does not fit, and as nemf.checkpoints.read_config does.
    """
    config = PRESETS[start]() if start in PRESETS else checkpoints.read_config(start)
    if image_size is not None:
        config = presets.with_image_size(config, image_size)
    return config if cost_features is None else presets.with_cost_features(config, cost_features)


def initial_network(
    start: str, backbone_weights: str | None, cost_features: CostFeatureKind | None, image_size: int | None, seed: int
) -> tuple[NeMF, NeMFConfig]:
    """The network that training starts from.

    start: a checkpoint folder, or a key of PRESETS for random weights behind a backbone that is trained already.
    cost_features, image_size: a variant of the network; from a checkpoint of another variant only backbone and neck
        are taken.
    Raises ValueError, FileNotFoundError and OSError as network_config, nemf.checkpoints.load and load_backbone do.
    """
    torch.manual_seed(seed)
    wanted = network_config(start, cost_features, image_size)
    given = None
    if start in PRESETS:
        weights = None if backbone_weights is None else Path(backbone_weights)
        backbone = load_backbone(wanted.backbone, weights, wanted.backbone_config.out_indices)
        wanted = replace(wanted, backbone_config=backbone.config)
    else:
        given = checkpoints.load(start)
        if wanted == checkpoints.read_config(start):
            return given, wanted
        backbone = given.backbone
    model = build(wanted, backbone)
    initialize_at_correlation(model)
    if given is not None:
        model.neck = given.neck
    return model, wanted


def train(
    run: TrainingConfig,
    worker: WorkerContext,
    report_progress: Callable[[dict[str, Any]], None],
    stop_requested: Callable[[], bool],
) -> None:
    """Train to the last step, from where the folder's state says.

    report_progress: is given each row of the history, and {"step": n} at the start; by the first worker only.
    stop_requested: called with each row of the history; once it is true the state is saved and nothing more is done.
    Raises ValueError or OSError for what the caller can mend, FloatingPointError where training diverges.
    """
    torch.set_num_threads(run.threads)
    model, config = initial_network(run.start, run.backbone_weights, run.cost_features, run.image_size, run.seed)
    trainer = Trainer(model, run.trainer, worker.device, rank=worker.rank, wrap=_wrapper(worker))
    history: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "unusable": []}
    if state := read_state(run.out):
        trainer.load_state_dict(state["trainer"])
        history = state["history"]
    with closing(TrainingLog(run.out, trainer.step_number)) if worker.rank == 0 else nullcontext() as log:
        _train_steps(run, worker, trainer, config, history, log, report_progress, stop_requested)
    if worker.rank == 0 and run.validation is None and trainer.step_number == run.trainer.steps:
        write_checkpoint(run.out, trainer.averaged, config, run.search, [])


def _train_steps(
    run: TrainingConfig,
    worker: WorkerContext,
    trainer: Trainer,
    config: NeMFConfig,
    history: dict[str, list[dict[str, Any]]],
    log: TrainingLog | None,
    report_progress: Callable[[dict[str, Any]], None],
    stop_requested: Callable[[], bool],
) -> None:
    """One step after another; of several workers the first has the log, and validates."""
    if log:
        report_progress({"step": trainer.step_number})
    validation = _validation(run) if log else None
    examples = Examples(run)
    batches = _batches(run, examples, ImageFormat.from_model(trainer.model), trainer.step_number, worker)
    started, counted = time.perf_counter(), trainer.step_number
    for batch in batches:
        metrics = trainer.step(batch)
        step = trainer.step_number
        last, stop = step == run.trainer.steps, False
        if step % run.log_every == 0 or last:
            seconds = (time.perf_counter() - started) / (step - counted)
            metrics = _mean_over_workers({**metrics, "stop": float(stop_requested())}, worker)
            stop = metrics.pop("stop") > 0
            row = {"step": step, **metrics, "seconds_per_step": seconds}
            history["training"].append(row)
            if log:
                log.add("training", row)
                report_progress(row)
            started, counted = time.perf_counter(), step
        if validation and (step % run.validate_every == 0 or last):
            before = time.perf_counter()
            row = {"step": step, **validation(_matcher(trainer, run.search, worker.device))}
            if all(row[SELECTION_METRIC] > earlier[SELECTION_METRIC] for earlier in history["validation"]):
                how = "" if run.trainer.loss.field_weight else ", without the field, which is not trained"
                numbers = [
                    PCKResult(f"validation pairs{how}", int(row["n_pairs"]), run.protocol, alpha, row[f"pck@{alpha:g}"])
                    for alpha in ALPHAS
                ]
                write_checkpoint(run.out, trainer.averaged, config, run.search, numbers)
            history["validation"].append(row | {"seconds": time.perf_counter() - before})
            if log:
                log.add("validation", row)
            report_progress(row)
            started += time.perf_counter() - before
        if step % run.checkpoint_every == 0 or last or stop:
            history["unusable"] = _unusable(history["unusable"], examples, worker)
            if log:
                log.save(history)  # before the state: what it shows too much is taken back after an interruption
                write_state(run.out, {"trainer": trainer.state_dict(), "history": history})
        if stop:
            return


class Examples:
    """The examples of a run, each a function of (seed, step, slot): which, and how they are changed."""

    def __init__(self, run: TrainingConfig) -> None:
        cache = ImageCache()
        self.pairs = [
            TrainingPairs(uri, run.image_root, cache, names_across_categories=run.names_across_categories)
            for uri in run.pairs
        ]
        self.photographs = [TrainingPairs(uri, run.image_root, cache) for uri in run.photographs]
        self._run = run

    def sampler(self) -> Sampler:
        """Which example a step sees in each of its slots."""
        run = self._run
        return Sampler([len(pairs) for pairs in self.pairs], run.weights, run.batch_size, run.seed)

    def example(self, pick: Pick, step: int, slot: int) -> Example:
        """The example of one slot. Raises ValueError where its manifest has none that can be used."""
        run = self._run
        generator = generator_of("warp", run.seed, step, slot)
        if chance(generator, run.warp_share):
            example = warped_pair(self._photograph(pick, generator), WARP_POINTS, generator, WarpConfig())
        else:
            example = self.pairs[pick.dataset].example(pick.row)
        if run.augment:
            example = augment(example, generator_of("augment", run.seed, step, slot), AugmentConfig())
        return example

    def _photograph(self, pick: Pick, generator: Generator) -> RGB:
        """One of the photographs; one of the pair's images where there are none."""
        if self.photographs:
            return draw_photograph(self.photographs, generator)
        return self.pairs[pick.dataset].photograph(pick.row, "source" if chance(generator, 0.5) else "target")

    def unusable(self) -> list[dict[str, str]]:
        """The rows met so far that could not be used."""
        return [row for pairs in [*self.pairs, *self.photographs] for row in pairs.unusable_rows()]


def _batches(
    run: TrainingConfig, examples: Examples, images: ImageFormat, start: int, worker: WorkerContext
) -> Iterator[Batch]:
    """This worker's share of every step's batch, prepared ahead in threads."""
    sampler = examples.sampler()

    def prepare(step: int) -> Batch:
        slots = range(worker.rank, run.batch_size, worker.n_workers)
        picks = sampler.picks(step)
        return collate([examples.example(picks[slot], step, slot) for slot in slots], images)

    return prefetch(prepare, range(start, run.trainer.steps), run.loaders)


def _matcher(trainer: Trainer, search: Mapping[str, Any], device: torch.device) -> Matcher:
    """A copy of the averaged network as a matcher: of its deepest part that is trained."""
    model, loss = copy.deepcopy(trainer.averaged), trainer.config.loss
    if loss.field_weight:
        return NemfMatcher("averaged", model, device, SearchConfig(**search))
    if loss.flow_weight:
        return NemfMatcher("averaged", model, device, SearchConfig(patchmatch_steps=0, refine_steps=0))
    return NearestNeighbourMatcher("averaged", Descriptors(model).eval(), device, image_size=model.image_size)


def _validation(run: TrainingConfig) -> Validation | None:
    if run.validation is None:
        return None
    return Validation(run.validation, run.image_root, run.validation_pairs, run.seed, protocol(run.protocol))


def _wrapper(worker: WorkerContext) -> Callable[[nn.Module], nn.Module] | None:
    if worker.n_workers == 1:
        return None
    devices = [worker.device] if worker.device.type == "cuda" else None
    return lambda module: nn.parallel.DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)


def _mean_over_workers(metrics: dict[str, float], worker: WorkerContext) -> dict[str, float]:
    if worker.n_workers == 1:
        return metrics
    values = torch.tensor(list(metrics.values()), device=worker.device, dtype=torch.float64)
    torch.distributed.all_reduce(values)
    return dict(zip(metrics, (values / worker.n_workers).tolist(), strict=True))


def _unusable(earlier: list[dict[str, str]], examples: Examples, worker: WorkerContext) -> list[dict[str, str]]:
    """Those known earlier and those that any worker has met since."""
    met = [examples.unusable()]
    if worker.n_workers > 1:
        met = [[] for _ in range(worker.n_workers)]
        torch.distributed.all_gather_object(met, examples.unusable())
    return merge_unusable(earlier, *met)
