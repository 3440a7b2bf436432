import torch
import torch.nn.functional as F

from nemf.model.correlation import correlate, soft_mutual_nearest_neighbour
from nemf.pmnc.correlation import FilteredCorrelation

QUERY_HW, REFERENCE_HW = (3, 4), (5, 2)


def features(*hw: int, seed: int) -> torch.Tensor:
    return F.normalize(torch.rand(6, *hw, generator=torch.Generator().manual_seed(seed)), dim=0)


def test_the_values_are_those_of_the_whole_filter_and_nothing_lies_outside():
    query, reference = features(*QUERY_HW, seed=0), features(*REFERENCE_HW, seed=1)
    whole = correlate(query[None], reference[None])[0, 0].flatten(2).flatten(0, 1)
    expected = soft_mutual_nearest_neighbour(whole[None, None])[0, 0]
    correlation = FilteredCorrelation(query, reference, radius=1)
    torch.testing.assert_close(correlation.patches(*_every_pair())[:, 1, 1, 1, 1].view(12, 10), expected)
    torch.testing.assert_close(correlation.slabs(torch.arange(12))[:, 1, 1].flatten(1), expected)
    assert torch.equal(correlation.best, expected.argmax(dim=1))
    corner = correlation.patches(torch.tensor([0]), torch.tensor([9]))[0]
    assert not corner[0].any()
    assert not corner[:, 0].any()
    assert not corner[:, :, 2].any()
    assert not corner[:, :, :, 2].any()
    assert corner[1:, 1:, :2, :2].all()


def test_a_patch_holds_its_neighbours():
    correlation = FilteredCorrelation(features(*QUERY_HW, seed=0), features(*REFERENCE_HW, seed=1), radius=1)
    one = torch.tensor([1 * 4 + 2]), torch.tensor([3 * 2 + 0])
    moved = torch.tensor([2 * 4 + 1]), torch.tensor([2 * 2 + 1])
    assert correlation.patches(*one)[0, 2, 0, 0, 2] == correlation.patches(*moved)[0, 1, 1, 1, 1]


def _every_pair() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(12).repeat_interleave(10), torch.arange(10).repeat(12)
