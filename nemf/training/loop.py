"""The trainer: optimiser steps, averaged weights, and a state from which training resumes exactly."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from nemf.model.backbone import Backbone
from nemf.model.bfloat16_check import check_bfloat16
from nemf.training.batch import Batch
from nemf.training.config import DistillerConfig, TrainerConfig
from nemf.training.lora import add_lora, merged
from nemf.training.rng import generator_of
from nemf.training.systems import system_of

WEIGHT_DECAY = 0.01
CLIP_NORM = 1.0
"""Maximum norm of the gradient of all parameters together; a longer one is scaled down to it."""


class Trainer:
    """Trains a network in place, and keeps the exponential moving average of its weights.

    model: of one of nemf.training.systems.
    rank: number of this worker among several; each draws its own negatives.
    wrap: applied to the module that computes the losses, such as DistributedDataParallel.
    Raises ValueError for a configuration out of range, where no parameter would be trained, for a lora_rank where the
    backbone has no attention, and for bfloat16 where the device computes a convolution of the backbone wrongly by it.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainerConfig,
        device: torch.device,
        *,
        rank: int = 0,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        config.check()
        self.config = config
        self.device = device
        self.rank = rank
        self.model = model.to(device)
        for part in (model.backbone, getattr(model, "neck", None)):
            if part is not None:
                part.to(memory_format=torch.channels_last)  # twice as fast in bfloat16
        if config.bfloat16 and isinstance(model.backbone, Backbone):
            side_px: Any = model.image_size
            check_bfloat16(model.backbone, side_px)
        system = system_of(model)
        backbone_lr = None if config.lora_rank else config.backbone_lr
        groups = system.parameter_groups(model, config.lr, backbone_lr, config.loss)
        if config.lora_rank:
            updates = add_lora(model.get_submodule("backbone"), config.lora_rank, generator_of("lora", config.seed))
            groups.append({"params": updates, "lr": config.backbone_lr})
        self._parameters = [parameter for group in groups for parameter in group["params"]]
        self._optimiser = torch.optim.AdamW(groups, weight_decay=WEIGHT_DECAY)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, lambda step: rate_share(step, config))
        self._average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.ema_decay))
        self._average.requires_grad_(False)
        loss = system.loss(model, config.loss)
        self._loss = wrap(loss) if wrap else loss
        self.step_number = 0

    @property
    def averaged(self) -> Any:
        """The network with the averaged weights, to be validated and saved, LoRA's updates merged. Every step changes
        it, or what it was made of."""
        return merged(self._average.module) if self.config.lora_rank else self._average.module

    def step(self, batch: Batch) -> dict[str, float]:
        """One step. Returns the losses before it, `gradient_norm` before clipping, and `lr`.

        Raises FloatingPointError where the gradient is not finite; the weights are then those before the step.
        """
        self._loss.train()
        progress = self.step_number / max(self.config.steps - 1, 1)
        generator = generator_of("negatives", self.config.seed, self.step_number, self.rank)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.bfloat16):
            losses = self._loss(batch.to(self.device), generator, progress)
        self._optimiser.zero_grad()
        losses["total"].backward()
        norm = nn.utils.clip_grad_norm_(self._parameters, CLIP_NORM)
        metrics = {name: loss.item() for name, loss in losses.items()}
        if not norm.isfinite():
            raise FloatingPointError(f"step {self.step_number}: the gradient is not finite; losses {metrics}")
        metrics |= {"gradient_norm": norm.item(), "lr": self._optimiser.param_groups[0]["lr"]}
        self._optimiser.step()
        self._schedule.step()
        self._average.update_parameters(self.model)
        self.step_number += 1
        return metrics

    def state_dict(self) -> dict[str, Any]:
        """All that the next steps depend on besides configuration and batches, as plain values and tensors."""
        return {
            "step_number": self.step_number,
            "model": self.model.state_dict(),
            "averaged": self._average.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "schedule": self._schedule.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a state of the same network and configuration."""
        self.model.load_state_dict(state["model"])
        self._average.load_state_dict(state["averaged"])
        self._optimiser.load_state_dict(state["optimiser"])
        self._schedule.load_state_dict(state["schedule"])
        self.step_number = state["step_number"]


def rate_share(step: int, config: TrainerConfig | DistillerConfig) -> float:
    """Share of the full learning rate, 0..1, at a step counted from 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    done = min((step - config.warmup_steps) / (config.steps - config.warmup_steps), 1)
    return config.final_lr_share + (1 - config.final_lr_share) * (1 + math.cos(math.pi * done)) / 2
