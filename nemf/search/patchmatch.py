"""PatchMatch over a score: good matches spread to neighbouring pixels, and random steps improve them.

`search_pixels` is the algorithm, over any list of pixels; matching runs it. `patchmatch` is a reference form of it on
whole grids of one size.
"""

from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nemf.search.config import check_settings
from nemf.search.counter_rng import uniform
from nemf.search.pixel_list import Pixels, pixels_around
from nemf.search.score import IndexedScoreFn, ScoreFn


@runtime_checkable
class UniformFn(Protocol):
    """Random numbers in [0, 1), two for the random step of each pixel in an iteration."""

    def __call__(self, iteration: int, pixel: Int64[Tensor, " n"], /) -> Float[Tensor, "n 2"]:
        """The numbers of pixels given by index, a function of these arguments only."""
        ...


@torch.no_grad()
def patchmatch(
    score: ScoreFn,
    initial_field_norm: Float[Tensor, "*_"],
    iterations: int = 20,  # the paper says 10; 20 is what the published code runs
    radius_norm: float = 0.1,
    noise: Float[Tensor, "*_"] | None = None,
    *,
    pair_keys: Int64[Tensor, " _"] | None = None,
    points_px: Float[Tensor, "*_"] | None = None,
) -> Float[Tensor, "b 2 h w"]:
    """The best reference point of every query pixel, by `search_pixels`.

    Reference form, with the arguments of the published code. Matching runs `search_pixels`, which this calls.

    score: called with the normalised coordinates of reference points and of the query pixels they are scored at.
    initial_field_norm: (B, 2, H, W) normalised reference (x, y) of every query pixel.
    noise: (iterations, B, H, W, 2) numbers in [0, 1) for the random steps, instead of nemf.search.counter_rng.uniform.
    pair_keys: the key of each pair's random numbers, see nemf.search.counter_rng.pair_key; 0 for all by default.
    points_px: (B, K, 2); compute only what bilinear sampling at these pixels of the query reads. There the result is
        the same; elsewhere it is not defined.
    Raises ValueError for tensors of other shapes, points that are not finite, and numbers out of range.
    """
    if initial_field_norm.dim() != 4 or initial_field_norm.shape[1] != 2 or 0 in initial_field_norm.shape:
        raise ValueError(f"initial_field_norm must have shape (B, 2, H, W); got {tuple(initial_field_norm.shape)}")
    batch, _, *hw = initial_field_norm.shape
    if points_px is not None and not (
        points_px.dim() == 3 and points_px.shape[::2] == (batch, 2) and points_px.isfinite().all()
    ):
        raise ValueError(f"points_px must be finite and have shape ({batch}, K, 2); got {tuple(points_px.shape)}")
    if noise is not None and noise.shape != (iterations, batch, *hw, 2):
        raise ValueError(
            f"noise must have shape {(iterations, batch, *hw, 2)}, (iterations, B, H, W, 2); got {tuple(noise.shape)}"
        )
    device = initial_field_norm.device
    if pair_keys is None:
        pair_keys = torch.zeros(batch, dtype=torch.int64, device=device)
    points = [None] * batch if points_px is None else list(points_px)
    pixels = pixels_around([(hw[0], hw[1])] * batch, points, iterations, device)
    best_xy_norm = search_pixels(
        partial(_score_padded, score, pixels, pixels.xy_norm(initial_field_norm.dtype)),
        pixels,
        pixels.gather(list(initial_field_norm)),
        iterations,
        radius_norm,
        partial(counter_uniform, pair_keys, pixels) if noise is None else partial(_uniform_from_noise, noise, pixels),
    )
    return torch.stack(pixels.scatter(best_xy_norm, list(initial_field_norm)))


