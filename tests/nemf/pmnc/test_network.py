from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from tiny_pmnc import TINY_PMNC

from nemf.pmnc.correlation import slabs
from nemf.pmnc.network import PMNC, build, rows_and_columns
from nemf.pmnc.presets import PRESETS


@pytest.fixture(scope="module", params=[((5, 1), (4, 1)), ((3, 3), (3, 1))], ids=["5-1", "3-3"])
def model(request: pytest.FixtureRequest) -> PMNC:
    torch.manual_seed(0)
    return build(replace(TINY_PMNC, kernels=request.param[0], channels=request.param[1]))


def images(count: int, seed: int = 0) -> torch.Tensor:
    coarse = torch.rand(count, 3, 9, 9, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, (64, 64), mode="bicubic")


def test_features_are_of_unit_length_and_not_negative(model: PMNC):
    features = model.features(images(2))
    assert features.shape == (2, 128 + 256, 8, 8)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2, 8, 8), rtol=0, atol=1e-4)
    assert features.min() >= 0


def test_scores_are_the_dense_network_at_every_cell(model: PMNC):
    query, reference = model.features(images(2))
    correlation = model.correlation(query, reference)
    with torch.no_grad():
        volume = model.volumes(query[None], reference[None])[0]
        dense = model.scorer(volume).flatten(2).flatten(0, 1)
    every = torch.arange(64)
    scores = model.score(correlation, every.repeat_interleave(64), every.repeat(64)).view(64, 64)
    assert dense.std() > 0.01
    torch.testing.assert_close(scores, dense, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model.score_maps(correlation, every).flatten(1), dense, rtol=1e-5, atol=1e-5)


def test_training_slabs_are_the_scores_of_matching(model: PMNC):
    query, reference = model.features(images(2))
    cells = torch.tensor([0, 9, 63])
    volume = model.volumes(query[None], reference[None])[0]
    logits = model.scorer.score_slabs(slabs(volume, cells, 2), rows_and_columns(cells, (8, 8)), (8, 8))
    expected = model.score_maps(model.correlation(query, reference), cells)
    torch.testing.assert_close(logits, expected, rtol=1e-5, atol=1e-5)
    logits.square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in model.scorer.parameters())


def test_a_score_does_not_depend_on_the_others(model: PMNC):
    correlation = model.correlation(*model.features(images(2)))
    query = torch.arange(64).repeat_interleave(20)
    reference = torch.randint(0, 64, query.shape, generator=torch.Generator().manual_seed(1))
    together = model.score(correlation, query, reference)
    order = torch.randperm(len(query), generator=torch.Generator().manual_seed(2))
    assert torch.equal(model.score(correlation, query[order], reference[order]), together[order])
    assert torch.equal(model.score(correlation, query[7:8], reference[7:8]), together[7:8])
    assert len(model.score(correlation, query[:0], reference[:0])) == 0
    maps = model.score_maps(correlation, torch.arange(40))
    assert torch.equal(model.score_maps(correlation, torch.tensor([39, 3])), maps[[39, 3]])
    assert model.score_maps(correlation, query[:0]).shape == (0, 8, 8)


def test_the_search_finds_the_best_scores_of_an_image_and_its_shift():
    """PatchMatch against the greatest of all scores, which is what it is after."""
    torch.manual_seed(0)
    model = build(replace(TINY_PMNC, feature_size=12, channels=(1, 1)))
    first, second = model.scorer.layers
    for layer in (first, second):
        layer.bias.data.zero_()
    moves_together = torch.zeros(5, 5, 5, 5)
    for row in range(5):
        for column in range(5):
            moves_together[row, column, row, column] = 1
    first.weight.data[0, 0] = moves_together
    second.weight.data.fill_(1)
    query = torch.randn(16, 14, 14, generator=torch.Generator().manual_seed(3)).relu()
    reference = query[:, 2:, 1:13] + torch.rand(16, 12, 12, generator=torch.Generator().manual_seed(4))
    correlation = model.correlation(F.normalize(query[:, :12, :12], dim=0), F.normalize(reference, dim=0))
    best = model.score_maps(correlation, torch.arange(144)).flatten(1).argmax(dim=1)
    found = model.match_cells(correlation, 4, True).cell
    shown = (torch.arange(144) >= 24) & (torch.arange(144) % 12 >= 1)  # the reference lacks two rows and a column
    assert (correlation.best == best)[shown].float().mean() < 0.95
    assert (found == best)[shown].float().mean() >= 0.99


def test_presets():
    for name, preset in PRESETS.items():
        config = preset()
        assert name.startswith("pmnc-")
        assert config.radius == {"1": 0, "3": 1, "7": 3}.get(name[-1], 2)
