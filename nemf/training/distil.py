"""Distillation: a small backbone learns to stand in for a network's own, behind the same neck.

Photographs are all it takes. What the student knows of anything else it knows from its teacher.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nemf.model.backbone import Backbone
from nemf.model.correlation import normalise
from nemf.model.network import NeMF
from nemf.training.loop import TrainerConfig, rate_share


class Distiller:
    """Trains a student in place. Its batch normalisation learns its statistics here, and nowhere else.

    teacher: stays as it is.
    config: the rates, the clipping and bfloat16 of a Trainer's; its losses and its averaging mean nothing here.
    Raises ValueError where the student's maps have not the shapes of those of the teacher's backbone.
    """

    def __init__(self, student: Backbone, teacher: NeMF, config: TrainerConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.student = student.to(device).to(memory_format=torch.channels_last)
        self.teacher = teacher.to(device).requires_grad_(False).eval()
        for images_in in (self.teacher.backbone, self.teacher.neck):
            if images_in is not None:
                images_in.to(memory_format=torch.channels_last)
        blank = torch.zeros(1, 3, teacher.image_size, teacher.image_size, device=device)
        with torch.no_grad():
            ours, theirs = (
                [tuple(level.shape[1:]) for level in each(blank)] for each in (self.student, teacher.backbone)
            )
        if ours != theirs:
            raise ValueError(
                f"the student must give maps like its teacher's, {theirs} channels, rows and columns; it gives {ours}"
            )
        self.student.network.requires_grad_(True)
        self._parameters = list(self.student.network.parameters())
        self._optimiser = torch.optim.AdamW(self._parameters, lr=config.lr, weight_decay=config.weight_decay)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, lambda step: rate_share(step, config))
        self.step_number = 0

    def step(self, rgb: Float[Tensor, "b 3 h w"]) -> dict[str, float]:
        """Takes one step on images in [0, 1]; gives the loss before it and the rate.

        The loss is the squared distance between the student's unit vectors and the teacher's at a cell, which is
        2 - 2 cosines: the mean over the cells of a map, and over the backbones' maps and those that the neck makes of
        them. 0 is a perfect copy.
        """
        rgb = rgb.to(self.device, memory_format=torch.channels_last)
        self.student.network.train()  # the Backbone around it never leaves eval mode itself
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            with torch.no_grad():
                wanted = self._seen_through(self.teacher.backbone, rgb)
            given = self._seen_through(self.student, rgb)
        distances = [
            F.mse_loss(normalise(ours.float()), normalise(theirs.float()), reduction="sum") / theirs[:, 0].numel()
            for ours, theirs in zip(given, wanted, strict=True)
        ]
        loss = torch.stack(distances).mean()
        self._optimiser.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, self.config.clip_norm)
        if not norm.isfinite():
            raise FloatingPointError(f"step {self.step_number}: the gradient is not finite; loss {loss.item()}")
        told = {"distance": loss.item(), "lr": self._optimiser.param_groups[0]["lr"]}
        self._optimiser.step()
        self._schedule.step()
        self.step_number += 1
        return told

    def distilled(self) -> NeMF:
        """The teacher with the student in place of its backbone; they share what they have."""
        return NeMF(
            self.student,
            self.teacher.cost_encoder,
            self.teacher.field,
            neck=self.teacher.neck,
            image_size=self.teacher.image_size,
        ).eval()

    def state_dict(self) -> dict[str, Any]:
        """What the next steps depend on, beside teacher, configuration and batches."""
        return {
            "step_number": self.step_number,
            "student": self.student.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state of the same student, teacher and configuration."""
        self.student.load_state_dict(state["student"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self.step_number = state["step_number"]

    def _seen_through(self, backbone: Backbone, rgb: Tensor) -> list[Tensor]:
        """The maps of a backbone, and those that the teacher's neck makes of them."""
        maps = backbone((rgb - backbone.mean) / backbone.std)
        return maps if self.teacher.neck is None else [*maps, *self.teacher.neck(maps)]
