"""The pixels that a search computes: those of several images of any sizes, one after the other in one list."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nemf.coordinates import px_to_norm
from nemf.search.receptive_field import steps_to_points

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Pixels:
    """P pixels, in the order of their images and within one row by row."""

    sizes: list[Size]
    """(height, width) of each image."""
    counts: list[int]
    """Number of pixels in the list of each image."""
    image: Int64[Tensor, " p"]
    """Index of the pixel's image."""
    index: Int64[Tensor, " p"]
    """Index of the pixel in its image, row by row."""
    neighbours: Int64[Tensor, "p 4"]
    """Indices in this list of the left, right, upper and lower neighbour, mirrored at the border."""
    steps: Int64[Tensor, " p"]
    """Number of iterations before the last one at which the pixel is last needed; 0 for the result itself."""

    def __len__(self) -> int:
        return len(self.image)

    @property
    def xy_px(self) -> Float[Tensor, "p 2"]:
        """The pixels' (x, y) in their images."""
        width = torch.tensor([w for _, w in self.sizes], device=self.image.device)[self.image]
        return torch.stack([self.index % width, self.index // width], dim=-1).float()

    def xy_norm(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "p 2"]:
        """The pixels' (x, y) in normalised coordinates."""
        parts = self.xy_px.to(dtype).split(self.counts)
        return torch.cat([px_to_norm(xy_px, hw) for xy_px, hw in zip(parts, self.sizes, strict=True)])

    def gather(self, fields: Sequence[Float[Tensor, "2 _ _"]]) -> Float[Tensor, "p 2"]:
        """The values at the pixels of one field per image, each of the image's size."""
        per_image = zip(fields, self.index.split(self.counts), strict=True)
        return torch.cat([field.flatten(1)[:, index].T for field, index in per_image])

    def scatter(self, values: Float[Tensor, "p 2"], fields: Sequence[Float[Tensor, "2 _ _"]]) -> list[Tensor]:
        """Copies of the fields with these values at the pixels."""
        copies = []
        parts = zip(fields, self.index.split(self.counts), values.split(self.counts), strict=True)
        for field, index, value in parts:
            flat = field.flatten(1).clone()
            flat[:, index] = value.T
            copies.append(flat.view_as(field))
        return copies


def pixels_around(
    sizes: Sequence[Size], points_px: Sequence[Float[Tensor, "_ 2"] | None], iterations: int, device: torch.device
) -> Pixels:
    """The pixels that a search of `iterations` iterations needs for its result at the points of each image.

    points_px: (K, 2) for each image; a point is read from the (up to four) pixels around it. None for all pixels.
    """
    images, indices, neighbours, steps = [], [], [], []
    n_listed = 0
    for image, (hw, xy_px) in enumerate(zip(sizes, points_px, strict=True)):
        if xy_px is None:
            image_steps = torch.zeros(hw[0] * hw[1], dtype=torch.int64, device=device)
        else:
            image_steps = steps_to_points(xy_px[None], hw, iterations).flatten()
        kept = (image_steps <= iterations).nonzero()[:, 0]
        list_index = torch.zeros_like(image_steps)  # arbitrary for pixels not kept: their values are never used
        list_index[kept] = torch.arange(n_listed, n_listed + len(kept), device=device)
        n_listed += len(kept)
        images.append(torch.full_like(kept, image))
        indices.append(kept)
        neighbours.append(list_index[_neighbours(kept, hw)])
        steps.append(image_steps[kept])
    return Pixels(
        sizes=list(sizes),
        counts=[len(kept) for kept in indices],
        image=torch.cat(images),
        index=torch.cat(indices),
        neighbours=torch.cat(neighbours),
        steps=torch.cat(steps),
    )


def _neighbours(index: Int64[Tensor, " n"], hw: Size) -> Int64[Tensor, "n 4"]:
    """Left, right, upper and lower neighbour, by their index; mirrored at the border."""
    x, y = index % hw[1], index // hw[1]

    def mirrored(position: Int64[Tensor, " n"], size: int) -> Int64[Tensor, " n"]:
        last = size - 1
        return (last - (last - position.abs()).abs()).clamp(min=0)

    left, right = (y * hw[1] + mirrored(x + step, hw[1]) for step in (-1, 1))
    upper, lower = (mirrored(y + step, hw[0]) * hw[1] + x for step in (-1, 1))
    return torch.stack([left, right, upper, lower], dim=-1)
