"""PatchMatch over a score: good places spread to neighbouring pixels, and random steps improve them."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nemf.coordinates import pixel_grid, px_to_norm
from nemf.search.cone import steps_to_points
from nemf.search.noise import uniform
from nemf.search.score import ScoreFn

FieldNorm = Float[Tensor, "b 2 h w"]


@torch.no_grad()
def patchmatch(
    score: ScoreFn,
    initial_field_norm: FieldNorm,
    iterations: int = 20,  # the paper says 10; 20 is what the published code runs
    radius_norm: float = 0.1,
    noise: Float[Tensor, "_ _ _ _ _"] | None = None,
    *,
    pair_keys: Int64[Tensor, " b"] | None = None,
    points_px: Float[Tensor, "b k 2"] | None = None,
) -> FieldNorm:
    """The place in the source with the best score found for every target pixel.

    One iteration, for all pixels at once: the best of a pixel's own place and those of its left, right, upper and lower
    neighbours (mirrored at the border; the first of equals); then a uniformly random step of up to `radius_norm` in x
    and y, if it scores better; then both coordinates are brought to within `radius_norm` of their initial values.

    score: called with the normalised coordinates of source points and of the target pixels they are tried at.
    initial_field_norm: normalised source (x, y) of every target pixel.
    noise: (iterations, B, H, W, 2) numbers in [0, 1) for the random steps, instead of nemf.search.noise.uniform.
    pair_keys: what the random draws of each pair depend on, see nemf.search.noise.pair_key; 0 for all by default.
    points_px: compute only what bilinear sampling at these pixels of the target reads. There the result is the same;
        elsewhere it is not defined.
    Raises ValueError for noise of another shape and numbers out of range.
    """
    batch, _, height, width = initial_field_norm.shape
    if iterations < 0 or not radius_norm > 0:
        raise ValueError(f"iterations must be at least 0 and radius_norm above 0; got {iterations}, {radius_norm}")
    if noise is not None and noise.shape != (iterations, batch, height, width, 2):
        raise ValueError(
            f"noise must have shape {(iterations, batch, height, width, 2)}, (iterations, B, H, W, 2); "
            f"got {tuple(noise.shape)}"
        )
    device = initial_field_norm.device
    if pair_keys is None:
        pair_keys = torch.zeros(batch, dtype=torch.int64, device=device)
    target = px_to_norm(pixel_grid((height, width)), (height, width)).to(initial_field_norm)
    target = target.view(1, -1, 2).expand(batch, -1, -1)
    neighbours = _neighbours((height, width)).to(device)
    initial = initial_field_norm.flatten(2).transpose(1, 2).contiguous()
    steps = None if points_px is None else steps_to_points(points_px, (height, width), iterations).flatten(1)

    def active_at(iteration: int) -> Int64[Tensor, "b n"]:
        """The pixels that iteration has to compute."""
        if steps is None:
            return torch.arange(height * width, device=device).expand(batch, -1)
        return _indices(steps <= iterations - 1 - iteration)

    place = initial.clone()
    logit = initial.new_full((batch, height * width), -torch.inf)
    unscored = active_at(0)
    for iteration in range(iterations):
        logit.scatter_(1, unscored, score(_pick(place, unscored), _pick(target, unscored)))
        active = active_at(iteration)
        target_xy, best, best_logit = _pick(target, active), _pick(place, active), logit.gather(1, active)

        candidates = [_pick(place, direction[active]) for direction in neighbours]
        scored = score(torch.cat(candidates, dim=1), torch.cat([target_xy] * len(candidates), dim=1))
        for candidate, candidate_logit in zip(candidates, scored.chunk(len(candidates), dim=1), strict=True):
            better = candidate_logit > best_logit
            best = torch.where(better[..., None], candidate, best)
            best_logit = torch.where(better, candidate_logit, best_logit)

        draw = uniform(pair_keys, iteration, active) if noise is None else _pick(noise[iteration].flatten(1, 2), active)
        candidate = best + 2 * radius_norm * (draw - 0.5)
        candidate_logit = score(candidate, target_xy)
        better = candidate_logit > best_logit
        best = torch.where(better[..., None], candidate, best)
        best_logit = torch.where(better, candidate_logit, best_logit)

        start = _pick(initial, active)
        clamped = best.maximum(start - radius_norm).minimum(start + radius_norm)
        place.scatter_(1, active[..., None].expand(-1, -1, 2), clamped)
        logit.scatter_(1, active, best_logit)
        unscored = active.gather(1, _indices((clamped != best).any(dim=-1)))
    return place.transpose(1, 2).unflatten(2, (height, width))


def _neighbours(hw: tuple[int, int]) -> Int64[Tensor, "4 pixels"]:
    """The left, right, upper and lower neighbour of every pixel, mirrored at the border."""
    y, x = torch.meshgrid(torch.arange(hw[0]), torch.arange(hw[1]), indexing="ij")

    def mirrored(index: Int64[Tensor, "h w"], size: int) -> Int64[Tensor, "h w"]:
        last = size - 1
        return (last - (last - index.abs()).abs()).clamp(min=0)

    left, right = (y * hw[1] + mirrored(x + step, hw[1]) for step in (-1, 1))
    upper, lower = (mirrored(y + step, hw[0]) * hw[1] + x for step in (-1, 1))
    return torch.stack([left, right, upper, lower]).flatten(1)


def _pick(values: Float[Tensor, "b pixels 2"], index: Int64[Tensor, "b n"]) -> Float[Tensor, "b n 2"]:
    return values.gather(1, index[..., None].expand(-1, -1, 2))


def _indices(mask: Bool[Tensor, "b n"]) -> Int64[Tensor, "b m"]:
    """Where each row is true; shorter rows are filled up with 0, to be computed for nothing."""
    return pad_sequence([row.nonzero()[:, 0] for row in mask], batch_first=True)
