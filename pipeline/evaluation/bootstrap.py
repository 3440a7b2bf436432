"""How often each pair is in each replicate of a bootstrap that draws images, not pairs.

An image of SPair-71k's test split is in about 50 pairs: pairs are not independent, and drawing them would make
intervals far too narrow. Here every image is drawn a Poisson(1) number of times (Chamandy et al. 2012), and a pair is
in a replicate as often as its two images' numbers multiplied (Owen 2007, "pigeonhole bootstrap"). A pair whose images
are in no other pair is drawn as one. Where images are shared by few pairs the intervals are too wide rather than too
narrow.

A number is a hash of seed, replicate and image: it does not depend on the order or division of the pairs, and two runs
over the same images have the same replicates, so that differences between them are paired.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa

REPLICATES = 1000
_UP_TO = np.cumsum([np.exp(-1.0) / np.prod(range(1, k + 1)) for k in range(20)])
"""Probabilities of at most 0, 1, 2, ... draws."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Draws:
    """The images of P pairs as 64-bit keys."""

    source: np.ndarray
    target: np.ndarray
    """(P,) uint64 each; equal where a pair is drawn as one."""
    seed: int
    n_replicates: int

    def of(self, chosen: np.ndarray) -> "Draws":
        """Those of the chosen pairs, indices or bool."""
        return Draws(
            source=self.source[chosen], target=self.target[chosen], seed=self.seed, n_replicates=self.n_replicates
        )

    def weights(self, first: int, last: int) -> np.ndarray:
        """(last - first, P) float64: how often each pair is in replicates `first` up to, not including, `last`."""
        images, source, target = self._images
        drawn = np.stack([_poisson(images, self.seed, replicate) for replicate in range(first, last)])
        return np.where(source == target, drawn[:, source], drawn[:, source] * drawn[:, target])

    @cached_property
    def _images(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The keys that occur, and which of them are the pairs' source and target."""
        images, place = np.unique(np.concatenate([self.source, self.target]), return_inverse=True)
        source, target = np.split(place, 2)
        return images, source, target


def image_keys(pairs: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """(P,) uint64 keys of the source and of the target images. Images given inline are told apart by pair."""
    keys = []
    for side in ("source", "target"):
        own = pairs["pair_id"].to_pandas() + f" {side}"
        keys.append(pd.util.hash_array(pairs[f"{side}_uri"].to_pandas().fillna(own).to_numpy(object), categorize=False))
    return keys[0], keys[1]


def shared_images(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The keys that occur more than once, sorted; source, target: those of all pairs of a manifest."""
    images, count = np.unique(np.concatenate([source, target]), return_counts=True)
    return images[count > 1]


def draws(pairs: pa.Table, seed: int, n_replicates: int, shared: np.ndarray | None = None) -> Draws:
    """The draws of PAIRS rows. shared: the manifest's shared images where the rows are not all of it.

    Raises ValueError for a seed that is not from 0 to 2^32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"the bootstrap's seed must be from 0 to {2**32 - 1}; got {seed}")
    source, target = image_keys(pairs)
    if shared is None:
        shared = shared_images(source, target)
    alone = ~(np.isin(source, shared) | np.isin(target, shared))
    return Draws(source=source, target=np.where(alone, source, target), seed=seed, n_replicates=n_replicates)


def _poisson(keys: np.ndarray, seed: int, replicate: int) -> np.ndarray:
    """A Poisson(1) number for each key."""
    salt = _mixed(np.array([(seed << 32) + replicate], np.uint64))
    uniform = _mixed(keys ^ salt) / 2.0**64
    return np.searchsorted(_UP_TO, uniform, side="right").astype(np.float64)


def _mixed(bits: np.ndarray) -> np.ndarray:
    """SplitMix64's output function: neighbouring numbers come out unrelated."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
