"""Train a NeMF network on annotated pairs, durably.

    python -m jobs.train --pairs train.parquet --validation val.parquet --out runs/mine --start shipped \
        --steps 2000 --lr 3e-4

Writes the network to keep and its model card to OUT/checkpoint (what nemf.load_matcher reads), the losses to
OUT/history.json, OUT/curves.png and OUT/tensorboard. Run the same command again after any interruption: it goes on from
the last of its states, and the losses are those of a run nobody interrupted. Cost: some 20 s to start; then see
seconds_per_step in the history. Whole trainings are in jobs/recipes.py.
"""

import queue
import sys
import tempfile
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from tqdm import tqdm

from jobs.command import Uris, as_json, run_command
from nemf import checkpoints, pretrained
from nemf.matchers.table import is_checkpoint
from nemf.model.presets import PRESETS
from nemf.search.config import search_options
from nemf.training.loop import TrainerConfig
from nemf.training.losses import LOSS_NAMES, LossConfig
from pipeline.cluster.errors import ClusterError
from pipeline.evaluation.protocols import protocol
from pipeline.io import storage
from pipeline.io.uri_field import Uri, UriField, with_absolute_uris
from pipeline.runs.lease import Lease, acquire
from pipeline.runs.signals import stopping_on_signals
from pipeline.training.folder import (
    checkpoint_files,
    describe_run,
    open_training,
    read_history,
    read_success,
    weights_files,
    write_success,
)
from pipeline.training.validation import SELECTION_METRIC
from pipeline.training.worker import TrainingConfig, WorkerContext, network_config, train

