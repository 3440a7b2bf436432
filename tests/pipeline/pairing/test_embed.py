from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from make import encoded

from pipeline.pairing.embed import _collected, _load, embed_images
from pipeline.pairing.nearest import LENGTH


class MeanColour:
    """The vector of an image is its mean colour."""

    def embed(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for rgb in images:
            mean = rgb.mean(axis=(0, 1)).astype(np.float32)
            yield mean if mean.any() else mean * np.nan


@pytest.fixture
def uris(tmp_path: Path) -> list[str]:
    """Red, an empty file, blue, a text, black, nothing."""
    contents = {
        "red.png": encoded(np.full((4, 5, 3), (200, 0, 0), np.uint8)),
        "empty.png": b"",
        "blue.png": encoded(np.full((4, 5, 3), (0, 0, 9), np.uint8)),
        "text.png": b"no image",
        "black.png": encoded(np.zeros((4, 5, 3), np.uint8)),
    }
    for name, data in contents.items():
        (tmp_path / name).write_bytes(data)
    return [str(tmp_path / name) for name in (*contents, "nothing.png")]


def test_vectors_of_what_can_be_read_and_why_the_others_have_none(uris):
    embedded = _collected([embed_images(MeanColour(), range(6), uris)])
    assert embedded.numbers == [0, 2]
    assert embedded.vectors.tolist() == [[LENGTH, 0, 0], [0, 0, LENGTH]]
    assert len(set(embedded.digests)) == 2
    assert {number: failure[:2] for number, failure in embedded.failures.items()} == {
        1: ("decode", "empty_file"),
        3: ("decode", "not_an_image"),
        4: ("match", "not_finite"),
        5: ("fetch", "not_found"),
    }


def test_the_same_whatever_comes_together_and_in_any_order(uris):
    together = _collected([embed_images(MeanColour(), range(6), uris)])
    apart = [embed_images(MeanColour(), [number], [uri]) for number, uri in enumerate(uris)][::-1]
    embedded = _collected(apart)
    assert embedded.numbers == together.numbers
    assert embedded.vectors.tolist() == together.vectors.tolist()
    assert embedded.failures == together.failures


def test_nothing_that_can_be_read(uris):
    assert len(_collected([embed_images(MeanColour(), [7], uris[1:2])]).vectors) == 0


@pytest.mark.parametrize("matcher", ["identity", "nearest-neighbour:dense-sift?zoom=1"])
def test_a_matcher_that_cannot_tell_what_looks_alike(matcher):
    with pytest.raises(ValueError, match=r"has no features of whole images.*give nemf-small"):
        _load(matcher, None, "cpu")


def test_rows_are_arrow_tables(uris):
    assert isinstance(embed_images(MeanColour(), [0], uris[:1]), pa.Table)
