"""Trained descriptors are read where their loss has them: the centres of the outermost cells lie on the image's edges.

The network that stands for a trained one has that convention exactly: it reads an image at these places. The scene has
a direction of its own everywhere, a point of a sphere; query and reference are two windows of it.
"""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import TINY

from nemf.coordinates import pixel_grid, px_to_norm
from nemf.matcher import ImagePair
from nemf.matchers.nearest_neighbour import NearestNeighbourMatcher
from nemf.model.build import build
from nemf.model.descriptors import Descriptors
from nemf.training.descriptor_loss import descriptor_loss

SIDE, CELLS = 64, 8
QUERY_XY_PX, REFERENCE_XY_PX = (45.0, 36.0), (18.0, 9.0)
"""One place of the scene, at the centre of a cell of both images: 63 / 7 pixels from one to the next."""


def _window(corner_xy_px: tuple[float, float]) -> np.ndarray:
    """The square of the scene with that corner, as RGB of unit vectors' components from -1 to 1."""
    angle = 0.3 + 0.024 * (pixel_grid((SIDE, SIDE)) + torch.tensor(corner_xy_px))
    x, y = angle.unbind(-1)
    direction = torch.stack([x.sin() * y.cos(), x.sin() * y.sin(), x.cos()], dim=-1)
    return ((direction + 1) / 2 * 255).round().to(torch.uint8).numpy()


QUERY = _window((0, 0))
REFERENCE = _window(tuple(np.subtract(QUERY_XY_PX, REFERENCE_XY_PX)))


def _maps(image: torch.Tensor) -> list[torch.Tensor]:
    return [F.interpolate(image, (CELLS, CELLS), mode="bilinear", align_corners=True)]


def _matcher(monkeypatch: pytest.MonkeyPatch, **options: object) -> NearestNeighbourMatcher:
    descriptors = Descriptors(build(TINY)).eval()
    for buffer in (descriptors.mean, descriptors.std):
        buffer.fill_(0.5)
    monkeypatch.setattr(descriptors, "maps", _maps)
    return NearestNeighbourMatcher("planted", descriptors, torch.device("cpu"), image_size=SIDE, **options)


def test_the_loss_is_least_where_the_pattern_is():
    images = torch.stack([torch.tensor(rgb).permute(2, 0, 1) / 127.5 - 1 for rgb in (QUERY, REFERENCE)])
    (maps,) = _maps(images)

    def loss(dx: float, dy: float) -> float:
        reference_xy_px = (REFERENCE_XY_PX[0] + dx, REFERENCE_XY_PX[1] + dy)
        xy_norm = px_to_norm(torch.tensor([QUERY_XY_PX, reference_xy_px]), (SIDE, SIDE))
        return descriptor_loss(maps, torch.tensor([0, 1]), xy_norm, torch.tensor([0, 0]), torch.ones(2)).item()

    at_its_place = loss(0, 0)
    for step in (1.0, 2.5, 4.5):  # of 9 pixels from cell to cell
        assert all(loss(*move) > at_its_place for move in ((step, 0), (-step, 0), (0, step), (0, -step)))


@pytest.mark.parametrize("fit", ["squash", "letterbox"])
def test_the_answer_is_where_the_loss_is_least(fit: str, monkeypatch: pytest.MonkeyPatch):
    """Score cells are 2 pixels wide; read as tiles, the answer would be 3.9 pixels off."""
    matcher = _matcher(monkeypatch, fit=fit, window=0.0)
    pair = ImagePair(query_rgb=QUERY, reference_rgb=REFERENCE, query_xy_px=np.array([QUERY_XY_PX], np.float32))

    (match,) = matcher.match_batch([pair])

    assert np.abs(match.reference_xy_px[0] - REFERENCE_XY_PX).max() < 1.6


def test_how_cells_lie_is_in_the_fingerprint(monkeypatch: pytest.MonkeyPatch):
    matcher = _matcher(monkeypatch)
    monkeypatch.setattr(matcher.backbone, "corners_aligned", False)
    as_tiles = NearestNeighbourMatcher("planted", matcher.backbone, torch.device("cpu"), image_size=SIDE)
    assert as_tiles.fingerprint != matcher.fingerprint