SHIPPED = "shipped"
_TRAINER, _LOSS = TrainerConfig(steps=1), LossConfig()
_NOT_SHAPING = {"out", "checkpoint_every", "device", "loaders", "address"}
"""Settings that may change from one attempt to the next."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, on what, and how."""

    pairs: Uris
    """PAIRS manifests to learn from, paths or URIs."""
    out: Uri
    """Folder of the run, path or URI; created, or continued if it holds the same run."""
    weights: tuple[float, ...] = ()
    """How often each manifest is drawn from, relative to the others; default: all alike."""
    photographs: Uris = ()
    """PAIRS manifests whose images are warped, keypoints or not; default: those of --pairs."""
    image_root: Uri | None = None
    """Folder, path or URI, that relative image URIs of the manifests are below."""
    names_across_categories: bool = False
    """Keypoints of one name match across categories too (a cat's left eye and a dog's)."""
    start: Annotated[str, UriField(names=(*PRESETS, SHIPPED))] = "nemf-small"
    """What to train: paper, nemf-small or nemf-mobilenet, from random weights behind a trained backbone; a checkpoint
    folder; or shipped, the network of the matcher nemf-small."""
    cost_features: Literal["raw", "convolution", "attention", "both"] | None = None
    """What is between correlation and field (Table 3 of the paper); default: as the start has it."""
    image_size: int | None = None
    """Side of the square images the network takes, in pixels; default: as the start has it. From a checkpoint of
    another size, backbone and neck are taken, and the rest starts anew."""
    backbone_weights: Uri | None = None
    """Local safetensors file of backbone weights, with a .json beside it; default: the library's own."""
    steps: int = 10_000
    """Steps in all."""
    batch_size: int = 8
    """Pairs in a step, all workers' together."""
    lr: float = _TRAINER.lr
    """Learning rate of all but the backbone."""
    backbone_lr: float | None = None
    """Learning rate of the backbone; default: it stays as it is."""
    warmup_steps: int = _TRAINER.warmup_steps
    """Steps in which the rates rise to their full size."""
    final_lr_share: float = _TRAINER.final_lr_share
    """What share of the rates is left at the end, along half a cosine."""
    ema_decay: float = _TRAINER.ema_decay
    """How much of the averaged weights, which are those to keep, stays at each step; 0 for no averaging."""
    field_weight: float = _LOSS.field_weight
    """Weight of the field's loss, the paper's lambda_f."""
    flow_weight: float = _LOSS.flow_weight
    """Weight of the coarse flow's loss, the paper's lambda_c."""
    descriptor_weight: float = _LOSS.descriptor_weight
    """Weight of the loss that trains descriptors to match before any cost volume; with the other two at 0 the cost
    encoder and the field are left alone."""
    negatives: int = _LOSS.negatives
    """Wrong candidates for each point and direction."""
    hard: float = _LOSS.hard
    """Share of the negatives that are near misses."""
    augment: bool = True
    """Move, crop, mirror and recolour the images at random."""
    warp_share: float = 0.0
    """Share of the examples that are a photograph and a warped copy of it."""
    bfloat16: bool = False
    """Mixed precision: faster on GPUs, and on CPUs that multiply bfloat16 (AMX)."""
    seed: int = 0
    """Of all random draws."""
    search: tuple[str, ...] = ()
    """Settings of the search that validates and that the checkpoint brings along, name=value, see
    nemf.search.config.SearchConfig; default: those of the start, else the published ones."""
    validation: Uri | None = None
    """PAIRS manifest that chooses the checkpoint; default: the last one is kept."""
    validation_pairs: int = 100
    """How many of its pairs to match, chosen at random once."""
    protocol: str = "spair"
    """How PCK is measured on them."""
    log_every: int = 10
    """Steps from one row of the history to the next."""
    checkpoint_every: int = 200
    """Steps from one saved state to the next: what a crash can cost."""
    validate_every: int = 1000
    """Steps from one validation to the next."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to train; auto: on GPUs if the cluster has any."""
    workers: int = 1
    """Processes that share each batch, one per GPU."""
    threads: int = 1
    """Threads each of them computes with; losses change with it in their last digits."""
    loaders: int = 1
    """Threads each of them prepares batches with."""
    address: str | None = None
    """Ray cluster to run on; default: RAY_ADDRESS, else an embedded one on this machine."""

    def check(self) -> None:
        """Raises ValueError for settings that cannot be."""
        if not self.pairs:
            raise ValueError("--pairs must name at least one manifest")
        whole = ("steps", "batch_size", "validation_pairs", "log_every", "checkpoint_every", "validate_every")
        for name in (*whole, "workers", "threads", "loaders"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(self, name)}")
        if self.weights and (
            len(self.weights) != len(self.pairs) or not all(0 < w < float("inf") for w in self.weights)
        ):
            raise ValueError(
                f"--weights must be one number above 0 for each of the {len(self.pairs)} manifests; got {self.weights}"
            )
        if not 0 <= self.warp_share <= 1:
            raise ValueError(f"--warp-share is a share, 0..1; got {self.warp_share}")
        if self.batch_size % self.workers:
            raise ValueError(f"--batch-size {self.batch_size} must be divisible by --workers {self.workers}")
        if self.start not in (*PRESETS, SHIPPED) and not is_checkpoint(self.start):
            raise ValueError(
                f"--start must be {', '.join(PRESETS)}, {SHIPPED} or a checkpoint folder; got {self.start}"
            )
        if self.start in PRESETS and PRESETS[self.start]().neck_channels and not self.descriptor_weight:
            raise ValueError(
                f"{self.start} has a neck, which starts at random and which only --descriptor-weight trains: give one, "
                "or --start from a checkpoint whose neck is trained"
            )
        if self.photographs and not self.warp_share:
            raise ValueError("--photographs are warped, and --warp-share says how often: give one above 0")
        if self.start not in PRESETS and self.backbone_weights is not None:
            raise ValueError(f"{self.start} holds its backbone's weights: leave out --backbone-weights")
        protocol(self.protocol)

    @property
    def training(self) -> TrainingConfig:
        """What the workers need. Raises ValueError for settings of the training that cannot be."""
        loss = LossConfig(
            field_weight=self.field_weight,
            flow_weight=self.flow_weight,
            descriptor_weight=self.descriptor_weight,
            negatives=self.negatives,
            hard=self.hard,
        )
        trainer = TrainerConfig(
            steps=self.steps,
            lr=self.lr,
            backbone_lr=self.backbone_lr,
            warmup_steps=self.warmup_steps,
            final_lr_share=self.final_lr_share,
            ema_decay=self.ema_decay,
            bfloat16=self.bfloat16,
            seed=self.seed,
            loss=loss,
        )
        return TrainingConfig(
            out=self.out,
            pairs=self.pairs,
            weights=self.weights or (1.0,) * len(self.pairs),
            photographs=self.photographs,
            image_root=self.image_root,
            names_across_categories=self.names_across_categories,
            start=self.start,
            backbone_weights=self.backbone_weights,
            cost_features=self.cost_features,
            image_size=self.image_size,
            trainer=trainer,
            batch_size=self.batch_size,
            augment=self.augment,
            warp_share=self.warp_share,
            search=self._search,
            validation=self.validation,
            validation_pairs=self.validation_pairs,
            protocol=self.protocol,
            log_every=self.log_every,
            checkpoint_every=self.checkpoint_every,
            validate_every=self.validate_every,
            threads=self.threads,
            loaders=self.loaders,
        )

    @property
    def _search(self) -> dict[str, Any]:
        given = search_options("--search", "&".join(self.search))
        if given or self.start in PRESETS:
            return given
        return checkpoints.read_search(self.start)


