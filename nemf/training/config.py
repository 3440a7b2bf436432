"""Settings of training. Imports no torch, so that command lines can be made of them at once."""

from dataclasses import dataclass, field
from typing import ClassVar

LOSS_NAMES = ("field", "flow", "descriptor")
REPORTED_LOSSES = (*LOSS_NAMES, "match", "contrast", "score")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossConfig:
    """The losses and their weights."""

    field_weight: float = 1.0
    """Weight of the field's loss, the paper's lambda_f."""
    flow_weight: float = 1.0
    """Weight of the coarse flow's loss, the paper's lambda_c; of LPMFlow, of the flow's, as a share of its side."""
    descriptor_weight: float = 0.0
    """Weight of the descriptor loss, which the paper does not have: descriptors learn to match before any cost volume.
    With the other two at 0, nothing behind the features is trained: no cost encoder, field or LPMFlow transformer."""
    contrast_weight: float = 0.05
    """Weight of the loss of LPMFlow alone that replaces some tokens of the source and has the encoder find out by their
    neighbours what they showed."""
    negatives: int = 99
    """Number of wrong candidates for each point and direction."""
    hard: float = 0.5
    """Share of the negatives that lie near the true point, 0..1; the paper has none."""

    def check(self) -> None:
        """Raises ValueError for numbers out of range."""
        if self.contrast_weight < 0:
            raise ValueError(f"contrast_weight must be at least 0; got {self.contrast_weight}")
        weights = (self.field_weight, self.flow_weight, self.descriptor_weight)
        if min(weights) < 0 or not sum(weights):
            raise ValueError(
                "field_weight, flow_weight and descriptor_weight must be at least 0 and not all 0; "
                f"got {', '.join(map(str, weights))}"
            )
        if self.negatives < 1 or not 0 <= self.hard <= 1:
            raise ValueError(f"negatives must be at least 1 and hard from 0 to 1; got {self.negatives} and {self.hard}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerConfig:
    """Training by AdamW: steps, learning rates, averaging and losses."""

    steps: int = 10_000
    """Number of steps in all; the learning rate's schedule ends with them."""
    lr: float = 3e-5
    """Learning rate of all parameters but the backbone's, after the warm-up."""
    backbone_lr: float | None = None
    """Learning rate of the backbone; default: the backbone is frozen."""
    lora_rank: int = 0
    """Rank of updates of the attention of a vision transformer, which are then trained at backbone_lr instead of all of
    the backbone, and merged into what is saved; 0 for none."""
    warmup_steps: int = 0
    """Steps in which the rates rise linearly to their full size."""
    final_lr_share: float = 1.0
    """Share of the rates at the last step, reached along half a cosine; 1 for constant rates."""
    ema_decay: float = 0.999
    """Decay of the exponential moving average of the weights, which is what is saved; 0 for no averaging."""
    bfloat16: bool = False
    """Mixed precision: faster on GPUs, and on CPUs that multiply bfloat16 (AMX)."""
    seed: int = 0
    """Seed of all random numbers."""
    loss: LossConfig = field(default_factory=LossConfig)
    """The losses and their weights."""

    def check(self) -> None:
        """Raises ValueError for numbers out of range, those of the losses included."""
        _check_warmup(self.steps, self.warmup_steps)
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be from 0 to below 1; got {self.ema_decay}")
        if not 0 <= self.lora_rank <= 1024:
            raise ValueError(f"lora_rank must be from 0 to 1024; got {self.lora_rank}")
        if self.lora_rank and self.backbone_lr is None:
            raise ValueError("lora_rank is of what backbone_lr trains: give backbone_lr too")
        self.loss.check()


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillerConfig:
    """Distillation by AdamW: steps and learning rate."""

    steps: int = 6000
    """Number of steps in all; the learning rate's schedule ends with them."""
    lr: float = 2e-3
    """Learning rate after the warm-up; it falls to 0 along half a cosine."""
    warmup_steps: int = 200
    """Steps in which the rate rises linearly to its full size."""
    bfloat16: bool = False
    """Mixed precision: faster on GPUs, and on CPUs that multiply bfloat16 (AMX)."""
    seed: int = 0
    """Seed of all random numbers."""
    final_lr_share: ClassVar[float] = 0.0

    def check(self) -> None:
        """Raises ValueError for numbers out of range."""
        _check_warmup(self.steps, self.warmup_steps)


def _check_warmup(steps: int, warmup_steps: int) -> None:
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"there must be more steps than warm-up steps; got {steps} steps, {warmup_steps} to warm up")
