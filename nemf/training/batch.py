"""From examples to what the network takes: squashed, normalised images and normalised points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from nemf.coordinates import px_to_norm
from nemf.matcher import RGB
from nemf.model.network import NeMF, squash
from nemf.training.example import Example, View


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Batch:
    """Some examples together. All their points stand in one list, those of one pair after another's."""

    source: Float[Tensor, "b 3 h w"]
    target: Float[Tensor, "b 3 h w"]
    pair: Int64[Tensor, " m"]
    """Which pair of images a point belongs to."""
    source_xy_norm: Float[Tensor, "m 2"]
    target_xy_norm: Float[Tensor, "m 2"]
    keypoint: Int64[Tensor, " m"]
    """A number for each keypoint: those of one number match, in whatever images they are."""

    def to(self, device: torch.device) -> "Batch":
        """The same on another device."""
        return Batch(**{name: getattr(self, name).to(device) for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFormat:
    """What images a network takes."""

    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @staticmethod
    def of(model: NeMF) -> "ImageFormat":
        """That of a network; unlike it, cheap to send to another process."""
        config = model.backbone.config
        return ImageFormat(image_size=model.image_size, mean=config.mean, std=config.std)

    def squash(self, rgb: RGB) -> Float[Tensor, "3 s s"]:
        """The image as the network takes it, when matching too."""
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.mean, self.std))
        return squash(torch.from_numpy(np.array(rgb)), mean, std, self.image_size)


def collate(examples: Sequence[Example], images: ImageFormat) -> Batch:
    """The examples as one batch. Raises ValueError for an example that has no point, or one outside its image."""
    for number, example in enumerate(examples):
        outside = len(example) - len(example.inside())
        if outside or not len(example):
            what = f"has {outside} of {len(example)} points outside its images" if outside else "has no points"
            raise ValueError(f"example {number} of the batch {what}: leave out what Example.inside() leaves out")
    sources, targets = [example.source for example in examples], [example.target for example in examples]
    counts = torch.tensor([len(example) for example in examples])
    return Batch(
        source=torch.stack([images.squash(view.rgb) for view in sources]),
        target=torch.stack([images.squash(view.rgb) for view in targets]),
        pair=torch.arange(len(examples)).repeat_interleave(counts),
        source_xy_norm=torch.cat([_points_norm(view) for view in sources]),
        target_xy_norm=torch.cat([_points_norm(view) for view in targets]),
        keypoint=_numbers(examples),
    )


def _numbers(examples: Sequence[Example]) -> Int64[Tensor, " m"]:
    """Points of one name and category have one number; a point without name, or of a name used twice, its own."""
    number_of: dict[tuple[object, ...], int] = {}
    numbers = []
    for index, example in enumerate(examples):
        names = example.keypoint_id
        named = names is not None and len(set(names)) == len(names)
        for row in range(len(example)):
            key = (example.category, names[row]) if names is not None and named else (index, row, None)
            numbers.append(number_of.setdefault(key, len(number_of)))
    return torch.tensor(numbers)


def _points_norm(view: View) -> Float[Tensor, "k 2"]:
    return px_to_norm(torch.from_numpy(view.xy_px), view.hw)
