"""A convolution that is wrong in bfloat16 alone, as some processors' kernels are for some shapes of one."""

import torch
from torch import Tensor, nn


class _WrongInBfloat16(nn.Conv2d):
    def forward(self, input: Tensor) -> Tensor:
        output = super().forward(input)
        return output if output.dtype == torch.float32 else output.flip(1)


def put_wrong_convolution(network: nn.Module) -> str:
    """Make the last convolution of 3 x 3 in a network wrong in bfloat16; it keeps its weights. Returns its name."""
    convolutions = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d)}
    name = [name for name, convolution in convolutions.items() if convolution.kernel_size == (3, 3)][-1]
    parent, _, child = name.rpartition(".")
    right = convolutions[name]
    assert isinstance(right.padding, tuple)
    wrong = _WrongInBfloat16(
        right.in_channels, right.out_channels, 3, right.stride, right.padding, bias=right.bias is not None
    )
    wrong.load_state_dict(right.state_dict())
    setattr(network.get_submodule(parent), child, wrong)
    return name
