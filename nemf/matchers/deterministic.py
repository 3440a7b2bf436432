"""Convolutions that round alike every time."""

from contextlib import AbstractContextManager

import torch


def deterministic(*, tf32: bool = False) -> AbstractContextManager[None]:
    """Within it cuDNN takes the same algorithm every time, and does not round to TF32 unless asked to."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=tf32)
    return flags
