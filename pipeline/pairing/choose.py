"""Which pairs are proposed: each image with the most similar ones, no image and no category in too many."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int16, Int64

from pipeline.pairing.nearest import nearest_rows
from pipeline.pairing.options import PairingOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The pairs that were chosen, and how many were not."""

    pairs: list[tuple[int, int]]
    """Rows of source and target."""
    over_image: int
    """Number of neighbours left out since one of the two images was in enough pairs."""
    over_category: int
    """Number of neighbours left out since their category, or categories, had enough pairs."""


def choose_pairs(
    vectors: Int16[np.ndarray, "n c"], categories: Sequence[str | None], options: PairingOptions
) -> Choice:
    """Pairs of rows whose vectors are near, in the order of their rows, none twice.

    vectors: of pipeline.pairing.nearest.rounded, in an order that depends on the images alone.
    categories: one for each row; None counts as a category.

    The pairs of images and their nearest neighbours come first, then those with the second nearest, and so on; each
    is taken unless an image or the categories have enough. Among the equally near, the seed decides the order.
    """
    pairs, rank = _candidates(vectors, categories, options)
    rng = np.random.default_rng(options.seed)
    order = np.lexsort((rng.random(len(pairs)), rank))
    swapped = rng.random(len(pairs)) < 0.5
    per_image: Counter[int] = Counter()
    per_category: Counter[tuple[str, str]] = Counter()
    chosen, over_image, over_category = [], 0, 0
    for index in order.tolist():
        first, second = pairs[index].tolist()
        a, b = sorted((str(categories[first]), str(categories[second])))
        if max(per_image[first], per_image[second]) >= options.most_per_image:
            over_image += 1
        elif options.pairs_per_category is not None and per_category[a, b] >= options.pairs_per_category:
            over_category += 1
        else:
            per_image.update((first, second))
            per_category[a, b] += 1
            chosen.append(index)
    rows = [tuple(pairs[index].tolist()[:: -1 if swapped[index] else 1]) for index in sorted(chosen)]
    return Choice(pairs=rows, over_image=over_image, over_category=over_category)


def _candidates(
    vectors: Int16[np.ndarray, "n c"], categories: Sequence[str | None], options: PairingOptions
) -> tuple[Int64[np.ndarray, "p 2"], Int64[np.ndarray, " p"]]:
    """Each image with its neighbours, once as (lower row, higher row), sorted; and the lower of the two ranks."""
    names = np.array([str(category) for category in categories])
    pairs, ranks = [np.zeros((0, 2), np.int64)], [np.zeros(0, np.int64)]
    for name in np.unique(names):
        inside, outside = np.flatnonzero(names == name), np.flatnonzero(names != name)
        for among, k in ((inside, options.neighbours), (outside, options.neighbours_across)):
            if k == 0 or len(among) == 0:
                continue
            nearest = nearest_rows(vectors, inside, among, k)
            query, rank = np.nonzero(nearest >= 0)
            both = np.stack([inside[query], nearest[query, rank]], axis=1)
            pairs.append(np.sort(both, axis=1))
            ranks.append(rank.astype(np.int64))
    every, every_rank = np.concatenate(pairs), np.concatenate(ranks)
    unique, which = np.unique(every, axis=0, return_inverse=True)
    lowest = np.full(len(unique), np.iinfo(np.int64).max)
    np.minimum.at(lowest, which.reshape(-1), every_rank)
    return unique, lowest
