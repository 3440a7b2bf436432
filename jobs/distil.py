"""Replace a network's backbone by a smaller one trained to reproduce its feature maps.

    nemf distil --teacher runs/large/checkpoint --student nemf-small --photographs photographs.parquet \\
        --out runs/small --steps 6000

Writes the teacher with the student's backbone, and its model card, to OUT/checkpoint, which `nemf train` can start
from. One process; run the same command again after any interruption, and it resumes from the last saved state with the
same losses.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.command import Uris, as_json, run_command
from nemf.matchers.table import is_checkpoint
from nemf.model.presets import PRESETS
from pipeline.io import storage
from pipeline.io.uri_field import with_absolute_uris
from pipeline.runs.lease import acquire
from pipeline.runs.signals import stopping_on_signals
from pipeline.training.config import DistillationConfig

_RESUMABLE_CHANGES = {"out", "checkpoint_every", "device", "loaders"}
"""Settings that may change from one attempt to the next."""


@dataclass(frozen=True, kw_only=True)
class Config(DistillationConfig):
    """Teacher and student of a distillation, its photographs, and how it is trained."""

    photographs: Uris

    def check(self) -> None:
        """Raises ValueError for settings out of range."""
        if not self.photographs:
            raise ValueError("--photographs must name at least one manifest")
        settings = as_json(self)
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "threads", "loaders"):
            if settings[name] < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {settings[name]}")
        if self.student not in PRESETS and not is_checkpoint(self.student):
            raise ValueError(f"--student must be {', '.join(PRESETS)} or a checkpoint folder; got {self.student}")
        self.distiller.check()


def run(config: Config) -> str:
    """Train, and return the checkpoint folder.

    Raises ValueError or OSError for bad input, and KeyboardInterrupt after a signal; the last saved
    state stays in every case.
    """
    # they import torch, which takes seconds
    from pipeline.training.distillation import build_distiller, distil
    from pipeline.training.folder import checkpoint_files, describe_run, open_training, read_history, read_success

    config.check()
    config = with_absolute_uris(config)
    distiller = build_distiller(config)
    settings = {name: value for name, value in as_json(config).items() if name not in _RESUMABLE_CHANGES}
    files = checkpoint_files(config.teacher)
    if config.student not in PRESETS:
        files += checkpoint_files(config.student)
    open_training(config.out, describe_run(settings, config.photographs, files))
    if read_success(config.out) is None:
        lease = acquire(config.out)
        try:
            with stopping_on_signals(lease) as stopped:
                distil(config, distiller, stopped.is_set)
        finally:
            lease.release()
        if read_success(config.out) is None:
            raise KeyboardInterrupt("the state is saved: run the same command again to go on")
    history = read_history(config.out)
    last = history["training"][-1]
    checkpoint = storage.join(config.out, "checkpoint")
    print(f"{checkpoint}: after {last['step']} steps, mean squared distance of unit vectors {last['distance']:.3f}")
    if history["unusable"]:
        print(f"{len(history['unusable'])} rows could not be used; all are in history.json")
    return checkpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


if __name__ == "__main__":
    sys.exit(main())
