"""NeMF's search as published, with the published code's cost profile; written from the paper's description.

The cost features of the pair are computed again for every chunk of queries. Each query then interpolates the whole
reference side of their volume, 16^2 query cells of 64 channels, before it reads the one query point it needs from that.
Every candidate of every pixel is scored in every iteration, and keypoints are read from the field of the whole image.

At 100,000 queries at once the interpolated volumes take 6.6 GB. On a CPU a chunk is worked off in parts of 20,000: that
takes as long (0.12 to 0.13 ms a query on two cores). The volumes are not copied between the two interpolations.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nemf.coordinates import pixel_grid, px_to_norm
from nemf.model.network import Encoded, NeMF
from nemf.search.score import ScoreFn

CHUNK = 100_000
"""Number of queries for which the cost features are computed once."""


class PublishedScore:
    """The ScoreFn of one pair.

    encoded: of a batch of one.
    chunk: queries between one computation of the cost features and the next.
    part: queries whose volumes are in memory at once; by default 20,000 on a CPU, on a GPU the whole chunk.
    """

    def __init__(self, model: NeMF, encoded: Encoded, *, chunk: int = CHUNK, part: int | None = None) -> None:
        self._field = model.field
        self._refined = encoded.refined
        self._chunk, self._part = chunk, part or (20_000 if encoded.refined.device.type == "cpu" else chunk)

    def __call__(
        self, reference_xy_norm: Float[Tensor, "1 n 2"], query_xy_norm: Float[Tensor, "1 n 2"]
    ) -> Float[Tensor, "1 n"]:
        """Logits; the gradient flows through the interpolation alone."""
        logits = []
        for chunk in zip(*(points[0].split(self._chunk) for points in (reference_xy_norm, query_xy_norm)), strict=True):
            volume = self._volume()
            for part in zip(*(points.split(self._part) for points in chunk), strict=True):
                logits.append(self._perceptron(_interpolate(volume, *part), *part))
        return torch.cat(logits)[None]

    def _volume(self) -> Float[Tensor, "c hr wr hq wq"]:
        return self._field.cost_features(self._field.with_mean(self._refined))[0].contiguous()

    def _perceptron(
        self, phi: Float[Tensor, "n c"], reference_xy_norm: Float[Tensor, "n 2"], query_xy_norm: Float[Tensor, "n 2"]
    ) -> Float[Tensor, " n"]:
        field = self._field
        position = [_encode(xy.detach(), field.n_frequencies) for xy in (reference_xy_norm, query_xy_norm)]
        h = field.fc_p(torch.cat(position, dim=1))
        for fc_c, block in zip(field.fc_c, field.blocks, strict=True):
            h = block(h + fc_c(phi))
        return field.fc_out(F.relu(h))[:, 0]


def _interpolate(
    volume: Float[Tensor, "c hr wr hq wq"], reference_xy_norm: Float[Tensor, "n 2"], query_xy_norm: Float[Tensor, "n 2"]
) -> Float[Tensor, "n c"]:
    channels, *_, height, width = volume.shape
    by_reference = volume.permute(0, 3, 4, 1, 2).flatten(0, 2)[None]
    reference_xy_norm = reference_xy_norm.contiguous()  # else grid_sample takes five times as long
    at_reference = F.grid_sample(by_reference, reference_xy_norm[None, :, None], align_corners=True)[0, :, :, 0]
    volumes = at_reference.T.view(-1, channels, height, width)
    return F.grid_sample(volumes, query_xy_norm[:, None, None], align_corners=True)[:, :, 0, 0]


def _encode(xy_norm: Float[Tensor, "n 2"], n_frequencies: int) -> Float[Tensor, "n d"]:
    z = 2 * xy_norm + 3
    angles = (z[..., None] * torch.linspace(1, 512, n_frequencies, device=z.device)).flatten(1)
    return torch.cat([angles.sin(), angles.cos(), z], dim=1)


@torch.no_grad()
def patchmatch(
    score: ScoreFn,
    initial_field_norm: Float[Tensor, "1 2 h w"],
    noise: Float[Tensor, "iterations 1 h w 2"],
    radius_norm: float = 0.1,
) -> Float[Tensor, "1 2 h w"]:
    """The field after all iterations, every candidate of every pixel scored in each: 6 queries per pixel."""
    hw = initial_field_norm.shape[2], initial_field_norm.shape[3]
    query_xy_norm = px_to_norm(pixel_grid(hw), hw).to(initial_field_norm).view(1, -1, 2)
    low, high = initial_field_norm - radius_norm, initial_field_norm + radius_norm
    field = initial_field_norm
    for draw in noise:
        # absolute coordinates of the pixel itself and its left, right, upper and lower neighbour
        padded = F.pad(field, (1, 1, 1, 1), mode="reflect")
        windows = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]
        shifted = [padded[:, :, 1 + dy : 1 + dy + hw[0], 1 + dx : 1 + dx + hw[1]] for dx, dy in windows]
        candidates = torch.stack([_as_points(candidate) for candidate in shifted])
        logits = score(candidates.view(1, -1, 2), query_xy_norm.repeat(1, len(windows), 1)).view(len(windows), -1)
        best_logit, which = logits.max(dim=0)
        best = candidates[which, 0, torch.arange(hw[0] * hw[1], device=which.device)]

        tried = best + 2 * radius_norm * (draw.view(-1, 2) - 0.5)
        better = score(tried[None], query_xy_norm)[0] > best_logit
        best = torch.where(better[:, None], tried, best)
        field = best.T.view_as(field).maximum(low).minimum(high)
    return field


def _as_points(field_norm: Float[Tensor, "1 2 h w"]) -> Float[Tensor, "1 n 2"]:
    return field_norm.flatten(2).transpose(1, 2)


def optimise(
    score: ScoreFn,
    start_xy_norm: Float[Tensor, "1 n 2"],
    query_xy_norm: Float[Tensor, "1 n 2"],
    steps: int = 20,
    lr: float = 3e-4,
    radius_norm: float = 0.1,
) -> Float[Tensor, "1 n 2"]:
    """Coordinate optimisation of all points together, over their mean loss; the cost features anew in every step."""
    xy_norm = start_xy_norm.clone().requires_grad_()
    optimiser = torch.optim.AdamW([xy_norm], lr=lr)
    for step in range(steps):
        cosine = math.cos(math.pi * max(step - 1, 0) / steps)
        optimiser.param_groups[0]["lr"] = 1e-6 + (lr - 1e-6) * (1 + cosine) / 2
        optimiser.zero_grad()
        torch.autograd.backward(-F.logsigmoid(score(xy_norm, query_xy_norm)).mean())
        optimiser.step()
        with torch.no_grad():
            xy_norm.copy_(xy_norm.maximum(start_xy_norm - radius_norm).minimum(start_xy_norm + radius_norm))
    return xy_norm.detach()
