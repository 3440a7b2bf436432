"""The encoder of both images: one transformer over all their tokens, which knows of each pair of tokens how far apart
they are and in which image each is."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor, nn

from nemf.model.attention import Attention, Mlp

DROPOUT = 0.1

Tokens = Float[Tensor, "b token dim"]


def region_bias(table: Float[Tensor, "head offset"], index: Int64[Tensor, "n n"]) -> Float[Tensor, "head token token"]:
    """The bias of the logits of all tokens of both images; 0 where one is the token of a whole image.

    table: a number for each head, offset of two cells, and pair of images that they are in. index: see region_index.
    """
    cells = len(index) // 2
    by_region = table[:, index].unflatten(1, (2, cells)).unflatten(3, (2, cells))
    return F.pad(by_region, (1, 0, 0, 0, 1, 0)).flatten(3).flatten(1, 2)


def region_index(cells: int) -> Int64[Tensor, "n n"]:
    """The column of the table for each query and key: the cells of the source row by row, then those of the target.

    4 ((2 cells - 1) (dy + cells - 1) + dx + cells - 1) + 2 [query in target] + [key in target], with the offset
    (dx, dy) = query - key.
    """
    y, x, region = torch.meshgrid(*map(torch.arange, (cells, cells, 2)), indexing="ij")
    y, x, region = (axis.movedim(-1, 0).flatten() for axis in (y, x, region))
    dy, dx = y[:, None] - y + cells - 1, x[:, None] - x + cells - 1
    return 4 * ((2 * cells - 1) * dy + dx) + 2 * region[:, None] + region


class EncoderBlock(nn.Module):
    """Attention with the region bias, then an MLP."""

    def __init__(self, cells: int, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attention = Attention(dim, heads, DROPOUT)
        self.bias_table = nn.Parameter(torch.zeros(heads, 4 * (2 * cells - 1) ** 2))
        nn.init.trunc_normal_(self.bias_table, std=0.02)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim, DROPOUT)

    def forward(self, tokens: Tokens, index: Int64[Tensor, "n n"]) -> Tokens:
        """The tokens of both images after this block. index: see region_index."""
        tokens = tokens + self.attention(self.norm1(tokens), region_bias(self.bias_table, index))
        return tokens + self.mlp(self.norm2(tokens))


class PairEncoder(nn.Module):
    """Adds what tells cells and images apart to the tokens of both images, and lets them see each other."""

    index: Tensor

    def __init__(self, *, cells: int, dim: int, depth: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()

        def table(n: int) -> nn.Parameter:
            return nn.Parameter(nn.init.trunc_normal_(torch.empty(1, n, dim), std=0.02))

        self.position_source, self.position_target = table(cells**2), table(cells**2)
        self.image_position_source, self.image_position_target = table(1), table(1)
        self.segment_source, self.segment_target = table(1), table(1)
        with torch.no_grad():  # the same cell of both images begins alike
            self.position_target.copy_(self.position_source)
        self.blocks = nn.ModuleList(EncoderBlock(cells, dim, heads, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self.register_buffer("index", region_index(cells), persistent=False)

    def forward(self, source: Tokens, target: Tokens) -> tuple[Tokens, Tokens]:
        """The tokens of source and target."""
        positions = [
            torch.cat([self.image_position_source, self.position_source + self.segment_source], dim=1),
            torch.cat([self.image_position_target, self.position_target + self.segment_target], dim=1),
        ]
        tokens = torch.cat([source + positions[0], target + positions[1]], dim=1)
        tokens = F.dropout(tokens, DROPOUT, self.training)
        for block in self.blocks:
            tokens = block(tokens, self.index)
        encoded_source, encoded_target = self.norm(tokens).chunk(2, dim=1)
        return encoded_source, encoded_target
