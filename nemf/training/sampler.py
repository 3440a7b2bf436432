"""The examples of each step: a pure function of the seed and the step."""

from collections.abc import Sequence
from typing import NamedTuple

import torch

from nemf.training.rng import generator_of


class Pick(NamedTuple):
    """One example of a step, by data set and row."""

    dataset: int
    row: int


class Sampler:
    """Draws rows of several data sets, mixed by weight, with replacement.

    sizes: number of examples of each data set.
    weights: relative frequency of each data set; need not sum to 1.
    Raises ValueError for an empty data set, numbers that differ, and weights that are not positive.
    """

    def __init__(self, sizes: Sequence[int], weights: Sequence[float | int], batch_size: int, seed: int) -> None:
        if len(sizes) != len(weights) or not sizes:
            raise ValueError(
                f"there must be a weight for each data set; got {len(sizes)} sizes, {len(weights)} weights"
            )
        for number, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
            if size < 1 or not 0 < weight < float("inf"):
                raise ValueError(
                    f"data set {number} must have examples and a weight above 0; got {size} examples, weight {weight}"
                )
        self.sizes = torch.tensor(sizes)
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.batch_size = batch_size
        self.seed = seed

    def picks(self, step: int) -> list[Pick]:
        """The batch_size examples of a step, of all workers together."""
        generator = generator_of("examples", self.seed, step)
        dataset = torch.multinomial(self.weights, self.batch_size, replacement=True, generator=generator)
        share = torch.rand(self.batch_size, generator=generator, dtype=torch.float64)
        row = (share * self.sizes[dataset]).long()
        return [Pick(*pick) for pick in zip(dataset.tolist(), row.tolist(), strict=True)]
