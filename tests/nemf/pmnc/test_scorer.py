"""The forms of the scorer agree with a plain loop of the specification, at every cell."""

import itertools

import numpy as np
import pytest
import torch

from nemf.pmnc.correlation import FilteredCorrelation, slabs
from nemf.pmnc.scorer import LocalScorer

LAYERS = [((5, 1), (3, 1)), ((3, 3), (4, 1)), ((3, 1, 3), (2, 3, 1)), ((5,), (1,))]
QUERY_HW, REFERENCE_HW = (4, 6), (5, 3)


def integer_scorer(kernels: tuple[int, ...], channels: tuple[int, ...]) -> LocalScorer:
    """Weights of whole numbers: all sums are exact in float32, in whatever order."""
    scorer = LocalScorer(kernels, channels)
    generator = torch.Generator().manual_seed(0)
    for parameter in scorer.parameters():
        parameter.data = torch.randint(-2, 3, parameter.shape, generator=generator).float()
    return scorer


def integer_volume() -> torch.Tensor:
    return torch.randint(0, 4, (*QUERY_HW, *REFERENCE_HW), generator=torch.Generator().manual_seed(1)).float()


def plain_layer(volume: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """One padded 4D convolution, cell by cell: volume (c, i, j, k, l), weight (d, c, side, side, side, side)."""
    side, sizes = weight.shape[2], volume.shape[1:]
    out = np.zeros((len(weight), *sizes))
    for cell in itertools.product(*map(range, sizes)):
        total = bias.copy()
        for step in itertools.product(range(side), repeat=4):
            at = [c + s - side // 2 for c, s in zip(cell, step, strict=True)]
            if all(0 <= a < size for a, size in zip(at, sizes, strict=True)):
                total += weight[(slice(None), slice(None), *step)] @ volume[(slice(None), *at)]
        out[(slice(None), *cell)] = total
    return out


def plain_scores(scorer: LocalScorer, volume: torch.Tensor) -> torch.Tensor:
    values = volume.double().numpy()[None]
    for number, layer in enumerate(scorer.layers):
        values = np.maximum(values, 0) if number else values
        values = plain_layer(values, layer.weight.detach().double().numpy(), layer.bias.detach().double().numpy())
    return torch.from_numpy(values[0]).float()


class Planted(FilteredCorrelation):
    """A correlation of given values."""

    def __init__(self, volume: torch.Tensor, radius: int) -> None:
        super().__init__(torch.zeros(1, *volume.shape[:2]), torch.zeros(1, *volume.shape[2:]), radius)
        inside = [slice(radius, radius + size) for size in volume.shape]
        self._padded[tuple(inside)] = volume


@pytest.mark.parametrize(("kernels", "channels"), LAYERS)
def test_every_form_is_the_plain_loop_at_every_cell(kernels, channels):
    scorer, volume = integer_scorer(kernels, channels), integer_volume()
    plain = plain_scores(scorer, volume)
    assert plain.unique().numel() > 20
    n_query, n_reference = volume[..., 0, 0].numel(), volume[0, 0].numel()
    query, reference = torch.arange(n_query), torch.arange(n_reference)
    cells = torch.stack([query // QUERY_HW[1], query % QUERY_HW[1]], dim=1)
    correlation = Planted(volume, scorer.radius)
    with torch.no_grad():
        assert torch.equal(scorer(volume), plain)
        by_slab = scorer.score_slabs(correlation.slabs(query), cells, QUERY_HW)
        assert torch.equal(by_slab, plain.flatten(0, 1))
        every_query, every_reference = query.repeat_interleave(n_reference), reference.repeat(n_query)
        by_patch = scorer.score_patches(
            correlation.patches(every_query, every_reference),
            cells[every_query],
            torch.stack([every_reference // REFERENCE_HW[1], every_reference % REFERENCE_HW[1]], dim=1),
            QUERY_HW,
            REFERENCE_HW,
        )
    assert torch.equal(by_patch, plain.flatten())
    assert torch.equal(slabs(volume, query, scorer.radius), correlation.slabs(query))


def test_hidden_values_outside_the_maps_count_as_nothing():
    """Without that, a patch at the border would see the bias of the hidden layer there, and a padded layer 0."""
    scorer = LocalScorer((1, 3), (1, 1))
    for layer in scorer.layers:
        layer.weight.data.fill_(1)
    scorer.layers[0].bias.data.fill_(1)
    scores = scorer(torch.zeros(3, 3, 3, 3))
    assert scores[1, 1, 1, 1] == 81
    assert scores[0, 0, 0, 0] == 16
    corner = torch.zeros(1, 2, dtype=torch.int64)
    assert scorer.score_patches(torch.zeros(1, 3, 3, 3, 3), corner, corner, (3, 3), (3, 3)) == 16


@pytest.mark.parametrize(
    ("kernels", "channels", "count"), [((5, 5, 5), (16, 16, 1), 180_033), ((3, 3), (16, 1), 2_609)]
)
def test_parameters_of_nc_net(kernels, channels, count):
    assert sum(parameter.numel() for parameter in LocalScorer(kernels, channels).parameters()) == count


@pytest.mark.parametrize(
    ("kernels", "channels", "fault"),
    [
        ((3, 3), (16,), "a kernel for each number of channels"),
        ((), (), "a kernel for each number of channels"),
        ((4,), (1,), "kernels must be odd"),
        ((3,), (2,), "the last of the channels must be 1"),
    ],
)
def test_layers_that_cannot_be(kernels, channels, fault):
    with pytest.raises(ValueError, match=fault):
        LocalScorer(kernels, channels)