@torch.no_grad()
def search_pixels(
    score: IndexedScoreFn,
    pixels: Pixels,
    initial_xy_norm: Float[Tensor, "p 2"],
    iterations: int,
    radius_norm: float,
    random: UniformFn,
    *,
    start_xy_norm: Float[Tensor, "p 2"] | None = None,
    radius_decay: float = 1.0,
    neighbour_offset: bool = False,
) -> Float[Tensor, "p 2"]:
    """The best reference point of each pixel of the query images, normalised.

    One iteration, for all pixels at once: take the best of a pixel's own point and those of its left, right, upper and
    lower neighbours (the first of equals); then a uniformly random step of up to `radius_norm` in x and y, if it scores
    better; then bring both coordinates to within `radius_norm` of their initial values. A candidate is not scored where
    it is known to lose: the pixel's own point, and a neighbour's that lost in an earlier iteration.

    score: logits of reference points at pixels given by index.
    initial_xy_norm: normalised reference (x, y) of every pixel.
    random: numbers for the random steps.
    start_xy_norm: points to begin with, by default the initial ones.
    radius_decay: factor of the radius of the random steps after each iteration; as published 1.
    neighbour_offset: try a neighbour's point moved by the offset from that neighbour to the pixel, as PatchMatch does
        elsewhere; as published, the very same point.
    Raises ValueError for numbers that nemf.search.config.SearchConfig does not allow.
    """
    check_settings(patchmatch_steps=iterations, radius_norm=radius_norm, radius_decay=radius_decay)
    xy_norm = (initial_xy_norm if start_xy_norm is None else start_xy_norm).clone()
    pixel_xy_norm = pixels.xy_norm(xy_norm.dtype)
    logit = xy_norm.new_full((len(xy_norm),), -torch.inf)
    moved = torch.ones_like(logit, dtype=torch.bool)  # points changed in the last iteration, which neighbours must try
    clamped_away = moved.clone()  # moved since they were scored: the logit is unknown, any candidate may win

    def logits_of(reference_xy_norm: Float[Tensor, "n 2"], pixel: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Scores; NaN counts as minus infinity."""
        logits = score(reference_xy_norm, pixel).to(xy_norm)
        return torch.where(logits.isnan(), -torch.inf, logits)

    for iteration in range(iterations):
        active = (pixels.steps < iterations - iteration).nonzero()[:, 0]
        unknown = active[clamped_away[active]]
        logit[unknown] = logits_of(xy_norm[unknown], unknown)
        best, best_logit = xy_norm[active], logit[active]

        neighbours = pixels.neighbours[active]
        candidates = xy_norm[neighbours]
        if neighbour_offset:
            candidates = candidates + (pixel_xy_norm[active, None] - pixel_xy_norm[neighbours])
        untried = (moved[neighbours] | clamped_away[active, None]) & (candidates != best[:, None]).any(dim=-1)
        row, side = untried.nonzero(as_tuple=True)
        candidate_logits = logit.new_full(untried.shape, -torch.inf)
        candidate_logits[row, side] = logits_of(candidates[row, side], active[row])
        for candidate, candidate_logit in zip(candidates.unbind(1), candidate_logits.unbind(1), strict=True):
            best, best_logit = _better(best, best_logit, candidate, candidate_logit)

        step = 2 * radius_norm * radius_decay**iteration * (random(iteration, active).to(xy_norm) - 0.5)
        best, best_logit = _better(best, best_logit, best + step, logits_of(best + step, active))

        clamped = best.maximum(initial_xy_norm[active] - radius_norm).minimum(initial_xy_norm[active] + radius_norm)
        moved[active] = (clamped != xy_norm[active]).any(dim=-1)
        clamped_away[active] = (clamped != best).any(dim=-1)
        xy_norm[active], logit[active] = clamped, best_logit
    return xy_norm


def counter_uniform(
    pair_keys: Int64[Tensor, " b"], pixels: Pixels, iteration: int, pixel: Int64[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    """Numbers by nemf.search.counter_rng.uniform, a function of pair, iteration and position in the image."""
    return uniform(pair_keys[pixels.image[pixel]], iteration, pixels.index[pixel][:, None])[:, 0]


def _uniform_from_noise(
    noise: Float[Tensor, "_ _ _ _ _"], pixels: Pixels, iteration: int, pixel: Int64[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    return noise[iteration].flatten(1, 2)[pixels.image[pixel], pixels.index[pixel]]


def _better(
    best: Float[Tensor, "n 2"],
    best_logit: Float[Tensor, " n"],
    candidate: Float[Tensor, "n 2"],
    candidate_logit: Float[Tensor, " n"],
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """The candidate and its logit where the logit is greater, otherwise the best so far."""
    better = candidate_logit > best_logit
    return torch.where(better[:, None], candidate, best), torch.where(better, candidate_logit, best_logit)


def _score_padded(
    score: ScoreFn,
    pixels: Pixels,
    pixel_xy_norm: Float[Tensor, "p 2"],
    reference_xy_norm: Float[Tensor, "n 2"],
    pixel: Int64[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Scores by a ScoreFn, which takes the same number of points for every pair: shorter rows are padded."""
    if len(pixel) == 0:
        return reference_xy_norm[:, 0]
    counts = pixels.image[pixel].bincount(minlength=len(pixels.sizes)).tolist()
    by_image = reference_xy_norm.split(counts), pixel_xy_norm[pixel].split(counts)
    logits = score(*(pad_sequence(list(rows), batch_first=True) for rows in by_image))
    return torch.cat([row[:count] for row, count in zip(logits, counts, strict=True)])
