from collections.abc import Iterator

import pytest
import torch

from nemf.model.field import Field
from nemf.model.scorer import TILE, CostTable, QueryScorer

N_POINTS = 700  # more than a tile
PAIR = torch.arange(2).repeat_interleave(N_POINTS)
INDEX = torch.arange(2 * N_POINTS)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 2 - 1


REFERENCE, QUERY = 1.2 * random(2, N_POINTS, 2, seed=2), 1.2 * random(2, N_POINTS, 2, seed=3)
"""Points of two pairs, some of them outside."""


@pytest.fixture(scope="module")
def field() -> Field:
    torch.manual_seed(0)
    return (
        Field(correlation_channels=4, cost_channels=4, hidden=8, n_blocks=2, n_frequencies=3)
        .double()
        .requires_grad_(False)
    )


@pytest.fixture(scope="module")
def volume() -> torch.Tensor:
    return random(2, 4, 3, 5, 4, 2, seed=1)


def over_cells(
    field: Field, volume: torch.Tensor, pair: torch.Tensor, query_xy_norm: torch.Tensor, **options: bool
) -> QueryScorer:
    """The scorer of volumes (b, c, hr, wr, hq, wq)."""
    table = CostTable.of_cells(volume.permute(0, 4, 5, 2, 3, 1), pair, query_xy_norm)
    return QueryScorer(field, table, query_xy_norm, **options)


@pytest.mark.parametrize("positional_gradient", [False, True])
def test_logits_and_gradients_are_those_of_the_field(field: Field, volume: torch.Tensor, positional_gradient: bool):
    scorer = over_cells(field, volume, PAIR, QUERY.flatten(0, 1), positional_gradient=positional_gradient)
    reference = REFERENCE.clone().requires_grad_()
    expected = field(volume, reference, QUERY, positional_gradient=positional_gradient)
    actual = scorer(reference.flatten(0, 1), INDEX).view(2, N_POINTS)
    assert torch.allclose(actual, expected)
    weight = random(2, N_POINTS, seed=4)
    gradients = [torch.autograd.grad((logits * weight).sum(), reference)[0] for logits in (actual, expected)]
    assert gradients[1].abs().max() > 0.01
    assert torch.allclose(*gradients)
    with torch.no_grad():
        assert torch.allclose(scorer(reference.flatten(0, 1), INDEX).view(2, N_POINTS), expected)


def test_query_points_are_given_by_index(field: Field, volume: torch.Tensor):
    scorer = over_cells(field, volume, PAIR, QUERY.flatten(0, 1))
    index, reference_xy = torch.tensor([1399, 3, 3, 700]), REFERENCE[0, :4]
    expected = field(
        volume[PAIR[index]], reference_xy[:, None], QUERY.flatten(0, 1)[index][:, None], positional_gradient=False
    )
    assert torch.allclose(scorer(reference_xy, index), expected[:, 0])


@pytest.fixture(params=[1, 2, 3])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    """Sets the number of threads, among which matrix products are divided."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("n_points", [1, 31, TILE["cpu"], TILE["cpu"] + 1])
@pytest.mark.usefixtures("threads")
def test_a_logit_depends_on_nothing_beside_it(n_points: int):
    """A point's logit is bitwise equal alone, among other points, elsewhere in the call, and with its pair alone."""
    torch.manual_seed(1)
    field = Field(correlation_channels=12, cost_channels=12, hidden=256, n_blocks=1, n_frequencies=10).requires_grad_(
        False
    )
    volume, reference, query = (
        random(2, 12, 4, 4, 4, 4).float(),
        REFERENCE.float().flatten(0, 1),
        QUERY.float().flatten(0, 1),
    )
    scorer = over_cells(field, volume, PAIR, query)
    logits, gradients = scorer.with_gradient(reference, INDEX)
    assert torch.equal(scorer(reference, INDEX), scorer(reference.flip(0), INDEX.flip(0)).flip(0))

    chosen = N_POINTS + torch.randperm(N_POINTS)[:n_points]
    alone = over_cells(field, volume[1:], torch.zeros_like(chosen), query[chosen])
    some_logits, some_gradients = alone.with_gradient(reference[chosen], torch.arange(len(chosen)))
    assert torch.equal(some_logits, logits[chosen])
    assert torch.equal(some_gradients, gradients[chosen])


def test_no_points_have_no_logits(field: Field, volume: torch.Tensor):
    scorer = over_cells(field, volume, PAIR[:0], QUERY[0, :0])
    assert scorer(REFERENCE[0, :0], INDEX[:0]).shape == (0,)
    assert scorer.with_gradient(REFERENCE[0, :0], INDEX[:0])[1].shape == (0, 2)


def test_what_is_no_index_has_no_score_and_reads_nothing(field: Field, volume: torch.Tensor):
    scorer = over_cells(field, volume, PAIR[:2], torch.tensor([[0.1, 0.2], [0.1, torch.nan]], dtype=torch.float64))
    reference = torch.tensor([[0.3, 0.4], [torch.inf, 0.4], [0.3, 0.4]], dtype=torch.float64)
    assert scorer(reference, torch.tensor([0, 0, 1])).isnan().tolist() == [False, True, True]


def test_second_derivatives_are_refused(field: Field, volume: torch.Tensor):
    scorer = over_cells(field, volume, PAIR[:1], QUERY[0, :1])
    reference = REFERENCE[0, :1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(scorer(reference, INDEX[:1]).sum(), reference, create_graph=True)
    with pytest.raises(RuntimeError, match="does not require grad"):
        torch.autograd.grad(gradient.sum(), reference)


def test_places_of_query_points_among_those_of_all(field: Field):
    """The logits are those that each point has at its places by itself, and depend on nothing beside them."""
    features, query = random(3 * 5, 4, 4, seed=6), random(4, 2, seed=7)
    scorer = QueryScorer(field, CostTable.of_points(features, (3, 5)), query)
    places_xy = random(TILE["cpu"] + 100, 2, seed=8)
    places = torch.stack([torch.randperm(len(places_xy), generator=torch.Generator().manual_seed(k)) for k in range(3)])
    for n_places in (len(places_xy), 70):
        some = places[:, :n_places]
        logits = scorer.at_places(places_xy, some)
        index = torch.arange(3).repeat_interleave(n_places)
        assert torch.allclose(logits.flatten(), scorer(places_xy[some.flatten()], index))
        assert torch.equal(scorer.at_places(places_xy, some[:1])[0], logits[0])
    assert scorer.at_places(places_xy, places[:0]).shape == (0, len(places_xy))
