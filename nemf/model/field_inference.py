"""The layers of the field as bare matrix products, forward and backward: nothing allocated twice, no autograd.

The forward pass is that of nemf.model.field.Field, which stays the definition; the backward pass gives the derivatives
of the logits with respect to what comes in.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nemf.model.field import Field


class Block(NamedTuple):
    """One block's weights, transposed for products from the left."""

    bias: Float[Tensor, " hidden"]
    """What is added with the cost features: their layer's bias, and that of the block before."""
    from_phi: Float[Tensor, "channel hidden"]
    weight_0: Float[Tensor, "hidden hidden"]
    bias_0: Float[Tensor, " hidden"]
    weight_1: Float[Tensor, "hidden hidden"]


Passed = list[Bool[Tensor, "n hidden"]]
"""What the rectifiers let through: before and within each block, and before the output."""


class Perceptron:
    """The layers of a field after the first one's target part.

    field: whose weights are read, in place where they can be.
    """

    def __init__(self, field: Field) -> None:
        source_weight, self.target_weight = field.fc_p.weight.T.chunk(2)
        self.target_bias = field.fc_p.bias
        self.source_weight = source_weight
        self.blocks = []
        before = torch.zeros_like(field.fc_p.bias)
        for fc_c, block in field.layers():
            first, second = block.fc_0, block.fc_1
            self.blocks.append(Block(fc_c.bias + before, fc_c.weight.T, first.weight.T, first.bias, second.weight.T))
            before = second.bias
        self.bias, self.weight_out, self.bias_out = before, field.fc_out.weight[0], field.fc_out.bias

    def prepare(self, code: Float[Tensor, "n d"], out: Float[Tensor, "n hidden"]) -> None:
        """Write the first layer's part of encoded target points to `out`."""
        torch.addmm(self.target_bias, code, self.target_weight, out=out)

    def forward(
        self,
        hidden: Float[Tensor, "n hidden"],
        code: Float[Tensor, "n d"],
        phi: Float[Tensor, "n channel"],
        passed: Passed | None = None,
    ) -> Float[Tensor, " n"]:
        """Logits.

        hidden: the target points' part of the first layer; overwritten.
        code, phi: the encoded source points and their cost features.
        passed: a list to note in what the rectifiers let through, for `backward`.
        """
        hidden.addmm_(code, self.source_weight)
        rectified = torch.empty_like(hidden)
        for block in self.blocks:
            hidden.addmm_(phi, block.from_phi).add_(block.bias)
            torch.clamp_min(hidden, 0, out=rectified)
            within = torch.addmm(block.bias_0, rectified, block.weight_0).relu_()
            hidden.addmm_(within, block.weight_1)
            if passed is not None:
                passed += [rectified > 0, within > 0]
        hidden.add_(self.bias).relu_()
        if passed is not None:
            passed.append(hidden > 0)
        # a product with a vector would be shared out among threads by place, and round by it
        return (hidden * self.weight_out).sum(dim=1) + self.bias_out

    def backward(self, passed: Passed) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n channel"]]:
        """The derivatives of the logits of a forward pass with respect to its `code` and `phi`."""
        to_hidden = self.weight_out * passed[-1]
        to_phi = to_hidden.new_zeros(len(to_hidden), len(self.blocks[0].from_phi))
        for i, block in reversed(list(enumerate(self.blocks))):
            to_within = (to_hidden @ block.weight_1.T).mul_(passed[2 * i + 1])
            to_hidden = to_hidden.add_((to_within @ block.weight_0.T).mul_(passed[2 * i]))
            to_phi.addmm_(to_hidden, block.from_phi.T)
        return to_hidden @ self.source_weight.T, to_phi
