"""Features of images, encoded once for the pairs that share them, be they of one call of a matcher or of several."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from nemf.matcher import RGB

MAX_BYTES = 512 * 2**20
"""Largest number of bytes of features that a call keeps until its end, unless those of MIN_IMAGES are more."""
MIN_IMAGES = 4
"""Minimum number of images kept in a call, whatever their size: those of two pairs."""
KEPT_BYTES = 96 * 2**20
"""Largest number of bytes of features that a matcher keeps for its next calls: 128 images of nemf-small, or 30 of
nearest neighbours of MobileNetV1, more than a category of SPair-71k has. A worker takes some 30 MB more for it."""

Features = list[Tensor]
Key = tuple[object, ...]


class KeptFeatures:
    """The features that a matcher used last, within KEPT_BYTES, for its next calls; it holds one of these.

    The matcher's network and options must not change. A copy, also one by pickle, is empty: that of a matcher may get
    another network. Several threads may use one, on a GPU on the same stream, as they do if they choose none.
    """

    def __init__(self) -> None:
        self._recent = _Recent()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type["KeptFeatures"], tuple[()]]:
        return KeptFeatures, ()

    def get(self, key: Key) -> Features | None:
        """The features of that key; None where they are not kept."""
        with self._lock:
            return self._recent.get(key)

    def keep(self, key: Key, features: Features) -> None:
        """Keep the features as those used last, and drop the least recently used."""
        with self._lock:
            self._recent.put(key, features)
            self._recent.drop_beyond(KEPT_BYTES, 0)


class ImageKeys:
    """The key of each image of a call: its shape, the SHA-256 of its pixels, and the number of threads of torch, by
    which features round differently.

    The pixels of an array object are read once, so an array must stay as it is during the call.
    """

    def __init__(self) -> None:
        self._keys: dict[int, tuple[RGB, Key]] = {}

    def __call__(self, image: RGB) -> Key:
        """The key of an image, read-only and not contiguous or as it may be."""
        if id(image) not in self._keys:
            digest = hashlib.sha256(np.ascontiguousarray(image).data.cast("B")).digest()
            # the array is kept too: its id is then no other array's
            self._keys[id(image)] = (image, (image.shape, digest, torch.get_num_threads()))
        return self._keys[id(image)][1]


class FeatureCache:
    """The features of the images of one call of a matcher, within MAX_BYTES; the least recently used are dropped first.

    encode: gives the features of each of some images, C-contiguous, which depend on that image alone.
    kept: where features of earlier calls are found, and those of this call go.
    kind: tells the features from others that the matcher keeps of the same images.
    keys: of another cache of the call, so that pixels are read once; by default its own.
    """

    def __init__(
        self,
        encode: Callable[[Sequence[RGB]], list[Features]],
        kept: KeptFeatures,
        *,
        kind: str = "",
        keys: ImageKeys | None = None,
    ) -> None:
        self.keys = keys or ImageKeys()
        self._encode = encode
        self._kept = kept
        self._kind = kind
        self._recent = _Recent()

    def encode(self, images: Sequence[RGB]) -> list[Features]:
        """The features of each of the images, in their order; those neither here nor kept are encoded together."""
        keys = [(self._kind, *self.keys(image)) for image in images]
        found: dict[Key, Features] = {}
        missing: dict[Key, RGB] = {}
        for key, image in zip(keys, images, strict=True):
            features = self._recent.get(key) or self._kept.get(key)
            if features is None:
                missing[key] = np.ascontiguousarray(image)
            else:
                found[key] = features
        if missing:
            found |= zip(missing, self._encode(list(missing.values())), strict=True)
        for key in keys:
            self._recent.put(key, found[key])
            self._kept.keep(key, found[key])
        self._recent.drop_beyond(MAX_BYTES, MIN_IMAGES)
        return [found[key] for key in keys]


class _Recent:
    """Features by key, those put last at the end."""

    def __init__(self) -> None:
        self._features: OrderedDict[Key, Features] = OrderedDict()
        self._n_bytes = 0

    def get(self, key: Key) -> Features | None:
        return self._features.get(key)

    def put(self, key: Key, features: Features) -> None:
        self._n_bytes += _n_bytes(features) - _n_bytes(self._features.get(key, []))
        self._features[key] = features
        self._features.move_to_end(key)

    def drop_beyond(self, max_bytes: int, min_images: int) -> None:
        while self._n_bytes > max_bytes and len(self._features) > min_images:
            _, features = self._features.popitem(last=False)
            self._n_bytes -= _n_bytes(features)


def _n_bytes(features: Features) -> int:
    return sum(level.nbytes for level in features)
