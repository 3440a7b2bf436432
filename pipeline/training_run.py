"""What each process of a training run does: from the folder's state to its last step. Does not know Ray.

Batches, negatives and validation pairs are functions of (seed, step), so the state need not hold where the data are.
"""

import copy
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from torch import nn

from nemf import checkpoints
from nemf.matchers.nemf import NemfMatcher
from nemf.model import presets
from nemf.model.backbone import load_backbone
from nemf.model.network import NeMF
from nemf.model.presets import NeMFConfig
from nemf.training.augment import AugmentConfig, augment
from nemf.training.draws import chance, generator_of
from nemf.training.example import Example
from nemf.training.loop import Trainer, TrainerConfig
from nemf.training.prepare import Batch, ImageFormat, collate
from nemf.training.sampler import Pick, Sampler
from nemf.training.start import start_at_correlation
from nemf.training.warps import WarpConfig, warped_pair
from pipeline.protocols import protocol
from pipeline.training_folder import read_state, write_checkpoint, write_state
from pipeline.training_pairs import ImageCache, TrainingPairs
from pipeline.validation import CHOOSING, Validation

PRESETS = {"paper": presets.paper, "small": presets.small}
WARP_POINTS = 16
"""Points of a warped pair: about as many as annotated pairs have."""


@dataclass(frozen=True, kw_only=True)
class TrainingRun:
    """Everything a process needs to know; plain values, since it travels."""

    out: str
    pairs: tuple[str, ...]
    weights: tuple[float, ...]
    """How often each manifest is drawn from, relative to the others."""
    image_root: str | None
    start: str
    """A key of PRESETS, or a checkpoint folder."""
    backbone_weights: str | None
    trainer: TrainerConfig
    batch_size: int
    """Of all workers together."""
    augment: bool
    warp_share: float
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
class Place:
    """Which of the workers this process is, and where it computes."""

    rank: int
    n_workers: int
    device: torch.device


def initial_network(start: str, backbone_weights: str | None, seed: int) -> tuple[NeMF, NeMFConfig]:
    """The network that training starts from.

    start: a checkpoint folder, or a key of PRESETS for random weights behind a backbone that is trained already.
    Raises ValueError, FileNotFoundError and OSError as nemf.checkpoints.load and load_backbone do.
    """
    if start not in PRESETS:
        return checkpoints.load(start), checkpoints.read_config(start)
    config = PRESETS[start]()
    backbone = load_backbone(config.backbone, None if backbone_weights is None else Path(backbone_weights))
    config = replace(config, backbone_config=backbone.config)
    torch.manual_seed(seed)
    model = presets.build(config, backbone)
    start_at_correlation(model)
    return model, config


def train(
    run: TrainingRun, place: Place, tell: Callable[[dict[str, Any]], None], asked_to_stop: Callable[[], bool]
) -> None:
    """Train to the last step, from where the folder's state says.

    tell: is given each row of the history, and {"step": n} at the start; by the first worker only.
    asked_to_stop: called with each row of the history; once it is true the state is saved and nothing more is done.
    Raises ValueError or OSError for what the caller can mend, FloatingPointError where training diverges.
    """
    torch.set_num_threads(run.threads)
    model, config = initial_network(run.start, run.backbone_weights, run.seed)
    trainer = Trainer(model, run.trainer, place.device, rank=place.rank, wrap=_wrapper(place))
    history: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "unusable": []}
    if state := read_state(run.out):
        trainer.load_state_dict(state["trainer"])
        history = state["history"]
    first = place.rank == 0
    if first:
        tell({"step": trainer.step_number})
    validation = _validation(run) if first else None
    examples = Examples(run)
    batches = _batches(run, examples, ImageFormat.of(model), trainer.step_number, place)
    started, counted = time.perf_counter(), trainer.step_number
    for batch in batches:
        told = trainer.step(batch)
        step = trainer.step_number
        last, stop = step == run.trainer.steps, False
        if step % run.log_every == 0 or last:
            seconds = (time.perf_counter() - started) / (step - counted)
            told = _mean_over_workers({**told, "stop": float(asked_to_stop())}, place)
            stop = told.pop("stop") > 0
            row = {"step": step, **told, "seconds_per_step": seconds}
            history["training"].append(row)
            if first:
                tell(row)
            started, counted = time.perf_counter(), step
        if validation and (step % run.validate_every == 0 or last):
            before = time.perf_counter()
            row = {"step": step, **validation(NemfMatcher("averaged", copy.deepcopy(trainer.averaged), place.device))}
            if all(row[CHOOSING] > earlier[CHOOSING] for earlier in history["validation"]):
                write_checkpoint(run.out, trainer.averaged, config)
            history["validation"].append(row | {"seconds": time.perf_counter() - before})
            tell(row)
            started += time.perf_counter() - before
        if step % run.checkpoint_every == 0 or last or stop:
            history["unusable"] = _unusable(history["unusable"], examples, place)
            if first:
                write_state(run.out, {"trainer": trainer.state_dict(), "history": history})
        if stop and not last:
            return
    if first and run.validation is None:
        write_checkpoint(run.out, trainer.averaged, config)


