import numpy as np
import pytest
import torch

from nemf.matchers.feature_cache import FeatureCache, Features


class _Encoder:
    """Gives an image's first value, as 4 numbers (16 bytes), and notes which images it is shown."""

    def __init__(self) -> None:
        self.shown: list[list[int]] = []

    def __call__(self, images: list[np.ndarray]) -> list[Features]:
        self.shown.append([int(image[0, 0, 0]) for image in images])
        return [[torch.full((4,), float(image[0, 0, 0]))] for image in images]


def _images(n: int) -> list[np.ndarray]:
    return [np.full((1, 1, 3), number, np.uint8) for number in range(n)]


def _values(actual: list[Features]) -> list[float]:
    return [float(level[0]) for (level,) in actual]


def test_each_image_is_encoded_once_and_answers_come_in_order() -> None:
    encoder, (a, b, c) = _Encoder(), _images(3)
    cache = FeatureCache(encoder)

    assert _values(cache.encode([b, a, b])) == [1, 0, 1]
    assert _values(cache.encode([a, c])) == [0, 2]
    assert encoder.shown == [[1, 0], [2]]


def test_equal_images_in_two_arrays_are_two_images() -> None:
    encoder, (a,), (again,) = _Encoder(), _images(1), _images(1)

    assert _values(FeatureCache(encoder).encode([a, again])) == [0, 0]
    assert encoder.shown == [[0, 0]]


def test_the_longest_unused_go_when_there_are_too_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemf.matchers.feature_cache.MAX_BYTES", 3 * 16)
    monkeypatch.setattr("nemf.matchers.feature_cache.MIN_IMAGES", 2)
    encoder, images = _Encoder(), _images(5)
    cache = FeatureCache(encoder)

    cache.encode(images[:3])
    cache.encode([images[0]])
    cache.encode([images[3]])  # 1 is the longest unused
    cache.encode([images[0], images[1]])

    assert encoder.shown == [[0, 1, 2], [3], [1]]


def test_a_pair_and_more_are_kept_however_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nemf.matchers.feature_cache.MAX_BYTES", 0)
    encoder, images = _Encoder(), _images(6)
    cache = FeatureCache(encoder)

    assert _values(cache.encode(images)) == [0, 1, 2, 3, 4, 5]
    cache.encode(images[2:])
    cache.encode(images[:1])

    assert encoder.shown == [[0, 1, 2, 3, 4, 5], [0]]
