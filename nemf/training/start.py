"""Where training from random weights starts."""

from torch import nn

from nemf.model.network import NeMF


def start_at_correlation(model: NeMF) -> None:
    """Lets the transformer change nothing at first: the refined correlation is then the correlation itself.

    The random weights of its last layer would drown the correlation, and the coarse flow's softmax, which has a
    temperature of 0.02, would put nearly all its weight on one source cell, from where its loss has no gradient.
    """
    nn.init.zeros_(model.cost_encoder.aggregator.proj.weight)
    nn.init.zeros_(model.cost_encoder.aggregator.proj.bias)
