"""Train a network on annotated pairs, and resume after interruptions.

    nemf train --pairs train.parquet --validation val.parquet --out runs/mine --start shipped \\
        --steps 2000 --lr 3e-4

Writes the trained network and its model card to OUT/checkpoint (what nemf.load_matcher reads), the losses to
OUT/history.json, OUT/curves.png and OUT/tensorboard. Run the same command again after any interruption: it resumes from
the last saved state, with the losses of an uninterrupted run. Cost: some 20 s to start; then see seconds_per_step in
the history. Whole trainings are in jobs/recipes.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from jobs.command import Uris, as_json, run_command
from nemf import pretrained
from nemf.matchers.table import is_checkpoint
from nemf.presets import PRESETS
from nemf.training.config import REPORTED_LOSSES
from pipeline.evaluation.protocols import protocol
from pipeline.io import storage
from pipeline.io.uri_field import with_absolute_uris
from pipeline.runs.lease import acquire
from pipeline.training.config import SELECTION_METRIC, SHIPPED, TrainingConfig

_RESUMABLE_CHANGES = {"out", "checkpoint_every", "device", "loaders", "address"}
"""Settings that may change from one attempt to the next."""


@dataclass(frozen=True, kw_only=True)
class Config(TrainingConfig):
    """The network to train, its data, and the settings of the training."""

    pairs: Uris
    photographs: Uris = ()
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto: GPUs if the cluster has any."""
    workers: int = 1
    """Processes that share each batch, one per GPU."""
    address: str | None = None
    """Ray cluster to run on; default: RAY_ADDRESS, else an embedded one on this machine."""

    def check(self) -> None:
        """Raises ValueError for settings out of range or that contradict each other."""
        if not self.pairs:
            raise ValueError("--pairs must name at least one manifest")
        settings = as_json(self)
        positive = ("steps", "batch_size", "validation_pairs", "log_every", "checkpoint_every", "validate_every")
        for name in (*positive, "workers", "threads", "loaders"):
            if settings[name] < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {settings[name]}")
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
        has_neck = self.start in PRESETS and bool(getattr(PRESETS[self.start](), "neck_channels", 0))
        if has_neck and not self.trainer.loss.descriptor_weight:
            raise ValueError(
                f"{self.start} has a neck, which starts at random and which only --descriptor-weight trains: give one, "
                "or --start from a checkpoint whose neck is trained"
            )
        if self.photographs and not self.warp_share:
            raise ValueError("--photographs are warped, and --warp-share says how often: give one above 0")
        if self.start not in PRESETS and self.backbone_weights is not None:
            raise ValueError(f"{self.start} holds its backbone's weights: leave out --backbone-weights")
        if self.start not in PRESETS and self.backbone is not None:
            raise ValueError(
                f"{self.start} holds its backbone: leave out --backbone, or --start from one of {', '.join(PRESETS)}"
            )
        protocol(self.protocol)
        self.trainer.check()


def run(config: Config) -> str:
    """Train, and return the checkpoint folder.

    Raises ValueError or OSError for bad input, ClusterError when Ray or a worker failed, and
    KeyboardInterrupt after a signal; the last saved state stays in every case.
    """
    # they import torch, which takes seconds
    from pipeline.training.folder import open_training, read_history, read_success
    from pipeline.training.network import search_settings

    config.check()
    if config.start == SHIPPED:
        config = replace(config, start=str(pretrained.folder("nemf-small")))
    config = with_absolute_uris(config)
    search_settings(config)
    open_training(config.out, _describe(config))
    if read_success(config.out) is None:
        # a finished run needs no Ray, which takes seconds to import
        from pipeline.training.driver import train_on_ray

        lease = acquire(config.out)
        try:
            train_on_ray(config, lease, device=config.device, n_workers=config.workers, address=config.address)
        finally:
            lease.release()
    checkpoint = storage.join(config.out, "checkpoint")
    print(_summary(checkpoint, read_history(config.out)))
    return checkpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


def _describe(config: Config) -> dict[str, Any]:
    """The content of run.json. Reads every input, so that a bad one is an error before anything starts."""
    from nemf import checkpoints
    from pipeline.training.folder import checkpoint_files, describe_run, weights_files
    from pipeline.training.network import network_config

    manifests = [*config.pairs, *config.photographs, *([config.validation] if config.validation else [])]
    checkpoints.check_sizes(
        network_config(config.start, config.backbone_weights, config.cost_features, config.image_size, config.backbone)
    )
    files = weights_files(config.backbone_weights) if config.start in PRESETS else checkpoint_files(config.start)
    settings = {name: value for name, value in as_json(config).items() if name not in _RESUMABLE_CHANGES}
    return describe_run(settings, manifests, files)


def _summary(checkpoint: str, history: dict[str, list[dict[str, Any]]]) -> str:
    """The last losses, the best validation and the first unusable rows, as text."""
    last = history["training"][-1]
    losses = ", ".join(f"{name} loss {last[name]:.3f}" for name in REPORTED_LOSSES if name in last)
    lines = [f"{checkpoint}: after {last['step']} steps, {losses}"]
    if history["validation"]:
        best = max(history["validation"], key=lambda row: row[SELECTION_METRIC])
        pck = f"{SELECTION_METRIC} {best[SELECTION_METRIC]:.2f}"
        lines.append(f"best on the validation pairs: {pck} after {best['step']} steps")
    if unusable := history["unusable"]:
        examples = [f"  {row['pair_id']} of {row['pairs']}: {row['reason']}" for row in unusable[:5]]
        rows = f"{len(unusable)} row{'s' if len(unusable) > 1 else ''}"
        lines += [f"{rows} could not be used; all are in history.json, such as", *examples]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
