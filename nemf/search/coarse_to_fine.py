"""Coarse-to-fine search: each finer grid starts from the result on the coarser one."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nemf.search.pixel_list import Pixels, Size, pixels_around
from nemf.search.sample import sample_field


def pixel_grids(
    sizes: Sequence[Size],
    points_px: Sequence[Float[Tensor, "_ 2"] | None],
    strides: Sequence[int],
    iterations: int,
    device: torch.device,
) -> list[Pixels]:
    """The pixels to search on the grid of each stride, in the order of `strides`.

    A grid of stride s has ceil(h / s) x ceil(w / s) pixels, but at least 2 along a side of more than one pixel; the
    outermost are on the image's edges. The last grid holds the pixels that the points depend on (None: all pixels), the
    others those that the next one reads as its start.
    """
    levels: list[Pixels] = []
    for stride in reversed(strides):
        grid_sizes = [(_grid_size(h, stride), _grid_size(w, stride)) for h, w in sizes]
        if levels:
            finer_px = _on_grids(levels[-1], grid_sizes)
            read_px = [None if xy_px is None else finer for xy_px, finer in zip(points_px, finer_px, strict=True)]
        else:
            per_image = zip(points_px, sizes, grid_sizes, strict=True)
            read_px = [None if xy_px is None else on_grid(xy_px, hw, grid_hw) for xy_px, hw, grid_hw in per_image]
        levels.append(pixels_around(grid_sizes, read_px, iterations, device))
    return levels[::-1]


def _grid_size(size: int, stride: int) -> int:
    return max(-(-size // stride), min(size, 2))


def on_grid(xy_px: Float[Tensor, "n 2"], hw: Size, grid_hw: Size) -> Float[Tensor, "n 2"]:
    """Pixels of an image of size `hw` in pixels of a grid over it, whose outermost pixels are on the image's edges."""
    scale = [(grid_hw[axis] - 1) / max(hw[axis] - 1, 1) for axis in (1, 0)]
    return xy_px * xy_px.new_tensor(scale)


def sample_coarse(fields_norm: Sequence[Float[Tensor, "2 _ _"]], pixels: Pixels) -> Float[Tensor, "p 2"]:
    """The values of coarser fields, one per image, at the pixels."""
    coarse_px = _on_grids(pixels, [(field.shape[1], field.shape[2]) for field in fields_norm])
    per_image = zip(fields_norm, coarse_px, strict=True)
    return torch.cat([sample_field(field[None], xy_px[None])[0] for field, xy_px in per_image])


def _on_grids(pixels: Pixels, sizes: Sequence[Size]) -> list[Float[Tensor, "_ 2"]]:
    """The pixels of each image in pixels of other grids over the same images, which have these sizes."""
    per_image = zip(pixels.xy_px.split(pixels.counts), pixels.sizes, sizes, strict=True)
    return [on_grid(xy_px, fine, coarse) for xy_px, fine, coarse in per_image]
