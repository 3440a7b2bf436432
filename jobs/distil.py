"""Replace a network's backbone by a smaller one, trained on photographs to give its maps.

    python -m jobs.distil --teacher runs/large/checkpoint --student nemf-small --photographs photographs.parquet \
        --out runs/small --steps 6000

Writes the teacher with the student's backbone, and its model card, to OUT/checkpoint, from where jobs.train can go on.
One process; run the same command again after any interruption, and it goes on from the last of its states with the
same losses.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import torch
from tqdm import tqdm

from jobs.command import Uris, as_json, run_command
from nemf import checkpoints
from nemf.load import find_device
from nemf.matchers.table import is_checkpoint
from nemf.model.backbone import build_backbone
from nemf.model.presets import PRESETS, NeMFConfig
from nemf.training.distil import Distiller
from nemf.training.loop import TrainerConfig
from pipeline.io import storage
from pipeline.io.prefetch import prefetch
from pipeline.io.uri_field import Uri, UriField, with_absolute_uris
from pipeline.runs.lease import acquire
from pipeline.runs.signals import stopping_on_signals
from pipeline.training.folder import (
    checkpoint_files,
    describe_run,
    merge_unusable,
    open_training,
    read_history,
    read_state,
    read_success,
    write_checkpoint,
    write_state,
    write_success,
)
from pipeline.training.photographs import Photographs

_NOT_SHAPING = {"out", "checkpoint_every", "device", "loaders"}
"""Settings that may change from one attempt to the next."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """Who learns from whom, on what, and how long."""

    photographs: Uris
    """PAIRS manifests whose images are looked at, twice as often where one is named twice; keypoints do not matter."""
    out: Uri
    """Folder of the run, path or URI; created, or continued if it holds the same run."""
    teacher: Uri
    """Checkpoint folder, path or URI, of the network whose backbone is to be replaced."""
    image_root: Uri | None = None
    """Folder, path or URI, that relative image URIs of the manifests are below."""
    student: Annotated[str, UriField(names=tuple(PRESETS))] = "nemf-small"
    """Whose backbone learns: a name of nemf.model.presets, with random weights, or a checkpoint folder, path or URI."""
    steps: int = 6000
    """Steps in all."""
    batch_size: int = 16
    """Images in a step."""
    lr: float = 2e-3
    """Learning rate after the warm-up; it falls to 0 along half a cosine."""
    warmup_steps: int = 200
    """Steps in which the rate rises to its full size."""
    bfloat16: bool = False
    """Mixed precision: faster on GPUs, and on CPUs that multiply bfloat16 (AMX)."""
    seed: int = 0
    """Of all random draws."""
    log_every: int = 10
    """Steps from one row of the history to the next."""
    checkpoint_every: int = 200
    """Steps from one saved state to the next: what a crash can cost."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    threads: int = 1
    """Threads to compute with; losses change with it in their last digits."""
    loaders: int = 1
    """Threads that prepare batches."""

    def check(self) -> None:
        """Raises ValueError for settings that cannot be."""
        if not self.photographs:
            raise ValueError("--photographs must name at least one manifest")
        for name in ("steps", "batch_size", "log_every", "checkpoint_every", "threads", "loaders"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1; got {getattr(self, name)}")
        if self.student not in PRESETS and not is_checkpoint(self.student):
            raise ValueError(f"--student must be {', '.join(PRESETS)} or a checkpoint folder; got {self.student}")

    @property
    def trainer(self) -> TrainerConfig:
        """Raises ValueError for rates that cannot be."""
        return TrainerConfig(
            steps=self.steps,
            lr=self.lr,
            warmup_steps=self.warmup_steps,
            final_lr_share=0.0,
            bfloat16=self.bfloat16,
            seed=self.seed,
        )


def run(config: Config) -> str:
    """Train, and return the checkpoint folder.

    Raises ValueError or OSError for what the caller can mend, and KeyboardInterrupt after a signal; the last state
    that was saved stays in every case.
    """
    config.check()
    config = with_absolute_uris(config)
    distiller = _distiller(config)
    settings = {name: value for name, value in as_json(config).items() if name not in _NOT_SHAPING}
    files = checkpoint_files(config.teacher)
    if config.student not in PRESETS:
        files += checkpoint_files(config.student)
    open_training(config.out, describe_run(settings, config.photographs, files))
    if read_success(config.out) is None:
        lease = acquire(config.out)
        try:
            with stopping_on_signals(lease) as stopped:
                _train(config, distiller, stopped.is_set)
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


def _distiller(config: Config) -> Distiller:
    torch.manual_seed(config.seed)
    if config.student in PRESETS:
        preset = PRESETS[config.student]()
        student = build_backbone(preset.backbone, preset.backbone_config)
    else:
        student = checkpoints.load(config.student).backbone
    return Distiller(student, checkpoints.load(config.teacher), config.trainer, find_device(config.device))


def _student(config: Config) -> NeMFConfig:
    return PRESETS[config.student]() if config.student in PRESETS else checkpoints.read_config(config.student)


def _train(config: Config, distiller: Distiller, stop_requested: Callable[[], bool]) -> None:
    torch.set_num_threads(config.threads)
    student, teacher = _student(config), checkpoints.read_config(config.teacher)
    written = replace(teacher, backbone=student.backbone, backbone_config=student.backbone_config)
    search = checkpoints.read_search(config.teacher)
    history: dict[str, list[dict[str, Any]]] = {"training": [], "unusable": []}
    if state := read_state(config.out):
        distiller.load_state_dict(state["trainer"])
        history = state["history"]
    images = Photographs(config.photographs, config.image_root, distiller.teacher.image_size, config.seed)
    batches = prefetch(
        lambda step: images.batch(step, config.batch_size), range(distiller.step_number, config.steps), config.loaders
    )
    with tqdm(batches, total=config.steps, initial=distiller.step_number, unit="step", mininterval=0.5) as progress:
        for batch in progress:
            try:
                metrics = distiller.step(batch)
            except FloatingPointError as error:
                raise ValueError(f"{error}; lessen --lr, in a new --out") from error
            step = distiller.step_number
            last = step == config.steps
            if step % config.log_every == 0 or last:
                history["training"].append({"step": step, **metrics})
                progress.set_postfix(distance=f"{metrics['distance']:.3f}", refresh=False)
            if step % config.checkpoint_every == 0 or last or stop_requested():
                history["unusable"] = merge_unusable(history["unusable"], images.unusable())
                write_state(config.out, {"trainer": distiller.state_dict(), "history": history})
                if stop_requested() and not last:
                    return
    write_checkpoint(config.out, distiller.distilled(), written, search, [])
    write_success(config.out, {"steps": config.steps})


if __name__ == "__main__":
    sys.exit(main())
