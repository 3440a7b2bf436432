"""The images of distillation: photographs of manifests, changed at random."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nemf.training.augment import AugmentConfig, augment_image
from nemf.training.batch import ImageFormat
from nemf.training.rng import generator_of
from pipeline.training.dataset import ImageCache, TrainingPairs, draw_photograph


class Photographs:
    """Random images of PAIRS manifests, all rows equally likely; a manifest named twice counts twice.

    image_size: side of the square images given, pixels.
    Raises as TrainingPairs does.
    """

    def __init__(self, manifests: Sequence[str], image_root: str | None, image_size: int, seed: int) -> None:
        cache = ImageCache()
        self._pairs = [TrainingPairs(uri, image_root, cache) for uri in manifests]
        self._seed = seed
        self._format = ImageFormat(image_size=image_size, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def batch(self, step: int, size: int) -> Float[Tensor, "b 3 s s"]:
        """The `size` images of a step, changed at random; in [0, 1] up to the overshoot of bicubic interpolation."""
        return torch.stack([self._image(step, slot) for slot in range(size)])

    def unusable(self) -> list[dict[str, str]]:
        """The rows read so far that could not be used."""
        return [row for pairs in self._pairs for row in pairs.unusable_rows()]

    def _image(self, step: int, slot: int) -> Float[Tensor, "3 s s"]:
        generator = generator_of("photograph", self._seed, step, slot)
        rgb = draw_photograph(self._pairs, generator)
        return self._format.squash(augment_image(rgb, generator, AugmentConfig()))
