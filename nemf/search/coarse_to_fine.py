"""Searching coarser grids first: each finer grid starts from what the coarser one found."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nemf.search.pixel_list import Pixels, Size, pixels_around
from nemf.search.sample import sample_field


def grids(
    sizes: Sequence[Size],
    points_px: Sequence[Float[Tensor, "_ 2"] | None],
    strides: Sequence[int],
    iterations: int,
    device: torch.device,
) -> list[Pixels]:
    """The pixels to search on the grid of each stride, in the order of `strides`.

    A grid of stride s has ceil(h / s) x ceil(w / s) pixels, but 2 where it takes 2 to reach both edges; the outermost
    are on the image's edges. Of the last grid there is what the points depend on (None: all pixels), of the others what
    the next one reads as its start.
    """
    levels: list[Pixels] = []
    for stride in reversed(strides):
        coarse = [(_nodes(h, stride), _nodes(w, stride)) for h, w in sizes]
        if levels:
            read_px = _positions(levels[-1], coarse)
            wanted_px = [None if xy_px is None else read for xy_px, read in zip(points_px, read_px, strict=True)]
        else:
            placed = zip(points_px, sizes, coarse, strict=True)
            wanted_px = [None if xy_px is None else on_grid(xy_px, hw, grid_hw) for xy_px, hw, grid_hw in placed]
        levels.append(pixels_around(coarse, wanted_px, iterations, device))
    return levels[::-1]


def _nodes(size: int, stride: int) -> int:
    return max(-(-size // stride), min(size, 2))


def on_grid(xy_px: Float[Tensor, "n 2"], hw: Size, grid_hw: Size) -> Float[Tensor, "n 2"]:
    """Where pixels of an image of size `hw` lie on a grid over it, whose outermost pixels are on the image's edges."""
    scale = [(grid_hw[axis] - 1) / max(hw[axis] - 1, 1) for axis in (1, 0)]
    return xy_px * xy_px.new_tensor(scale)


def start_from(fields_norm: Sequence[Float[Tensor, "2 _ _"]], pixels: Pixels) -> Float[Tensor, "p 2"]:
    """The values of coarser fields at the pixels."""
    positions_px = _positions(pixels, [(field.shape[1], field.shape[2]) for field in fields_norm])
    sampled = zip(fields_norm, positions_px, strict=True)
    return torch.cat([sample_field(field[None], xy_px[None])[0] for field, xy_px in sampled])


def _positions(pixels: Pixels, sizes: Sequence[Size]) -> list[Float[Tensor, "_ 2"]]:
    """Where the pixels of each image lie on grids of other sizes over the same images, in pixels of those."""
    per_image = zip(pixels.xy_px.split(pixels.counts), pixels.sizes, sizes, strict=True)
    return [on_grid(xy_px, fine, coarse) for xy_px, fine, coarse in per_image]
