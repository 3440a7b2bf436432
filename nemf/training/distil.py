"""Distillation: a student backbone learns to reproduce the feature maps of a teacher network's backbone and neck.

Only photographs are needed, no annotations.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nemf.model.backbone import Backbone
from nemf.model.bfloat16_check import check_bfloat16
from nemf.model.correlation import normalise
from nemf.model.network import NeMF
from nemf.training.config import DistillerConfig
from nemf.training.loop import CLIP_NORM, WEIGHT_DECAY, rate_share


class Distiller:
    """Trains a student in place, its batch normalisation included.

    teacher: not changed.
    Raises ValueError for a configuration out of range, where the student's maps do not have the shapes of those of the
    teacher's backbone, and for bfloat16 where the device computes a convolution of either wrongly by it.
    """

    def __init__(self, student: Backbone, teacher: NeMF, config: DistillerConfig, device: torch.device) -> None:
        config.check()
        self.config = config
        self.device = device
        self.student = student.to(device).to(memory_format=torch.channels_last)
        self.teacher = teacher.to(device).requires_grad_(False).eval()
        for part in (self.teacher.backbone, self.teacher.neck):
            if part is not None:
                part.to(memory_format=torch.channels_last)
        blank = torch.zeros(1, 3, teacher.image_size, teacher.image_size, device=device)
        with torch.no_grad():
            student_shapes, teacher_shapes = (
                [tuple(level.shape[1:]) for level in backbone(blank)] for backbone in (self.student, teacher.backbone)
            )
        if student_shapes != teacher_shapes:
            raise ValueError(
                f"the student must give maps like its teacher's, {teacher_shapes} channels, rows and columns; it gives "
                f"{student_shapes}"
            )
        for backbone in (self.student, self.teacher.backbone) if config.bfloat16 else ():
            check_bfloat16(backbone, teacher.image_size)
        self.student.network.requires_grad_(True)
        self._parameters = list(self.student.network.parameters())
        self._optimiser = torch.optim.AdamW(self._parameters, lr=config.lr, weight_decay=WEIGHT_DECAY)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, lambda step: rate_share(step, config))
        self.step_number = 0

    def step(self, rgb: Float[Tensor, "b 3 h w"]) -> dict[str, float]:
        """One step on images in [0, 1]. Returns `distance`, the loss before the step, and `lr`.

        The loss is the squared distance between the unit vectors of student and teacher at a cell, 2 - 2 cosine, 0 for
        a perfect copy: the mean over the cells of a map, and over the backbone's maps and those of the neck.
        Raises FloatingPointError where the gradient is not finite; the weights are then those before the step.
        """
        rgb = rgb.to(self.device, memory_format=torch.channels_last)
        self.student.network.train()  # the Backbone around it never leaves eval mode itself
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            with torch.no_grad():
                teacher_maps = self._feature_maps(self.teacher.backbone, rgb)
            student_maps = self._feature_maps(self.student, rgb)
        distances = [
            F.mse_loss(normalise(ours.float()), normalise(theirs.float()), reduction="sum") / theirs[:, 0].numel()
            for ours, theirs in zip(student_maps, teacher_maps, strict=True)
        ]
        loss = torch.stack(distances).mean()
        self._optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM)
        if not norm.isfinite():
            raise FloatingPointError(f"step {self.step_number}: the gradient is not finite; loss {loss.item()}")
        metrics = {"distance": loss.item(), "lr": self._optimiser.param_groups[0]["lr"]}
        self._optimiser.step()
        self._schedule.step()
        self.step_number += 1
        return metrics

    def distilled(self) -> NeMF:
        """The teacher with the student as its backbone; it shares the parameters of both."""
        return NeMF(
            self.student,
            self.teacher.cost_encoder,
            self.teacher.field,
            neck=self.teacher.neck,
            image_size=self.teacher.image_size,
        ).eval()

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on besides teacher, configuration and batches, as plain values and tensors."""
        return {
            "step_number": self.step_number,
            "student": self.student.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of the same student, teacher and configuration."""
        self.student.load_state_dict(state["student"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self.step_number = state["step_number"]

    def _feature_maps(self, backbone: Backbone, rgb: Tensor) -> list[Tensor]:
        """The backbone's maps, each (b, c, h, w), and those that the teacher's neck makes of them."""
        maps = backbone((rgb - backbone.mean) / backbone.std)
        return maps if self.teacher.neck is None else [*maps, *self.teacher.neck(maps)]
