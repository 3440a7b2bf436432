"""The weights of pairs in the replicates of a bootstrap that draws images, not pairs.

An image of SPair-71k's test split is in about 50 pairs: pairs are not independent, and drawing them would make
intervals far too narrow. Here every image is drawn a Poisson(1) number of times (Chamandy et al. 2012), and a pair
counts in a replicate as often as its two images' numbers multiplied (Owen 2007, "pigeonhole bootstrap"). A pair whose
images are in no other pair is drawn as one. Where images are shared by few pairs the intervals are too wide rather than
too narrow.

A number is a hash of seed, replicate and image: it does not depend on the order or division of the pairs, and two runs
over the same images have the same replicates, so that differences between them are paired.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float64, Int64, UInt64

REPLICATES = 1000
_CUMULATIVE_POISSON = np.cumsum([np.exp(-1.0) / np.prod(range(1, k + 1)) for k in range(20)])
"""Probabilities of at most 0, 1, 2, ... draws."""


@dataclass(frozen=True, kw_only=True, eq=False)
class BootstrapWeights:
    """Weights of P pairs in every replicate, computed from 64-bit keys of the pairs' images when they are needed."""

    source: UInt64[np.ndarray, " p"]
    target: UInt64[np.ndarray, " p"]
    """Keys of the target images; equal to `source` for pairs that are drawn as one."""
    seed: int
    n_replicates: int

    def select(self, pairs: Bool[np.ndarray, " p"] | Int64[np.ndarray, " n"]) -> "BootstrapWeights":
        """The weights of some pairs, given as a mask or as indices."""
        return BootstrapWeights(
            source=self.source[pairs], target=self.target[pairs], seed=self.seed, n_replicates=self.n_replicates
        )

    def replicates(self, first: int, last: int) -> Float64[np.ndarray, "r p"]:
        """The weights of each pair in replicates `first` up to, not including, `last`: whole numbers from 0."""
        images, source, target = self._images
        drawn = np.stack([_poisson(images, self.seed, replicate) for replicate in range(first, last)])
        return np.where(source == target, drawn[:, source], drawn[:, source] * drawn[:, target])

    @cached_property
    def _images(self) -> tuple[UInt64[np.ndarray, " i"], Int64[np.ndarray, " p"], Int64[np.ndarray, " p"]]:
        """The distinct keys, and the index into them of each pair's source and target."""
        images, index = np.unique(np.concatenate([self.source, self.target]), return_inverse=True)
        source, target = np.split(index, 2)
        return images, source, target


def image_keys(pairs: pa.Table) -> tuple[UInt64[np.ndarray, " p"], UInt64[np.ndarray, " p"]]:
    """Keys of the source and of the target images of PAIRS rows: a hash of the URI, or of pair and side if inline."""
    keys = []
    for side in ("source", "target"):
        inline = pairs["pair_id"].to_pandas() + f" {side}"
        uris = pairs[f"{side}_uri"].to_pandas().fillna(inline)
        keys.append(pd.util.hash_array(uris.to_numpy(object), categorize=False))
    return keys[0], keys[1]


def shared_images(source: UInt64[np.ndarray, " p"], target: UInt64[np.ndarray, " p"]) -> UInt64[np.ndarray, " i"]:
    """The keys that occur more than once, sorted; source, target: those of all pairs of a manifest."""
    images, count = np.unique(np.concatenate([source, target]), return_counts=True)
    return images[count > 1]


def bootstrap_weights(
    pairs: pa.Table, seed: int, n_replicates: int, shared: UInt64[np.ndarray, " i"] | None = None
) -> BootstrapWeights:
    """The weights of PAIRS rows. shared: the manifest's shared images where the rows are not all of it.

    Raises ValueError for a seed that is not from 0 to 2^32 - 1.
    """
    if not 0 <= seed < 2**32:
        raise ValueError(f"the bootstrap's seed must be from 0 to {2**32 - 1}; got {seed}")
    source, target = image_keys(pairs)
    if shared is None:
        shared = shared_images(source, target)
    drawn_as_one = ~(np.isin(source, shared) | np.isin(target, shared))
    target = np.where(drawn_as_one, source, target)
    return BootstrapWeights(source=source, target=target, seed=seed, n_replicates=n_replicates)


def _poisson(keys: UInt64[np.ndarray, " i"], seed: int, replicate: int) -> Float64[np.ndarray, " i"]:
    """A Poisson(1) number for each key."""
    salt = _splitmix64(np.array([(seed << 32) + replicate], np.uint64))
    uniform = _splitmix64(keys ^ salt) / 2.0**64
    return np.searchsorted(_CUMULATIVE_POISSON, uniform, side="right").astype(np.float64)


def _splitmix64(bits: UInt64[np.ndarray, " i"]) -> UInt64[np.ndarray, " i"]:
    """SplitMix64's output function: neighbouring numbers come out unrelated."""
    bits = bits + np.uint64(0x9E3779B97F4A7C15)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))
