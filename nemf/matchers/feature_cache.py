"""Features of images, made once for the pairs that share them."""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from torch import Tensor

from nemf.matcher import RGB

MAX_BYTES = 512 * 2**20
MIN_IMAGES = 4
"""Kept however large they are: those of one pair and the next."""

Features = list[Tensor]


class KeptFeatures:
    """The features of the images that were asked for last, within MAX_BYTES; the longest unused go first.

    encode: gives the features of each of some images, which depend on that image alone.
    An image is known by its array object; the arrays must stay as long as this does.
    """

    def __init__(self, encode: Callable[[Sequence[RGB]], list[Features]]) -> None:
        self._encode = encode
        self._kept: OrderedDict[int, Features] = OrderedDict()
        self._n_bytes = 0

    def of(self, images: Sequence[RGB]) -> list[Features]:
        """The features of each of the images, in their order; those not at hand are made together."""
        absent = list({id(image): image for image in images if id(image) not in self._kept}.values())
        if absent:
            for image, features in zip(absent, self._encode(absent), strict=True):
                self._kept[id(image)] = features
                self._n_bytes += _n_bytes(features)
        found = []
        for image in images:
            self._kept.move_to_end(id(image))
            found.append(self._kept[id(image)])
        while self._n_bytes > MAX_BYTES and len(self._kept) > MIN_IMAGES:
            _, features = self._kept.popitem(last=False)
            self._n_bytes -= _n_bytes(features)
        return found


def _n_bytes(features: Features) -> int:
    return sum(level.nbytes for level in features)
