"""Examples as tensors for the network: squashed, normalised images and normalised points.

Roles, from the manifest to the paper: the manifest's `source` image becomes the *reference* of an example (what is
searched, the paper's source), its `target` image becomes the *query* (where the field lives, the paper's target).
pipeline/training/dataset.py reads them so; augmentation may swap them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nemf.coordinates import px_to_norm
from nemf.matcher import RGB
from nemf.model.network import squash
from nemf.training.example import Example, View


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """b examples with m points in all; the points of one pair follow those of the pair before."""

    reference: Float[Tensor, "b 3 h w"]
    query: Float[Tensor, "b 3 h w"]
    pair: Int64[Tensor, " m"]
    """Index of the pair of images that a point belongs to, 0 <= pair < b."""
    reference_xy_norm: Float[Tensor, "m 2"]
    query_xy_norm: Float[Tensor, "m 2"]
    keypoint: Int64[Tensor, " m"]
    """Keypoint number of each point: points of one number match each other, in whatever images they are."""
    probability: Float[Tensor, " m"]
    """The probability of each match to be right, 1 for an annotated one."""

    def to(self, device: torch.device) -> "Batch":
        """The batch on another device."""
        return Batch(**{name: getattr(self, name).to(device) for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFormat:
    """The size and normalisation of the images that a network takes."""

    image_size: int
    """Side of the square image, pixels."""
    mean: tuple[float, float, float]
    """Mean of the colours in 0..1."""
    std: tuple[float, float, float]

    @staticmethod
    def from_model(model: Any) -> "ImageFormat":
        """The format of a network's images; unlike the network, cheap to send to another process."""
        config = model.backbone.config
        return ImageFormat(image_size=model.image_size, mean=config.mean, std=config.std)

    def squash(self, rgb: RGB) -> Float[Tensor, "3 s s"]:
        """The image normalised and resized exactly as the matcher does it."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return squash(torch.from_numpy(np.array(rgb)), mean, std, self.image_size)


def collate(examples: Sequence[Example], images: ImageFormat) -> Batch:
    """The examples as one batch. Raises ValueError for an example without points, or with one outside its image."""
    for number, example in enumerate(examples):
        outside = len(example) - len(example.drop_outside_points())
        if outside or not len(example):
            problem = f"has {outside} of {len(example)} points outside its images" if outside else "has no points"
            raise ValueError(f"example {number} of the batch {problem}: call Example.drop_outside_points() first")
    references, queries = [example.reference for example in examples], [example.query for example in examples]
    counts = torch.tensor([len(example) for example in examples])
    return Batch(
        reference=torch.stack([images.squash(view.rgb) for view in references]),
        query=torch.stack([images.squash(view.rgb) for view in queries]),
        pair=torch.arange(len(examples)).repeat_interleave(counts),
        reference_xy_norm=torch.cat([_points_norm(view) for view in references]),
        query_xy_norm=torch.cat([_points_norm(view) for view in queries]),
        keypoint=_keypoint_numbers(examples),
        probability=torch.cat([_probability(example) for example in examples]),
    )


def _keypoint_numbers(examples: Sequence[Example]) -> Int64[Tensor, " m"]:
    """One number for all points of a name and category; a number of its own for a point without a unique name."""
    number_of: dict[tuple[object, ...], int] = {}
    numbers = []
    for index, example in enumerate(examples):
        names = example.keypoint_id
        unique = names is not None and len(set(names)) == len(names)
        for row in range(len(example)):
            key = (example.category, names[row]) if names is not None and unique else (index, row, None)
            numbers.append(number_of.setdefault(key, len(number_of)))
    return torch.tensor(numbers)


def _probability(example: Example) -> Float[Tensor, " k"]:
    return torch.ones(len(example)) if example.probability is None else torch.from_numpy(example.probability)


def _points_norm(view: View) -> Float[Tensor, "k 2"]:
    return px_to_norm(torch.from_numpy(view.xy_px), view.hw)
