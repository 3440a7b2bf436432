"""PatchMatch over a score: good places spread to neighbouring pixels, and random steps improve them.

`patchmatch` searches whole grids of one size; `search_pixels` is the algorithm itself, over any list of pixels.
"""

from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from nemf.search.counter_rng import uniform
from nemf.search.pixel_list import Pixels, pixels_around
from nemf.search.score import ScoreFn, TargetScoreFn


@runtime_checkable
class Draw(Protocol):
    """Two numbers in [0, 1) for the random step of each pixel in an iteration."""

    def __call__(self, iteration: int, pixel: Int64[Tensor, " n"]) -> Float[Tensor, "n 2"]:
        """Draws of pixels known by number, which depend on nothing but these arguments."""
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
    """The place in the source with the best score found for every target pixel; how, says `search_pixels`.

    score: called with the normalised coordinates of source points and of the target pixels they are tried at.
    initial_field_norm: (B, 2, H, W) normalised source (x, y) of every target pixel.
    noise: (iterations, B, H, W, 2) numbers in [0, 1) for the random steps, instead of nemf.search.counter_rng.uniform.
    pair_keys: what the random draws of each pair depend on, see nemf.search.counter_rng.pair_key; 0 for all by default.
    points_px: (B, K, 2); compute only what bilinear sampling at these pixels of the target reads. There the result is
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
    found = search_pixels(
        partial(_score_in_rectangles, score, pixels, pixels.xy_norm(initial_field_norm.dtype)),
        pixels,
        pixels.pick(list(initial_field_norm)),
        iterations,
        radius_norm,
        partial(counter_based, pair_keys, pixels) if noise is None else partial(_given, noise, pixels),
    )
    return torch.stack(pixels.put(found, list(initial_field_norm)))


@torch.no_grad()
def search_pixels(
    score: TargetScoreFn,
    pixels: Pixels,
    initial_xy_norm: Float[Tensor, "p 2"],
    iterations: int,
    radius_norm: float,
    draw: Draw,
    *,
    start_xy_norm: Float[Tensor, "p 2"] | None = None,
    radius_decay: float = 1.0,
    neighbour_offset: bool = False,
) -> Float[Tensor, "p 2"]:
    """The place in the source with the best score found for each pixel.

    One iteration, for all pixels at once: the best of a pixel's own place and those of its left, right, upper and lower
    neighbours (the first of equals); then a uniformly random step of up to `radius_norm` in x and y, if it scores
    better; then both coordinates are brought to within `radius_norm` of their initial values. A place is not scored
    where it is known to lose: the pixel's own, and one the neighbour had already when it lost before.

    score: logits of places at pixels, which are known by number.
    initial_xy_norm: normalised source (x, y) of every pixel.
    start_xy_norm: places to begin with, by default the initial ones.
    radius_decay: what the radius of the random steps is multiplied by after each iteration; as published it stays.
    neighbour_offset: try a neighbour's place moved by as much as the pixel lies beside that neighbour, as PatchMatch
        does elsewhere; as published, the very same place.
    Raises ValueError for numbers out of range.
    """
    if iterations < 0 or not radius_norm > 0 or not 0 < radius_decay <= 1:
        raise ValueError(
            "iterations must be at least 0, radius_norm above 0 and radius_decay above 0 and at most 1; "
            f"got {iterations}, {radius_norm}, {radius_decay}"
        )
    place = (initial_xy_norm if start_xy_norm is None else start_xy_norm).clone()
    position = pixels.xy_norm(place.dtype)
    logit = place.new_full((len(place),), -torch.inf)
    moved = torch.ones_like(logit, dtype=torch.bool)  # since its neighbours looked at it
    lowered = moved.clone()  # its score is not known, and any place may beat it

    def known(source_xy_norm: Float[Tensor, "n 2"], target: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Scores; one that is not a number loses."""
        scored = score(source_xy_norm, target).to(place)
        return torch.where(scored.isnan(), -torch.inf, scored)

    for iteration in range(iterations):
        active = (pixels.steps < iterations - iteration).nonzero()[:, 0]
        unknown = active[lowered[active]]
        logit[unknown] = known(place[unknown], unknown)
        best, best_logit = place[active], logit[active]

        neighbours = pixels.neighbours[active]
        candidates = place[neighbours]
        if neighbour_offset:
            candidates = candidates + (position[active, None] - position[neighbours])
        untried = (moved[neighbours] | lowered[active, None]) & (candidates != best[:, None]).any(dim=-1)
        row, side = untried.nonzero(as_tuple=True)
        candidate_logits = logit.new_full(untried.shape, -torch.inf)
        candidate_logits[row, side] = known(candidates[row, side], active[row])
        for candidate, candidate_logit in zip(candidates.unbind(1), candidate_logits.unbind(1), strict=True):
            best, best_logit = _better(best, best_logit, candidate, candidate_logit)

        step = 2 * radius_norm * radius_decay**iteration * (draw(iteration, active).to(place) - 0.5)
        best, best_logit = _better(best, best_logit, best + step, known(best + step, active))

        clamped = best.maximum(initial_xy_norm[active] - radius_norm).minimum(initial_xy_norm[active] + radius_norm)
        moved[active] = (clamped != place[active]).any(dim=-1)
        lowered[active] = (clamped != best).any(dim=-1)
        place[active], logit[active] = clamped, best_logit
    return place


def counter_based(
    pair_keys: Int64[Tensor, " b"], pixels: Pixels, iteration: int, pixel: Int64[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    """Draws by nemf.search.counter_rng.uniform, a function of pair, iteration and place in the image."""
    return uniform(pair_keys[pixels.image[pixel]], iteration, pixels.index[pixel][:, None])[:, 0]


def _given(
    noise: Float[Tensor, "_ _ _ _ _"], pixels: Pixels, iteration: int, pixel: Int64[Tensor, " n"]
) -> Float[Tensor, "n 2"]:
    return noise[iteration].flatten(1, 2)[pixels.image[pixel], pixels.index[pixel]]


def _better(
    best: Float[Tensor, "n 2"],
    best_logit: Float[Tensor, " n"],
    candidate: Float[Tensor, "n 2"],
    candidate_logit: Float[Tensor, " n"],
) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"]]:
    """The candidate where its logit is greater."""
    better = candidate_logit > best_logit
    return torch.where(better[:, None], candidate, best), torch.where(better, candidate_logit, best_logit)


def _score_in_rectangles(
    score: ScoreFn,
    pixels: Pixels,
    target_xy_norm: Float[Tensor, "p 2"],
    source_xy_norm: Float[Tensor, "n 2"],
    target: Int64[Tensor, " n"],
) -> Float[Tensor, " n"]:
    """Scores by a ScoreFn, which takes as many points of every pair: shorter rows are filled up for nothing."""
    if len(target) == 0:
        return source_xy_norm[:, 0]
    counts = pixels.image[target].bincount(minlength=len(pixels.sizes)).tolist()
    listed = source_xy_norm.split(counts), target_xy_norm[target].split(counts)
    logits = score(*(pad_sequence(list(rows), batch_first=True) for rows in listed))
    return torch.cat([row[:count] for row, count in zip(logits, counts, strict=True)])
