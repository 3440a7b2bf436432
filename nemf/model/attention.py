"""The two parts that every transformer of this project is made of: attention among tokens, and an MLP of each token."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Attention(nn.Module):
    """Multi-head attention.

    dropout: share of the values that training sets to 0 behind the last layer.
    """

    def __init__(self, dim: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(
        self, tokens: Float[Tensor, "*n token dim"], bias: Float[Tensor, "head token token"] | None = None
    ) -> Float[Tensor, "*n token dim"]:
        """Self-attention among the tokens of the last but one axis, before the residual sum.

        bias: added to the logits of (query, key).
        """
        query, key, value = self.qkv(tokens).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-3, -2)
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        return self._out(attended)

    def across(
        self, queries: Float[Tensor, "b q dim"], keys: Float[Tensor, "b k dim"]
    ) -> tuple[Float[Tensor, "b q dim"], Float[Tensor, "b q k"]]:
        """What the queries read from the keys, before the residual sum; and the attention, summed over the heads: the
        row of a query sums to their number."""
        dim = queries.shape[-1]
        weight, bias = self.qkv.weight, self.qkv.bias
        query = F.linear(queries, weight[:dim], bias[:dim]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        of_keys = F.linear(keys, weight[dim:], bias[dim:]).unflatten(-1, (2, self.heads, -1))
        key, value = of_keys.movedim(-3, 0).transpose(-3, -2)
        attention = torch.softmax(query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5, dim=-1)
        return self._out(attention @ value), attention.sum(dim=1)

    def _out(self, attended: Float[Tensor, "*n head token d"]) -> Float[Tensor, "*n token dim"]:
        return F.dropout(self.proj(attended.transpose(-3, -2).flatten(-2)), self.dropout, self.training)


class Mlp(nn.Module):
    """Two layers with an exact GELU between them, and dropout behind both."""

    def __init__(self, dim: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, tokens: Float[Tensor, "*n dim"]) -> Float[Tensor, "*n dim"]:
        """The transformed tokens, before the residual sum."""
        hidden = F.dropout(F.gelu(self.fc1(tokens)), self.dropout, self.training)
        return F.dropout(self.fc2(hidden), self.dropout, self.training)
