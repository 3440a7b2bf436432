import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nemf import ImagePair, Match, Matcher, load_matcher, matcher
from nemf.matcher import as_points
from pipeline.io.images import read_image


class Recorder(Matcher):
    """Matches every point to itself and keeps the pairs it was given."""

    name = "recorder"
    fingerprint = "0"

    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        self.pairs = list(pairs)
        points = [np.zeros((0, 2), np.float32) if p.query_xy_px is None else p.query_xy_px for p in pairs]
        return [Match(reference_xy_px=xy, point_confidence=np.ones(len(xy), np.float32)) for xy in points]


IMAGE = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)


@pytest.mark.parametrize("image", [IMAGE, Image.fromarray(IMAGE), torch.from_numpy(IMAGE)])
def test_numpy_pil_and_torch_images_are_the_same(image: object):
    matcher = Recorder()
    match = matcher.match(image, IMAGE, [[1, 2], [3.5, 0]])
    assert np.array_equal(matcher.pairs[0].query_rgb, IMAGE)
    assert match.reference_xy_px.dtype == np.float32
    assert match.reference_xy_px.tolist() == [[1, 2], [3.5, 0]]


def test_a_pil_image_is_what_the_pipeline_sees(tmp_path: Path):
    """Orientation, transparency and depth as pipeline.io.images reads them from a file."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, transparent = Image.fromarray(IMAGE), Image.new("RGBA", (3, 2), (0, 0, 0, 0))
    turned.save(tmp_path / "turned.png", exif=exif)
    transparent.save(tmp_path / "transparent.png")
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "deep.png")
    for name in ("turned.png", "transparent.png", "deep.png"):
        matcher = Recorder()
        with Image.open(tmp_path / name) as image:
            matcher.match(image, IMAGE, [])
        np.testing.assert_array_equal(matcher.pairs[0].query_rgb, read_image(str(tmp_path / name)))


def test_the_flow_is_asked_for_where_no_points_are():
    matcher = Recorder()
    matcher.match(IMAGE, IMAGE)
    assert matcher.pairs[0].dense
    matcher.match(IMAGE, IMAGE, [])
    assert not matcher.pairs[0].dense
    matcher.match(IMAGE, IMAGE, [[1, 2]], dense=True)
    assert matcher.pairs[0].dense


@pytest.mark.parametrize(
    ("image", "got"),
    [
        (IMAGE.astype(np.float32), "float32"),
        (IMAGE[..., 0], r"\(4, 5\)"),
        (IMAGE.transpose(2, 0, 1), r"\(3, 4, 5\)"),
        (IMAGE[:0], r"\(0, 5, 3\)"),
    ],
)
def test_what_is_no_image_is_named(image: np.ndarray, got: str):
    with pytest.raises(ValueError, match=f"reference image must be RGB .* got .*{got}"):
        Recorder().match(IMAGE, image, [[1, 2]])


@pytest.mark.parametrize(
    ("points", "message"),
    [([[1, 2, 3]], r"shape \(K, 2\)"), ([1, 2], r"shape \(K, 2\)"), ([[1, 2], [np.nan, 0]], "point 1 is")],
)
def test_what_are_no_points_is_named(points: list, message: str):
    with pytest.raises(ValueError, match=message):
        Recorder().match(IMAGE, IMAGE, np.array(points))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"query_rgb": np.zeros((4, 5), np.uint8)}, r"query image must be RGB .* got shape \(4, 5\), dtype uint8"),
        ({"reference_rgb": np.zeros((4, 5, 3))}, r"reference image must be RGB .* dtype float64"),
        ({"query_rgb": np.zeros((0, 5, 3), np.uint8)}, r"query image must be RGB .* got shape \(0, 5, 3\)"),
        ({"query_xy_px": np.zeros((2, 2))}, "query_xy_px must have dtype float32; got float64"),
        ({"query_xy_px": np.zeros((2, 3), np.float32)}, r"points must have shape \(K, 2\).* got shape \(2, 3\)"),
        ({"query_xy_px": np.array([[0, 1], [np.nan, 0]], np.float32)}, "must be finite; point 1 is"),
    ],
)
def test_a_pair_that_is_none_is_refused_before_any_matcher_sees_it(wrong: dict[str, np.ndarray], message: str):
    image = np.zeros((4, 5, 3), np.uint8)
    with pytest.raises(ValueError, match=message):
        ImagePair(**{"query_rgb": image, "reference_rgb": image, **wrong})


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([[1, 2], [3]], "rows of other lengths"),
        ([[10**400, 0]], "must be real numbers"),
        (np.array([[1j, 0]]), "must be real numbers"),
        (np.array([["1", "2"]]), "must be real numbers"),
        ([[1e39, 0]], "must be finite; point 0"),
    ],
)
def test_points_that_are_none(points: object, message: str):
    with pytest.raises(ValueError, match=message):
        as_points(points)


def test_the_example_of_the_docstring_is_a_matcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file, code, name = re.search(
        r"in a file (\S+):\n\n(    .*?)\n\nIt is used as `nemf match --matcher (\S+)", matcher.__doc__, re.DOTALL
    ).groups()
    (tmp_path / file).write_text(textwrap.dedent(code))
    monkeypatch.syspath_prepend(str(tmp_path))
    shift = load_matcher(name)
    assert (shift.name, shift.fingerprint) == ("shift", "shift 1 3 0")
    with_points, dense = shift.match(IMAGE, IMAGE, [[1, 2]]), shift.match(IMAGE, IMAGE)
    assert with_points.reference_xy_px.tolist() == [[4, 2]]
    assert with_points.flow_px is None
    assert dense.reference_xy_px.shape == (0, 2)
    assert dense.flow_px.tolist() == [[[3, 0]] * 5] * 4
    assert dense.flow_confidence.tolist() == [[1] * 5] * 4
