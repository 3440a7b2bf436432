"""Distillation: a backbone learns from random weights to give the maps that another one, the teacher, gives.

Photographs are all it takes. What the student knows of anything else it knows from its teacher.
"""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nemf.model.backbone import Backbone
from nemf.model.correlation import normalise
from nemf.training.loop import TrainerConfig, rate_share


class Distiller:
    """Trains a student in place. Its batch normalisation learns its statistics here, and nowhere else.

    teacher: for every map of the student it must give one of the same size; others are not looked at.
    config: the rates, the clipping and bfloat16 of a Trainer's; its losses and its averaging mean nothing here.
    Raises ValueError where the teacher gives no map of a size that the student gives.
    """

    def __init__(self, student: Backbone, teacher: Backbone, config: TrainerConfig, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.student = student.to(device).to(memory_format=torch.channels_last)
        self.teacher = teacher.to(device).to(memory_format=torch.channels_last)
        blank = torch.zeros(1, 3, 64, 64, device=device)
        with torch.no_grad():
            ours, theirs = ([level.shape[1:] for level in each(blank)] for each in (student, teacher))
        sides = {side: number for number, (_, _, side) in enumerate(theirs)}
        if not all(side in sides for _, _, side in ours):
            raise ValueError(
                "the teacher must give maps of the sizes of the student's; of 64 x 64 pixels it gives "
                f"{', '.join(map(str, sides))} cells a side, the student {', '.join(str(side) for *_, side in ours)}"
            )
        self._level = [sides[side] for _, _, side in ours]
        channels = [(our[0], theirs[level][0]) for our, level in zip(ours, self._level, strict=True)]
        self.adapters = nn.ModuleList(nn.Conv2d(before, after, 1) for before, after in channels).to(device)
        self.student.network.requires_grad_(True)
        self._parameters = [*self.student.network.parameters(), *self.adapters.parameters()]
        self._optimiser = torch.optim.AdamW(self._parameters, lr=config.lr, weight_decay=config.weight_decay)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, lambda step: rate_share(step, config))
        self.step_number = 0

    def step(self, rgb: Float[Tensor, "b 3 h w"]) -> dict[str, float]:
        """Takes one step on images in [0, 1]; gives the loss before it and the rate.

        The loss is the squared distance between unit vectors, the teacher's at a cell and the student's there after a
        linear map: 2 - 2 cosines, the mean over cells and maps; 0 is a perfect copy.
        """
        rgb = rgb.to(self.device, memory_format=torch.channels_last)
        self.student.network.train()  # the Backbone around it never leaves eval mode itself
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            with torch.no_grad():
                maps = self.teacher(_normalised(rgb, self.teacher))
                wanted = [maps[level] for level in self._level]
            given = self.student(_normalised(rgb, self.student))
            adapted = [adapt(level) for adapt, level in zip(self.adapters, given, strict=True)]
        distances = [
            F.mse_loss(normalise(ours.float()), normalise(theirs.float()), reduction="sum") / theirs[:, 0].numel()
            for ours, theirs in zip(adapted, wanted, strict=True)
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

    def state_dict(self) -> dict[str, Any]:
        """What the next steps depend on, beside configuration and batches."""
        return {
            "step_number": self.step_number,
            "student": self.student.state_dict(),
            "adapters": self.adapters.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from a state of the same student, teacher and configuration."""
        self.student.load_state_dict(state["student"])
        self.adapters.load_state_dict(state["adapters"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self.step_number = state["step_number"]


def _normalised(rgb: Tensor, backbone: Backbone) -> Tensor:
    return (rgb - backbone.mean) / backbone.std
