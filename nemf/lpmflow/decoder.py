"""A decoder block: its cross attention, from source cells to target cells, is the correlation of the two images."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nemf.lpmflow.encoder import DROPOUT
from nemf.model.attention import Attention, Mlp


def gate(values: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """0 for values up to 0; above, (e^v - e^-v) / (e^v + e^(-v - 4)), which rises from 0 to 1.

    Written with e^(-2v), which overflows nowhere.
    """
    decay = torch.exp(-2 * values.clamp(min=0))
    return (1 - decay) / (1 + math.exp(-4) * decay)


class Decoder(nn.Module):
    """Self-attention of both images' tokens, then cross attention from the source to the target.

    sides: cells a side of the tokens that it will be given; it has a table of positions for each.
    Both images share all weights but the positions and what is theirs by role.
    """

    def __init__(self, sides: tuple[int, ...], dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.position_source, self.position_target = (
            nn.ParameterDict({str(side): torch.zeros(1, 1 + side**2, dim) for side in sides}) for _ in range(2)
        )
        self.self_attention = Attention(dim, heads, DROPOUT)
        self.cross_attention = Attention(dim, heads, DROPOUT)
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim, DROPOUT)

    def forward(
        self, source: Float[Tensor, "b s dim"], target: Float[Tensor, "b t dim"]
    ) -> tuple[Float[Tensor, "b n m"], Float[Tensor, "b s dim"], Float[Tensor, "b t dim"]]:
        """The correlation of source cells with target cells, summed over heads; and the tokens of both images.

        A row of the correlation sums to at most the number of heads: a part goes to the token of the target image.
        """
        source = source + self.position_source[_side(source)]
        target = target + self.position_target[_side(target)]
        source = source + gate(self.self_attention(self.norm1(source)))
        source = source + self.norm2(source)  # no MLP here, as published
        target = target + gate(self.self_attention(self.norm1(target)))
        target = target + self.mlp(self.norm2(target))
        read, attention = self.cross_attention.across(self.norm1(source), self.norm1(target))
        source = source + gate(read)
        source = source + self.mlp(self.norm2(source))
        return attention[:, 1:, 1:], source, target


def _side(tokens: Float[Tensor, "b token dim"]) -> str:
    """The cells a side of tokens, as the tables name them."""
    return str(math.isqrt(tokens.shape[1] - 1))
