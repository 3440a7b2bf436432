"""The matching field: how well a reference point matches a query point, at any real-valued coordinates."""

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nemf.model.conv4d import Conv4d, CostBlock
from nemf.model.quadrilinear import sample_quadrilinear

CostFeatures = Float[Tensor, "b c hr wr hq wq"]


class Field(nn.Module):
    """Maps cost features at a pair of points, and the points themselves, to a logit; its sigmoid is the score.

    keep_correlation: append the mean of the refined correlation to the cost features. As published, they are only what
        a 4D convolution, a normalisation and a rectifier make of the refined correlation.
    """

    def __init__(
        self,
        *,
        correlation_channels: int,
        cost_channels: int,
        hidden: int,
        n_blocks: int,
        n_frequencies: int,
        keep_correlation: bool = False,
    ) -> None:
        super().__init__()
        self.n_frequencies = n_frequencies
        self.keep_correlation = keep_correlation
        self.n_cost_features = cost_channels + keep_correlation
        self.embedding = CostBlock(
            Conv4d(correlation_channels + (correlation_channels > 1), cost_channels, stride=1),
            groups=math.gcd(4, cost_channels),
        )
        self.fc_p = nn.Linear(2 * (2 * 2 * n_frequencies + 2), hidden)
        self.fc_c = nn.ModuleList(nn.Linear(self.n_cost_features, hidden) for _ in range(n_blocks))
        self.blocks = nn.ModuleList(ResidualBlock(hidden) for _ in range(n_blocks))
        self.fc_out = nn.Linear(hidden, 1)

    def cost_features(self, with_mean: Float[Tensor, "b n r q"]) -> CostFeatures:
        """The volume that the field interpolates, one for each pair of images. Channels are adjacent in memory.

        The definition, which training runs. Matching runs nemf.model.pair_costs.PairCosts, which must agree with it.
        """
        side = math.isqrt(with_mean.shape[2])
        volume = with_mean.unflatten(3, (side, side)).unflatten(2, (side, side))
        features = [self.embedding(volume), *([volume[:, -1:]] if self.keep_correlation else [])]
        return torch.cat([part.movedim(1, -1) for part in features], dim=-1).movedim(-1, 1)

    @staticmethod
    def with_mean(refined: Float[Tensor, "b n r q"]) -> Float[Tensor, "b channel r q"]:
        """What the cost features are made of: the refined correlation, and its mean as the last channel; one channel is
        its own mean."""
        return refined if refined.shape[1] == 1 else torch.cat([refined, refined.mean(dim=1, keepdim=True)], dim=1)

    def forward(
        self,
        cost_features: CostFeatures,
        reference_xy_norm: Float[Tensor, "b n 2"],
        query_xy_norm: Float[Tensor, "b n 2"],
        *,
        positional_gradient: bool,
    ) -> Float[Tensor, "b n"]:
        """Logits of pairs of points.

        The definition, which training runs. Matching runs nemf.model.scorer.QueryScorer, which must agree with it.

        positional_gradient: whether the gradient with respect to the coordinates flows through their encoding too, or
            only through the interpolation of the cost features.
        """
        phi = sample_quadrilinear(cost_features, reference_xy_norm, query_xy_norm)
        if not positional_gradient:
            reference_xy_norm, query_xy_norm = reference_xy_norm.detach(), query_xy_norm.detach()
        reference, query = self.encode(reference_xy_norm), self.encode(query_xy_norm)
        h = self.fc_p(torch.cat([reference, query], dim=-1))
        for fc_c, block in self.layers():
            h = block(h + fc_c(phi))
        return self.fc_out(F.relu(h))[..., 0]

    def layers(self) -> "Iterator[tuple[nn.Linear, ResidualBlock]]":
        """For each block: the layer that adds the cost features before it, and the block."""
        for fc_c, block in zip(self.fc_c, self.blocks, strict=True):
            assert isinstance(fc_c, nn.Linear)
            assert isinstance(block, ResidualBlock)
            yield fc_c, block

    def encode(self, xy_norm: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n d"]:
        """The encoding of points: all sines (x's, then y's), all cosines, and the coordinates, shifted above 0."""
        z = 2 * xy_norm + 3
        angles = (z[..., None] * self.frequencies(z)).flatten(-2)
        return torch.cat([angles.sin(), angles.cos(), z], dim=-1)

    def encode_backward(
        self, xy_norm: Float[Tensor, "*n 2"], grad_encoding: Float[Tensor, "*n d"]
    ) -> Float[Tensor, "*n 2"]:
        """The derivative by the points, from that by their encoding."""
        z = 2 * xy_norm + 3
        frequencies = self.frequencies(z)
        angles = z[..., None] * frequencies
        grad_sine, grad_cosine, grad_z = grad_encoding.split([angles[0].numel(), angles[0].numel(), 2], dim=-1)
        grad_angles = grad_sine.view_as(angles) * angles.cos() - grad_cosine.view_as(angles) * angles.sin()
        return 2 * ((grad_angles * frequencies).sum(dim=-1) + grad_z)

    def frequencies(self, like: Tensor) -> Float[Tensor, " k"]:
        """The frequencies of the sines and cosines, from 1 to 512, with the dtype and device of `like`."""
        return torch.linspace(1, 2**9, self.n_frequencies, dtype=like.dtype, device=like.device)


class ResidualBlock(nn.Module):
    """h + fc_1(relu(fc_0(relu(h))))."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.fc_0 = nn.Linear(hidden, hidden)
        self.fc_1 = nn.Linear(hidden, hidden)

    def forward(self, h: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
        """The sum of h and its transformation."""
        return h + self.fc_1(F.relu(self.fc_0(F.relu(h))))
