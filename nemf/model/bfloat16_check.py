"""Convolutions that a processor computes wrongly in bfloat16.

For some shapes of a convolution the kernels of oneDNN for processors with AMX give numbers that have nothing to do with
the right ones, and no error: with torch 2.15 for one those of 16 channels with kernels and strides of 4 x 4, such as
visformer_tiny's. Which shapes they are is not documented; so each convolution module is tried.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nemf.model.backbone import Backbone

_TOLERANCE = 0.1
"""Of the length of a convolution's output: rounding to bfloat16 is a hundredth and less."""


@contextmanager
def wrong_convolutions(network: nn.Module, exact: Mapping[str, nn.Module]) -> Iterator[set[str]]:
    """The names of the convolutions of the network that are wrong, in what it computes within the block; those after
    them are given what is right.

    exact: for each name of a convolution the one that computes the same in float32; it may be the same one.
    """
    wrong: set[str] = set()

    def compare(name: str, inputs: tuple[Any, ...], options: dict[str, Any], output: Tensor) -> Tensor | None:
        with torch.autocast(output.device.type, enabled=False):
            expected = exact[name].forward(*as_type(inputs, torch.float32), **as_type(options, torch.float32))
        if (output.float() - expected).norm() <= _TOLERANCE * expected.norm():
            return None
        wrong.add(name)
        return expected.to(output.dtype)

    hooks = [
        module.register_forward_hook(
            lambda _module, inputs, options, output, name=name: compare(name, inputs, options, output),
            with_kwargs=True,
        )
        for name, module in network.named_modules()
        if isinstance(module, _ConvNd)
    ]
    try:
        yield wrong
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def check_bfloat16(backbone: Backbone, side_px: int) -> None:
    """Raises ValueError for a backbone with a convolution that its device computes wrongly in mixed precision.

    side_px: side of square images that it takes.
    """
    network, device = backbone.network, backbone.mean.device
    exact = dict(network.named_modules())
    with torch.autocast(device.type, torch.bfloat16), wrong_convolutions(network, exact) as wrong:
        backbone(trial_image(side_px).to(device))
    if wrong:
        what = "processor" if device.type == "cpu" else "device"
        raise ValueError(
            f"{backbone.name}: this {what} computes {len(wrong)} of its convolutions wrongly in bfloat16, "
            f"{min(wrong)} for one: train in float32"
        )


def as_type(tensors: Any, dtype: torch.dtype) -> Any:
    """A tensor, or the tensors of a list, tuple or dict, as another type; anything else as it is."""
    if isinstance(tensors, Tensor):
        return tensors.to(dtype)
    if isinstance(tensors, dict):
        return {name: as_type(each, dtype) for name, each in tensors.items()}
    if isinstance(tensors, list | tuple):
        return type(tensors)(as_type(each, dtype) for each in tensors)
    return tensors


def trial_image(side_px: int) -> Float[Tensor, "1 3 s s"]:
    """A random image to try a network with, the same every time."""
    return torch.randn(1, 3, side_px, side_px, generator=torch.Generator().manual_seed(0))
