"""Distillation in one process: from the folder's last state to the last step, and the distilled network written."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from tqdm import tqdm

from nemf import checkpoints
from nemf.load import find_device
from nemf.model.backbone import build_backbone
from nemf.model.presets import PRESETS, NeMFConfig
from nemf.training.distil import Distiller
from pipeline.io.prefetch import prefetch
from pipeline.training.config import DistillationConfig
from pipeline.training.folder import merge_unusable, read_state, write_checkpoint, write_state, write_success
from pipeline.training.photographs import Photographs


def build_distiller(config: DistillationConfig) -> Distiller:
    """The distiller at step 0. Raises ValueError and OSError as Distiller and nemf.checkpoints.load do."""
    torch.manual_seed(config.distiller.seed)
    if config.student in PRESETS:
        preset = PRESETS[config.student]()
        student = build_backbone(preset.backbone, preset.backbone_config)
    else:
        student = checkpoints.load_nemf(config.student, "--student").backbone
    return Distiller(
        student, checkpoints.load_nemf(config.teacher, "--teacher"), config.distiller, find_device(config.device)
    )


def distil(config: DistillationConfig, distiller: Distiller, stop_requested: Callable[[], bool]) -> None:
    """Train to the last step, write the checkpoint, and mark the run as finished.

    distiller: at step 0; the folder's last state is restored. stop_requested: called at each step; once it is true the
    state is saved and training ends. Raises ValueError or OSError for bad input.
    """
    torch.set_num_threads(config.threads)
    network, search = _distilled_config(config), checkpoints.read_search(config.teacher)
    history: dict[str, list[dict[str, Any]]] = {"training": [], "unusable": []}
    if state := read_state(config.out):
        distiller.load_state_dict(state["trainer"])
        history = state["history"]
    n_steps, first_step = config.distiller.steps, distiller.step_number
    images = Photographs(config.photographs, config.image_root, distiller.teacher.image_size, config.distiller.seed)
    batches = prefetch(lambda step: images.batch(step, config.batch_size), range(first_step, n_steps), config.loaders)
    with tqdm(batches, total=n_steps, initial=first_step, unit="step", mininterval=0.5) as progress:
        for batch in progress:
            try:
                metrics = distiller.step(batch)
            except FloatingPointError as error:
                raise ValueError(f"{error}; lessen --lr, in a new --out") from error
            step = distiller.step_number
            last = step == n_steps
            if step % config.log_every == 0 or last:
                history["training"].append({"step": step, **metrics})
                progress.set_postfix(distance=f"{metrics['distance']:.3f}", refresh=False)
            if step % config.checkpoint_every == 0 or last or stop_requested():
                history["unusable"] = merge_unusable(history["unusable"], images.unusable())
                write_state(config.out, {"trainer": distiller.state_dict(), "history": history})
                if stop_requested() and not last:
                    return
    write_checkpoint(config.out, distiller.distilled(), network, search, [])
    write_success(config.out, {"steps": n_steps})


def _distilled_config(config: DistillationConfig) -> NeMFConfig:
    """The teacher's sizes with the student's backbone."""
    student = PRESETS[config.student]() if config.student in PRESETS else checkpoints.read_config(config.student)
    teacher = checkpoints.read_config(config.teacher)
    return replace(teacher, backbone=student.backbone, backbone_config=student.backbone_config)
