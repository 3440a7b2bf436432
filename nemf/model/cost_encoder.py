"""The cost encoder: from the feature maps of two images to a refined correlation and a coarse flow."""

import itertools

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nemf.model.aggregator import Aggregator
from nemf.model.conv4d import Conv4d, ConvTranspose4d, CostBlock, Pool4d, Upsample4d
from nemf.model.correlation import correlate, soft_mutual_nearest_neighbour

TEMPERATURE = 0.02


class CostEncoder(nn.Module):
    """Embeds the correlation of every level, joins them at one size and refines them.

    level_shapes: (channels, cells a side) of each feature map.
    embedding_channels: channels after each of a level's two 4D convolutions; empty for pooling without convolutions.
    depth: blocks of the transformer; 0 for none, the refined correlation is then the correlation.
    Table 3 of the paper compares these choices.
    """

    x_normal: Tensor
    y_normal: Tensor

    def __init__(
        self,
        *,
        level_shapes: tuple[tuple[int, int], ...],
        feature_size: int,
        embedding_channels: tuple[int, ...],
        projection_dim: int,
        depth: int,
        heads: int,
        mlp_ratio: int,
    ) -> None:
        super().__init__()
        self.feature_size = feature_size
        self.heads = heads
        self.embeddings = nn.ModuleList(_embedding(size, feature_size, embedding_channels) for _, size in level_shapes)
        self.n_channels = len(level_shapes) * (embedding_channels[-1] if embedding_channels else 1)
        self.aggregator = None
        if depth:
            self.projections = nn.ModuleList(nn.Linear(channels, projection_dim) for channels, _ in level_shapes)
            self.aggregator = Aggregator(
                n_levels=len(level_shapes),
                feature_size=feature_size,
                projection_dim=projection_dim,
                depth=depth,
                heads=heads,
                mlp_ratio=mlp_ratio,
            )
        # published checkpoints hold these among their weights, and their coarse flow is read with them
        self.register_buffer("x_normal", torch.linspace(-1, 1, feature_size))
        self.register_buffer("y_normal", torch.linspace(-1, 1, feature_size))

    def correlate(self, reference_features: list[Tensor], query_features: list[Tensor]) -> Float[Tensor, "b n r q"]:
        """The embedded correlations of all levels, as channels over (reference cell, query cell)."""
        levels = zip(self.embeddings, reference_features, query_features, strict=True)
        # never in bfloat16: the coarse flow divides by a temperature of 0.02, which magnifies rounding errors
        with torch.autocast(reference_features[0].device.type, enabled=False):
            # the query's axes are outermost in memory: matching reads some query cells, and all reference cells
            embedded = [
                embed(correlate(query.float(), reference.float()).permute(0, 1, 4, 5, 2, 3))
                for embed, reference, query in levels
            ]
            joined = embedded[0] if len(embedded) == 1 else torch.cat(embedded, dim=1)
            return soft_mutual_nearest_neighbour(joined.flatten(4, 5).flatten(2, 3))

    def refine(
        self, correlation: Float[Tensor, "b n r q"], reference_features: list[Tensor], query_features: list[Tensor]
    ) -> Float[Tensor, "b n r q"]:
        """The correlation, refined by the transformer if there is one."""
        if self.aggregator is None:
            return correlation
        return self.aggregator(correlation, self._project(reference_features), self._project(query_features))

    @property
    def hw(self) -> tuple[int, int]:
        """Rows and columns of cells of either image."""
        return self.feature_size, self.feature_size

    def coarse_flow(self, refined_mean: Float[Tensor, "b r q"]) -> Float[Tensor, "b 2 h w"]:
        """The normalised reference (x, y) of every query cell."""
        return soft_argmax(refined_mean, self.x_normal, self.y_normal)

    def _project(self, features: list[Tensor]) -> Float[Tensor, "b level cell d"]:
        size = (self.feature_size, self.feature_size)
        resized = [F.interpolate(level, size, mode="bilinear", align_corners=True) for level in features]
        cells = [level.flatten(2).transpose(1, 2) for level in resized]
        return torch.stack([project(level) for project, level in zip(self.projections, cells, strict=True)], dim=1)


def soft_argmax(
    refined_mean: Float[Tensor, "b r q"], x_norm: Float[Tensor, " w"], y_norm: Float[Tensor, " h"]
) -> Float[Tensor, "b 2 h w"]:
    """The mean position (x, y) of the reference cells, weighted by softmax(refined_mean / 0.02), for every query cell.

    x_norm, y_norm: the normalised coordinates of the columns and rows of reference cells.
    """
    with torch.autocast(refined_mean.device.type, enabled=False):
        # the query's axis is outermost in memory, and along the last axis a softmax takes a sixth of the time
        weight = torch.softmax(refined_mean.float().transpose(1, 2) / TEMPERATURE, dim=2)
        cells_xy_norm = torch.stack([x_norm.repeat(len(y_norm)), y_norm.repeat_interleave(len(x_norm))], dim=1)
        return (weight @ cells_xy_norm).transpose(1, 2).unflatten(2, (len(y_norm), len(x_norm)))


def _embedding(size: int, feature_size: int, channels: tuple[int, ...]) -> nn.Sequential:
    """Two 4D convolutions that bring a correlation of `size` cells a side to `feature_size`, or pooling alone."""
    sizes = {4 * feature_size: (2, 2), 2 * feature_size: (2, 1), feature_size: (1, 1), feature_size // 2: (2, 1)}
    if size not in sizes:
        raise ValueError(
            f"feature maps must have {', '.join(map(str, sizes))} cells a side to be brought to {feature_size}; "
            f"got one of {size}"
        )
    if not channels:
        resize = Pool4d if size >= feature_size else Upsample4d
        return nn.Sequential(*(resize() for stride in sizes[size] if stride == 2))
    conv = Conv4d if size >= feature_size else ConvTranspose4d
    steps = zip(itertools.pairwise((1, *channels)), sizes[size], strict=True)
    return nn.Sequential(*(CostBlock(conv(before, after, stride), groups=1) for (before, after), stride in steps))
