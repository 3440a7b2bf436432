"""The transformer that refines a correlation from the side of each image in turn (after CATs, Cho et al. 2021)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nemf.model.attention import Attention, Mlp

Tokens = Float[Tensor, "b channel cell dim"]


class Block(nn.Module):
    """Attention among the cells of each channel, then among the channels of each cell, each with its MLP."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int) -> None:
        super().__init__()
        self.cell_norm = nn.LayerNorm(dim, eps=1e-6)
        self.cell_attention = Attention(dim, heads)
        self.cell_mlp_norm = nn.LayerNorm(dim, eps=1e-6)
        self.cell_mlp = Mlp(dim, mlp_ratio * dim)
        self.channel_norm = nn.LayerNorm(dim, eps=1e-6)
        self.channel_attention = Attention(dim, heads)
        self.channel_mlp_norm = nn.LayerNorm(dim, eps=1e-6)
        self.channel_mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, tokens: Tokens) -> Tokens:
        """Tokens of every cell in every channel, refined."""
        tokens = tokens + self.cell_attention(self.cell_norm(tokens))
        tokens = tokens + self.cell_mlp(self.cell_mlp_norm(tokens))
        by_cell = self.channel_norm(tokens).transpose(1, 2)
        tokens = tokens + self.channel_attention(by_cell).transpose(1, 2)
        return tokens + self.channel_mlp(self.channel_mlp_norm(tokens))


class Aggregator(nn.Module):
    """Refines M (reference cells x query cells) in two passes: its query cells as tokens, then its reference cells.

    n_levels: feature levels; the channels of M are as many equal groups, one per level.
    """

    def __init__(
        self, *, n_levels: int, feature_size: int, projection_dim: int, depth: int, heads: int, mlp_ratio: int
    ) -> None:
        super().__init__()
        n_cells = feature_size**2
        dim = n_cells + projection_dim
        self.position_x = nn.Parameter(torch.zeros(1, n_levels, 1, feature_size, dim // 2))
        self.position_y = nn.Parameter(torch.zeros(1, n_levels, feature_size, 1, dim // 2))
        nn.init.trunc_normal_(self.position_x, std=0.02)
        nn.init.trunc_normal_(self.position_y, std=0.02)
        self.blocks = nn.Sequential(*(Block(dim, heads, mlp_ratio) for _ in range(depth)))
        self.proj = nn.Linear(dim, n_cells)

    def forward(
        self,
        correlation: Float[Tensor, "b channel reference query"],
        reference_features: Float[Tensor, "b level reference d"],
        query_features: Float[Tensor, "b level query d"],
    ) -> Float[Tensor, "b channel reference query"]:
        """The refined correlation."""
        by_query = self._refine(correlation.transpose(2, 3), query_features)
        half_refined = by_query.transpose(2, 3) + correlation
        return self._refine(half_refined, reference_features) + correlation

    def _refine(
        self, correlation: Float[Tensor, "b channel cell other"], features: Float[Tensor, "b level cell d"]
    ) -> Float[Tensor, "b channel cell other"]:
        size = self.position_x.shape[3]
        position = torch.cat(
            [self.position_x.expand(-1, -1, size, -1, -1), self.position_y.expand(-1, -1, -1, size, -1)], dim=-1
        ).flatten(2, 3)
        repeats = correlation.shape[1] // features.shape[1]
        tokens = torch.cat([correlation, features.repeat_interleave(repeats, dim=1)], dim=-1)
        return self.proj(self.blocks(tokens + position.repeat_interleave(repeats, dim=1)))
