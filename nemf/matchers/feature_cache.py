"""Features of images, encoded once for the pairs that share them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor

from nemf.matcher import RGB

MAX_BYTES = 512 * 2**20
MIN_IMAGES = 4
"""Minimum number of images kept, whatever their size: those of two pairs."""

Features = list[Tensor]


class FeatureCache:
    """The features of the images used last, within MAX_BYTES; the least recently used are dropped first.

    encode: gives the features of each of some images, which depend on that image alone.
    An image is identified by its array object; the arrays must live as long as the cache.
    """

    def __init__(self, encode: Callable[[Sequence[RGB]], list[Features]]) -> None:
        self._encode = encode
        self._features: OrderedDict[int, Features] = OrderedDict()
        self._n_bytes = 0

    def encode(self, images: Sequence[RGB]) -> list[Features]:
        """The features of each of the images, in their order; those not in the cache are encoded together."""
        missing = list({id(image): image for image in images if id(image) not in self._features}.values())
        if missing:
            for image, features in zip(missing, self._encode(missing), strict=True):
                self._features[id(image)] = features
                self._n_bytes += _n_bytes(features)
        encoded = []
        for image in images:
            self._features.move_to_end(id(image))
            encoded.append(self._features[id(image)])
        while self._n_bytes > MAX_BYTES and len(self._features) > MIN_IMAGES:
            _, features = self._features.popitem(last=False)
            self._n_bytes -= _n_bytes(features)
        return encoded


def _n_bytes(features: Features) -> int:
    return sum(level.nbytes for level in features)
