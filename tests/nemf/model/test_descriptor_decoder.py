from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny import TINY
from torch import nn

from nemf import checkpoints
from nemf.model.build import build
from nemf.model.descriptor_decoder import DescriptorDecoder, around


def random_decoder(n_features: int = 3, channels: int = 4) -> DescriptorDecoder:
    torch.manual_seed(0)
    decoder = DescriptorDecoder(n_features, channels)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.7)
    return decoder


def slowly(decoder: DescriptorDecoder, features: torch.Tensor, x: float, y: float) -> torch.Tensor:
    """Equations 5 to 10 for a point between the cells of one map (c, h, w), cell by cell."""
    left, top = int(x), int(y)
    corners = [(left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)]
    sum_f = sum_z = torch.zeros(())
    for column, row in corners:
        cell = features[:, row, column]
        offset = torch.tensor([x - column, y - row])
        first, _, second = decoder.modulation
        modulation = second.weight @ torch.relu(first.weight @ offset + first.bias) + second.bias
        gain, bias = modulation[: len(modulation) // 2], modulation[len(modulation) // 2 :]
        code = decoder.code.weight[:, :, 0, 0] @ cell + decoder.code.bias
        hidden = torch.relu((1 + gain) * code + bias)
        hidden = torch.relu(decoder.hidden.weight @ hidden + decoder.hidden.bias)
        f = decoder.output.weight @ hidden + decoder.output.bias
        # the area of the rectangle between the point and the opposite corner
        opposite_x, opposite_y = 2 * left + 1 - column, 2 * top + 1 - row
        area = abs(x - opposite_x) * abs(y - opposite_y)
        sum_f, sum_z = sum_f + area * f, sum_z + area * cell
    return decoder.descriptor.weight @ (sum_f + sum_z) + decoder.descriptor.bias


def test_weights_are_the_areas_of_the_opposite_corners():
    cells = around(torch.tensor([[1.25, 0.5], [2.0, 3.0], [-7.0, 9.0]]), (4, 5))
    assert cells.cell.tolist() == [[1, 2, 6, 7], [12, 13, 17, 18], [10, 11, 15, 16]]
    assert cells.offset[0].tolist() == [[0.25, 0.5], [-0.75, 0.5], [0.25, -0.5], [-0.75, -0.5]]
    assert cells.weight.tolist() == [[0.375, 0.125, 0.375, 0.125], [0, 0, 1, 0], [0, 0, 1, 0]]


def test_a_grid_of_one_row():
    cells = around(torch.tensor([[0.5, 0.0], [3.0, 2.0]]), (1, 2))
    assert cells.weight.tolist() == [[0.5, 0.5, 0, 0], [0, 1, 0, 0]]
    assert cells.cell.max() < 2


def test_it_is_the_published_equations_one_by_one():
    decoder = random_decoder()
    features = torch.randn(2, 3, 4, 5)
    points = torch.tensor([[0.3, 0.9], [3.99, 2.5], [1.0, 2.0], [2.6, 0.01]])
    image = torch.tensor([0, 1, 1, 0])
    with torch.no_grad():
        decoded = decoder(features, image, points)
        expected = [slowly(decoder, features[i], x, y) for i, (x, y) in zip(image, points.tolist(), strict=True)]
    assert torch.allclose(decoded, torch.stack(expected), atol=1e-5)


def test_at_a_cells_centre_only_that_cell_counts():
    decoder = random_decoder()
    features = torch.randn(1, 3, 4, 5)
    at = torch.tensor([[2.0, 1.0]])
    image = torch.zeros(1, dtype=torch.long)
    changed = features.clone()
    changed[..., torch.arange(4) != 1, :] += 1
    changed[..., torch.arange(5) != 2] += 1
    with torch.no_grad():
        assert torch.allclose(decoder(features, image, at), decoder(changed, image, at), atol=1e-5)


@pytest.mark.parametrize("density", [1, 3, 4])
def test_the_grid_is_the_points_at_the_centres_of_smaller_cells(density: int):
    decoder = random_decoder()
    features = torch.randn(2, 3, 4, 5)
    with torch.no_grad():
        grid = decoder.grid(features, density)
        assert grid.shape == (2, 3, 4 * density, 5 * density)
        y, x = torch.meshgrid(*((torch.arange(n * density) + 0.5) / density - 0.5 for n in (4, 5)), indexing="ij")
        points = torch.stack([x, y], dim=-1).view(-1, 2)
        for number in range(2):
            image = torch.full((len(points),), number)
            assert torch.allclose(decoder(features, image, points).T, grid[number].flatten(1), atol=1e-5)


def test_a_new_decoder_is_bilinear_interpolation():
    torch.manual_seed(0)
    features = torch.randn(1, 3, 4, 5)
    with torch.no_grad():
        grid = DescriptorDecoder(3, 8).grid(features, 4)
    expected = F.interpolate(features, scale_factor=4, mode="bilinear", align_corners=False)
    assert torch.allclose(grid, expected, atol=1e-5)


def test_gradients_reach_every_weight_and_the_map():
    decoder = random_decoder().double()
    features = torch.randn(1, 3, 3, 3, dtype=torch.double, requires_grad=True)
    points = torch.tensor([[0.3, 0.9], [1.6, 1.2]], dtype=torch.double)
    image = torch.zeros(2, dtype=torch.long)
    assert torch.autograd.gradcheck(lambda maps: decoder(maps, image, points), features)
    decoder.grid(features, 2).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in decoder.parameters())
    assert features.grad.abs().sum() > 0


def test_a_checkpoint_keeps_it_and_older_ones_have_none(tmp_path):
    config = replace(TINY, decoder_channels=8)
    model = build(config)
    checkpoints.save(tmp_path, model, config)
    assert checkpoints.read_config(tmp_path) == config
    assert torch.equal(checkpoints.load(tmp_path).decoder.code.weight, model.decoder.code.weight)

    checkpoints.save(tmp_path, build(TINY), TINY)
    text = (tmp_path / "config.json").read_text()
    (tmp_path / "config.json").write_text(text.replace(' "decoder_channels": 0,\n', ""))
    assert "decoder_channels" not in (tmp_path / "config.json").read_text()
    assert checkpoints.load(tmp_path).decoder is None

    with pytest.raises(ValueError, match="decoder_channels needs a neck"):
        build(replace(TINY, neck_channels=0, decoder_channels=8))
