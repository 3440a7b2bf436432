"""Initialisation of cost encoder and field: before training they pass the correlation on."""

import torch
from torch import nn

from nemf.model.conv4d import CostBlock
from nemf.model.field import Field
from nemf.model.network import NeMF
from nemf.training.descriptor_loss import TEMPERATURE

_NOISE = 0.1
"""Scale of the random weights of a 4D convolution: not 0, since channels that start equal would stay equal."""
_CONTRAST = 0.05
"""Standard deviation of the embedded correlation: its best cells then get some of the coarse flow's weight, not all."""
_HALF_SCORE_CORRELATION = 0.5
"""The correlation whose matching score starts at one half, so that no sigmoid is in its flat part near 1."""


def initialize_at_correlation(model: NeMF) -> None:
    """Initialise the cost encoder to pass the correlation on, so that its coarse flow starts as good as the features.

    A field with keep_correlation is initialised to pass it on too.

    Random weights of the transformer's last layer would drown the correlation, random 4D convolutions would blur it,
    and either way the coarse flow's softmax, which has a temperature of 0.02, would put nearly all its weight on one
    source cell, from where its loss has no gradient.
    """
    encoder = model.cost_encoder
    if encoder.aggregator is not None:
        nn.init.zeros_(encoder.aggregator.proj.weight)
        nn.init.zeros_(encoder.aggregator.proj.bias)
    for embedding in encoder.embeddings:
        blocks = [block for block in embedding.modules() if isinstance(block, CostBlock)]
        for block in blocks:
            for conv in (block.conv.over_source, block.conv.over_target):
                with torch.no_grad():
                    conv.weight *= _NOISE
                    conv.weight[:, :, 1, 1] += 1
        if blocks:
            nn.init.constant_(blocks[-1].norm.weight, _CONTRAST)
    if model.field.keep_correlation:
        _pass_correlation(model.field)


@torch.no_grad()
def _pass_correlation(field: Field) -> None:
    """Initialise the field so that its logit is (correlation - _HALF_SCORE_CORRELATION) / TEMPERATURE.

    Its first hidden value carries the correlation to the output, raised by 1 so that no ReLU cuts it.
    """
    carried = 0
    for layer in (field.fc_p, *field.fc_c, *(block.fc_1 for _, block in field.layers())):
        layer.weight[carried] = 0
        layer.bias[carried] = 0
    first, _ = next(field.layers())
    first.weight[carried, -1] = 1 / TEMPERATURE
    first.bias[carried] = 1 / TEMPERATURE
    nn.init.zeros_(field.fc_out.weight)
    field.fc_out.weight[0, carried] = 1
    nn.init.constant_(field.fc_out.bias, -(1 + _HALF_SCORE_CORRELATION) / TEMPERATURE)