class Examples:
    """The examples of a run, each a function of (seed, step, slot): which, and how they are changed."""

    def __init__(self, run: TrainingRun) -> None:
        cache = ImageCache()
        self.pairs = [TrainingPairs(uri, run.image_root, cache) for uri in run.pairs]
        self._run = run

    def sampler(self) -> Sampler:
        """Which example a step sees in each of its slots."""
        run = self._run
        return Sampler([len(pairs) for pairs in self.pairs], run.weights, run.batch_size, run.seed)

    def example(self, pick: Pick, step: int, slot: int) -> Example:
        """The example of one slot. Raises ValueError where its manifest has none that can be used."""
        run = self._run
        example = self.pairs[pick.dataset].example(pick.row)
        generator = generator_of("warp", run.seed, step, slot)
        if chance(generator, run.warp_share):
            photograph = (example.source if chance(generator, 0.5) else example.target).rgb
            example = warped_pair(photograph, WARP_POINTS, generator, WarpConfig())
        if run.augment:
            example = augment(example, generator_of("augment", run.seed, step, slot), AugmentConfig())
        return example

    def unusable(self) -> list[dict[str, str]]:
        """The rows met so far that could not be used."""
        return [
            {"pairs": pairs.uri, "pair_id": pair_id, "reason": reason}
            for pairs in self.pairs
            for pair_id, reason in sorted(pairs.unusable.copy().items())
        ]


def _batches(run: TrainingRun, examples: Examples, images: ImageFormat, start: int, place: Place) -> Iterator[Batch]:
    """This worker's share of every step's batch, prepared ahead in threads."""
    sampler = examples.sampler()

    def prepare(step: int) -> Batch:
        slots = range(place.rank, run.batch_size, place.n_workers)
        picks = sampler.examples_of(step)
        return collate([examples.example(picks[slot], step, slot) for slot in slots], images)

    pool = ThreadPoolExecutor(run.loaders)
    ahead: deque[Future[Batch]] = deque()
    try:
        for step in range(start, run.trainer.steps):
            ahead.append(pool.submit(prepare, step))
            if len(ahead) > 2 * run.loaders:
                yield ahead.popleft().result()
        for batch in ahead:
            yield batch.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _validation(run: TrainingRun) -> Validation | None:
    if run.validation is None:
        return None
    return Validation(run.validation, run.image_root, run.validation_pairs, run.seed, protocol(run.protocol))


def _wrapper(place: Place) -> Callable[[nn.Module], nn.Module] | None:
    if place.n_workers == 1:
        return None
    devices = [place.device] if place.device.type == "cuda" else None
    return lambda module: nn.parallel.DistributedDataParallel(module, device_ids=devices, broadcast_buffers=False)


def _mean_over_workers(told: dict[str, float], place: Place) -> dict[str, float]:
    if place.n_workers == 1:
        return told
    values = torch.tensor(list(told.values()), device=place.device, dtype=torch.float64)
    torch.distributed.all_reduce(values)
    return dict(zip(told, (values / place.n_workers).tolist(), strict=True))


def _unusable(earlier: list[dict[str, str]], examples: Examples, place: Place) -> list[dict[str, str]]:
    """Those known earlier and those that any worker has met since."""
    met = [examples.unusable()]
    if place.n_workers > 1:
        met = [[] for _ in range(place.n_workers)]
        torch.distributed.all_gather_object(met, examples.unusable())
    rows = {(row["pairs"], row["pair_id"]): row for found in [earlier, *met] for row in found}
    return [rows[key] for key in sorted(rows)]
