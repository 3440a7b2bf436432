"""The examples of a training run: rows of the manifests and warped photographs, augmented."""

from collections.abc import Iterator, Sequence

from torch import Generator

from nemf.matcher import RGB
from nemf.training.augment import AugmentConfig, augment
from nemf.training.batch import Batch, ImageFormat, collate
from nemf.training.example import Example
from nemf.training.rng import chance, generator_of
from nemf.training.sampler import Pick, Sampler
from nemf.training.warps import WarpConfig, warped_pair
from pipeline.io.prefetch import prefetch
from pipeline.training.config import TrainingConfig
from pipeline.training.dataset import ImageCache, TrainingPairs, draw_photograph

WARP_POINTS = 16
"""Maximum number of points of a warped pair: about as many as annotated pairs have."""


class Examples:
    """The examples of a run, each a function of (seed, step, slot of the batch)."""

    def __init__(self, config: TrainingConfig) -> None:
        cache = ImageCache()
        self.pairs = [
            TrainingPairs(uri, config.image_root, cache, names_across_categories=config.names_across_categories)
            for uri in config.pairs
        ]
        self.photographs = [TrainingPairs(uri, config.image_root, cache) for uri in config.photographs]
        self._config = config

    def batches(self, first_step: int, slots: Sequence[int], images: ImageFormat) -> Iterator[Batch]:
        """The batches of some slots, from first_step to the last step, prepared ahead in threads."""
        config = self._config
        weights = config.weights or (1.0,) * len(self.pairs)
        sampler = Sampler([len(pairs) for pairs in self.pairs], weights, config.batch_size, config.seed)

        def prepare(step: int) -> Batch:
            picks = sampler.picks(step)
            return collate([self.example(picks[slot], step, slot) for slot in slots], images)

        return prefetch(prepare, range(first_step, config.trainer.steps), config.loaders)

    def example(self, pick: Pick, step: int, slot: int) -> Example:
        """The example of one slot. Raises ValueError where its manifest has no usable row."""
        config = self._config
        generator = generator_of("warp", config.seed, step, slot)
        if chance(generator, config.warp_share):
            example = warped_pair(self._photograph(pick, generator), WARP_POINTS, generator, WarpConfig())
        else:
            example = self.pairs[pick.dataset].example(pick.row)
        if config.augment:
            example = augment(example, generator_of("augment", config.seed, step, slot), AugmentConfig())
        return example

    def _photograph(self, pick: Pick, generator: Generator) -> RGB:
        """A random photograph, or without photographs one image of the picked pair."""
        if self.photographs:
            return draw_photograph(self.photographs, generator)
        return self.pairs[pick.dataset].photograph(pick.row, "source" if chance(generator, 0.5) else "target")

    def unusable(self) -> list[dict[str, str]]:
        """The rows read so far that could not be used."""
        return [row for pairs in [*self.pairs, *self.photographs] for row in pairs.unusable_rows()]