def run(config: Config) -> str:
    """Train, and return the checkpoint folder.

    Raises ValueError or OSError for what the caller can mend, ClusterError when Ray or a worker failed, and
    KeyboardInterrupt after a signal; the last state that was saved stays in every case.
    """
    config.check()
    if config.start == SHIPPED:
        config = replace(config, start=str(pretrained.folder("nemf-small")))
    config = with_absolute_uris(config)
    training = config.training
    open_training(config.out, _describe(config))
    checkpoint = storage.join(config.out, "checkpoint")
    if read_success(config.out) is None:
        lease = acquire(config.out)
        try:
            _train_all(config, training, lease)
        finally:
            lease.release()
    print(_summary(checkpoint, read_history(config.out)))
    return checkpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _describe(config: Config) -> dict[str, Any]:
    """What run.json is to say; reads every input, so that one that will not do is an error before anything starts."""
    manifests = [*config.pairs, *config.photographs, *([config.validation] if config.validation else [])]
    files = []
    checkpoints.check_sizes(network_config(config.start, config.cost_features, config.image_size))
    if config.start not in PRESETS:
        files = checkpoint_files(config.start)
    elif config.backbone_weights:
        files = weights_files(config.backbone_weights)
    settings = {name: value for name, value in as_json(config).items() if name not in _NOT_SHAPING}
    return describe_run(settings, manifests, files)


