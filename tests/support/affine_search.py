"""A search whose result is known: every query point's match is an affine function of it."""

import torch

from nemf.coordinates import pixel_grid, px_to_norm
from nemf.search.patchmatch import counter_uniform, search_pixels
from nemf.search.pixel_list import Pixels


def affine(query_xy_norm: torch.Tensor) -> torch.Tensor:
    """The true reference point of a query point."""
    turn = torch.tensor([[0.8, 0.1], [-0.2, 0.7]])
    return query_xy_norm @ turn.T.to(query_xy_norm) + torch.tensor([0.05, -0.1])


class Paraboloid:
    """Greatest where the reference point is the affine map's of the query point; counts the points it scores."""

    def __init__(self) -> None:
        self.n_queries = 0

    def __call__(self, reference_xy_norm: torch.Tensor, query_xy_norm: torch.Tensor) -> torch.Tensor:
        self.n_queries += reference_xy_norm.numel() // 2
        return -(reference_xy_norm - affine(query_xy_norm)).square().sum(dim=-1)


def true_field(hw: tuple[int, int]) -> torch.Tensor:
    return affine(px_to_norm(pixel_grid(hw), hw)).permute(2, 0, 1)[None]


def rough(hw: tuple[int, int], batch: int = 1, size: float = 0.09, seed: int = 0) -> torch.Tensor:
    """The true field with errors of up to `size`."""
    errors = torch.rand(batch, 2, *hw, generator=torch.Generator().manual_seed(seed))
    return true_field(hw) + size * (2 * errors - 1)


def search(pixels: Pixels, start: list[torch.Tensor], iterations: int, **options: float) -> list[torch.Tensor]:
    """The score of the affine map, for a list of pixels."""
    pixel_xy_norm, score = pixels.xy_norm(), Paraboloid()
    actual = search_pixels(
        lambda reference, pixel: score(reference[None], pixel_xy_norm[pixel][None])[0],
        pixels,
        pixels.gather(start),
        iterations,
        0.1,
        lambda iteration, pixel: counter_uniform(torch.arange(len(start)), pixels, iteration, pixel),
        **options,
    )
    return pixels.scatter(actual, start)
