"""The layers of the field as bare matrix products, forward and backward, without autograd and with few allocations.

What nemf.model.field.Field defines and training runs; matching runs this. The backward pass gives the derivatives of
the logits by the encoded reference points and the cost features.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nemf.model.field import Field


class Block(NamedTuple):
    """One block's weights, transposed for products from the left."""

    bias: Float[Tensor, " hidden"]
    """The bias added with the cost features: their layer's bias plus the last bias of the block before."""
    from_phi: Float[Tensor, "channel hidden"]
    weight_0: Float[Tensor, "hidden hidden"]
    bias_0: Float[Tensor, " hidden"]
    weight_1: Float[Tensor, "hidden hidden"]


ReluMasks = list[Bool[Tensor, "n hidden"]]
"""Masks of the rectifiers' positive inputs: before and within each block, and before the output."""


class InferenceLayers:
    """The layers of a field, split so that the query's part of the first one is computed once for each query point.

    field: its weights are copied, those of products adjacent in memory as these read them.
    """

    def __init__(self, field: Field) -> None:
        self.reference_weight, self.query_weight = field.fc_p.weight.T.chunk(2)
        self.query_bias = field.fc_p.bias
        self.blocks = []
        last_bias = torch.zeros_like(field.fc_p.bias)
        for fc_c, block in field.layers():
            first, second = block.fc_0, block.fc_1
            phi, inner, outer = (layer.weight.T.contiguous() for layer in (fc_c, first, second))
            self.blocks.append(Block(fc_c.bias + last_bias, phi, inner, first.bias, outer))
            last_bias = second.bias
        self.bias, self.weight_out, self.bias_out = last_bias, field.fc_out.weight[0], field.fc_out.bias

    def query_part(self, encoding: Float[Tensor, "n d"], out: Float[Tensor, "n hidden"]) -> None:
        """Write the first layer's part of encoded query points, with its bias, to `out`."""
        torch.addmm(self.query_bias, encoding, self.query_weight, out=out)

    def forward(
        self,
        hidden: Float[Tensor, "n hidden"],
        phi: Float[Tensor, "n channel"],
        relu_masks: ReluMasks | None = None,
    ) -> Float[Tensor, " n"]:
        """Logits.

        hidden: the first layer, of the query points and of the reference points; overwritten.
        phi: the cost features of the reference points.
        relu_masks: a list that the masks are appended to, for `backward`.
        """
        rectified = torch.empty_like(hidden)
        for block in self.blocks:
            hidden.addmm_(phi, block.from_phi).add_(block.bias)
            torch.clamp_min(hidden, 0, out=rectified)
            inner = torch.addmm(block.bias_0, rectified, block.weight_0).relu_()
            hidden.addmm_(inner, block.weight_1)
            if relu_masks is not None:
                relu_masks += [rectified > 0, inner > 0]
        hidden.add_(self.bias).relu_()
        if relu_masks is not None:
            relu_masks.append(hidden > 0)
        # a product with a vector would be divided among threads by row, and its rounding depend on the row
        return (hidden * self.weight_out).sum(dim=1) + self.bias_out

    def backward(self, relu_masks: ReluMasks) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n channel"]]:
        """The derivatives of the logits of a forward pass by its `encoding` and `phi`."""
        grad_hidden = self.weight_out * relu_masks[-1]
        grad_phi = grad_hidden.new_zeros(len(grad_hidden), len(self.blocks[0].from_phi))
        for i, block in reversed(list(enumerate(self.blocks))):
            grad_inner = (grad_hidden @ block.weight_1.T).mul_(relu_masks[2 * i + 1])
            grad_hidden = grad_hidden.add_((grad_inner @ block.weight_0.T).mul_(relu_masks[2 * i]))
            grad_phi.addmm_(grad_hidden, block.from_phi.T)
        return grad_hidden @ self.reference_weight.T, grad_phi