def _train_all(config: Config, training: TrainingConfig, lease: Lease) -> None:
    """Run the workers to the last step, showing how far they are. Raises as `run` does."""
    # Ray takes seconds to import, and a finished run needs none of it.
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer
    from ray.util.queue import Empty, Queue

    from pipeline.cluster.connect import connected, this_cluster
    from pipeline.cluster.resources import choose_device

    with connected(config.address), tempfile.TemporaryDirectory() as scratch:
        device = choose_device(config.device, this_cluster())
        cpus = max(config.threads, config.loaders)
        _require(ray.cluster_resources(), config.workers, cpus, device)
        news = Queue(actor_options={"num_cpus": 0})
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"training": training, "news": news, "stop_file": lease.stop_file},
            scaling_config=ScalingConfig(
                num_workers=config.workers, use_gpu=device == "cuda", resources_per_worker=_resources(cpus, device)
            ),
            run_config=RunConfig(
                name="train",
                storage_path=scratch,  # what has to last is written to --out
                failure_config=FailureConfig(max_failures=0),
            ),
        )
        failures: list[Exception] = []

        def fit() -> None:
            try:
                trainer.fit()
            except Exception as error:  # given to the main thread, which is the one that signals reach
                failures.append(error)

        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        mistake = None
        interval = 0.5 if sys.stderr.isatty() else 10.0
        with (
            stopping_on_signals(lease) as stopped,
            tqdm(total=config.steps, unit="step", mininterval=interval) as progress,
        ):
            while thread.is_alive() or not news.empty():
                try:
                    told = news.get(timeout=0.5)
                except (Empty, queue.Empty):
                    continue
                mistake = told.get("mistake", mistake)
                _show(progress, told)
        if mistake is not None:
            raise ValueError(mistake)
        if failures and isinstance(failures[0], TrainingFailedError):
            reason = " ".join(str(failures[0]).split())[:1000]
            raise ClusterError(f"a worker failed; run the same command again to go on: {reason}")
        if failures:
            raise failures[0]
    if stopped.is_set():
        raise KeyboardInterrupt("the state is saved: run the same command again to go on")
    write_success(config.out, {"steps": config.steps})


def _worker(config: dict[str, Any]) -> None:
    """What Ray Train runs in each process."""
    from ray.train import get_context
    from ray.train.torch import get_device

    context, news = get_context(), config["news"]
    place = WorkerContext(rank=context.get_world_rank(), n_workers=context.get_world_size(), device=get_device())
    try:
        train(config["training"], place, news.put, lambda: storage.exists(config["stop_file"]))
    except (ValueError, OSError, FloatingPointError) as error:
        advice = "; lessen --lr, in a new --out" if isinstance(error, FloatingPointError) else ""
        news.put({"mistake": f"{error}{advice}"})
        raise


def _require(resources: dict[str, float], workers: int, cpus: int, device: str) -> None:
    """Raises ValueError if the cluster has too little: the run would wait for ever."""
    for kind, needed in {name: workers * n for name, n in _resources(cpus, device).items()}.items():
        if needed > resources.get(kind, 0):
            raise ValueError(
                f"{workers} workers need {needed:g} {kind}s, the Ray cluster has {resources.get(kind, 0):g}: ask for "
                "fewer --workers, --threads or --loaders, or a larger cluster"
            )


def _resources(cpus: int, device: str) -> dict[str, float]:
    return {"CPU": float(cpus)} | ({"GPU": 1.0} if device == "cuda" else {})


def _show(progress: tqdm, told: dict[str, Any]) -> None:
    if "step" not in told:
        return
    if len(told) == 1:
        progress.initial = progress.n = told["step"]
    progress.update(told["step"] - progress.n)
    if SELECTION_METRIC in told:
        progress.write(
            f"step {told['step']}: {SELECTION_METRIC} {told[SELECTION_METRIC]:.2f} on the validation pairs",
            file=sys.stderr,
        )
    elif "total" in told:
        progress.set_postfix({name: f"{told[name]:.3f}" for name in LOSS_NAMES if name in told}, refresh=False)


def _summary(checkpoint: str, history: dict[str, list[dict[str, Any]]]) -> str:
    last = history["training"][-1]
    losses = ", ".join(f"{name} loss {last[name]:.3f}" for name in LOSS_NAMES if name in last)
    lines = [f"{checkpoint}: after {last['step']} steps, {losses}"]
    if history["validation"]:
        best = max(history["validation"], key=lambda row: row[SELECTION_METRIC])
        lines.append(
            f"best on the validation pairs: {SELECTION_METRIC} {best[SELECTION_METRIC]:.2f} after {best['step']} steps"
        )
    if unusable := history["unusable"]:
        named = [f"  {row['pair_id']} of {row['pairs']}: {row['reason']}" for row in unusable[:5]]
        rows = f"{len(unusable)} row{'s' if len(unusable) > 1 else ''}"
        lines += [f"{rows} could not be used; all are in history.json, such as", *named]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
