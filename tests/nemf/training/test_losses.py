import math

import pytest
import torch
from official_nemf import SMALL, official_shapes, official_state_dict
from torch import nn

from nemf.checkpoints import from_official_state_dict
from nemf.training.batch import Batch
from nemf.training.config import LOSS_NAMES, LossConfig
from nemf.training.descriptor_loss import descriptor_loss
from nemf.training.losses import TrainingLoss, field_loss, flow_loss
from nemf.training.rng import generator_of

PAIR = torch.tensor([0, 0, 2])
REFERENCE = torch.tensor([[-0.5, 0.25], [0.5, 0.0], [1.0, -1.0]])
QUERY = torch.tensor([[-0.4, 0.35], [0.6, 0.1], [0.9, -0.9]])
SURE = torch.ones(3)
VOLUMES = torch.arange(3.0).view(3, 1, 1, 1, 1, 1)


class Known(nn.Module):
    """A field that gives `true` at true matches and `other` elsewhere, and records its arguments."""

    def __init__(self, true: float, other: float) -> None:
        super().__init__()
        self.true, self.other = true, other
        self.calls: list[tuple[int, torch.Tensor, torch.Tensor]] = []

    def forward(self, cost_features, reference_xy_norm, query_xy_norm, *, positional_gradient):
        self.calls.append((int(cost_features), reference_xy_norm[0], query_xy_norm[0]))
        queries = torch.cat([reference_xy_norm, query_xy_norm], dim=-1)[0]
        is_true = (queries[:, None] == torch.cat([REFERENCE, QUERY], dim=1)).all(-1).any(-1)
        return torch.where(is_true, self.true, self.other)[None]


def loss_of(field: nn.Module, **options) -> float:
    return float(field_loss(field, VOLUMES, PAIR, REFERENCE, QUERY, SURE, generator_of("test"), LossConfig(**options)))


def test_the_loss_of_a_constant_field_and_of_a_perfect_one():
    assert loss_of(Known(0.7, 0.7)) == pytest.approx(math.log(100), rel=1e-6)
    assert loss_of(Known(30.0, -30.0)) < 1e-6


def test_the_field_loss_by_hand():
    """One true candidate with logit 1 among three with logit -2."""
    softmax = -math.log(math.e / (math.e + 3 * math.exp(-2)))
    assert loss_of(Known(1.0, -2.0), negatives=3) == pytest.approx(softmax, rel=1e-5)


def test_a_match_that_may_be_wrong_by_hand():
    """The true candidate of one match has the logit 1, those of the others 3, all wrong ones -2. That match is right
    with probability 1/4."""

    class Differing(Known):
        def forward(self, cost_features, reference_xy_norm, query_xy_norm, *, positional_gradient):
            logits = super().forward(cost_features, reference_xy_norm, query_xy_norm, positional_gradient=False)
            is_other = (reference_xy_norm != REFERENCE[1]).any(-1) | (query_xy_norm != QUERY[1]).any(-1)
            return torch.where((logits > 0) & is_other, 3.0, logits)

    doubted, sure = (math.exp(logit) / (math.exp(logit) + 3 * math.exp(-2)) for logit in (1, 3))
    expected = (-2 * math.log(sure) - 0.25 * math.log(0.25 * doubted + 0.75 / 4)) / 2.25
    probability = torch.tensor([1.0, 0.25, 1.0])
    config = LossConfig(negatives=3)
    field = Differing(1.0, -2.0)
    loss = field_loss(field, VOLUMES, PAIR, REFERENCE, QUERY, probability, generator_of("test"), config)
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_the_candidates_that_the_field_scores(monkeypatch: pytest.MonkeyPatch):
    """Each pair its own points; first the reference is fixed, then the query; hard ones are within the radius."""
    field = Known(0.0, 0.0)
    monkeypatch.setattr("nemf.training.losses.HARD_RADIUS_NORM", (0.2, 0.3))
    loss_of(field, negatives=8, hard=0.25)
    assert [number for number, _, _ in field.calls] == [0, 2]
    for (_, reference, query), points in zip(field.calls, ([0, 1], [2]), strict=True):
        for k, (references, queries) in enumerate(
            zip(reference.view(-1, 2, 9, 2), query.view(-1, 2, 9, 2), strict=True)
        ):
            true = (REFERENCE[points[k]], QUERY[points[k]])
            fixed, free = (references[0], queries[1]), (references[1], queries[0])
            for side in (0, 1):
                assert (fixed[side] == true[side]).all()
                assert (free[side][0] == true[side]).all()
                anywhere, near = free[side][1:7], free[side][7:]
                assert (anywhere.abs() <= 1).all()
                assert len(anywhere.unique(dim=0)) == 6
                distance = (near - true[side]).norm(dim=-1)
                assert ((distance > 0.1999) & (distance < 0.3001)).all()


def test_uniform_negatives_fill_the_image():
    field = Known(0.0, 0.0)
    loss_of(field, negatives=1000, hard=0.0)
    query = torch.cat([call[2].view(-1, 2, 1001, 2)[:, 0, 1:] for call in field.calls]).flatten(0, 1)
    quadrants = (query > 0).long() @ torch.tensor([1, 2])
    assert ((quadrants.bincount() / 3000 - 0.25).abs() < 0.03).all()
    assert query.abs().amax() > 0.99


def test_the_flow_loss_by_hand():
    """On 5 cells at -1, -0.5, 0, 0.5, 1: cell (2, 1) for (0.1, -0.4), cell (4, 4) for (1, 1)."""
    coarse_flow = torch.full((2, 2, 5, 5), torch.nan)
    coarse_flow[1, :, 1, 2] = torch.tensor([0.2, -0.3])
    coarse_flow[0, :, 4, 4] = torch.tensor([0.5, 1.0])
    pair = torch.tensor([1, 0])
    query = torch.tensor([[0.1, -0.4], [1.0, 1.0]])
    exact = torch.tensor([[0.3, -0.2], [0.5, 1.0]])  # the cell's displacement, (0.2, 0.2) and (-0.5, 0), at the point
    assert flow_loss(coarse_flow, pair, exact, query, torch.ones(2)).item() == pytest.approx(0, abs=1e-6)
    off = exact + torch.tensor([[0.3, -0.4], [0.0, 1.0]])  # 0.5 and 1 away, which is 1 and 2 cells
    assert flow_loss(coarse_flow, pair, off, query, torch.ones(2)).item() == pytest.approx(1.5, abs=1e-6)
    weighted = flow_loss(coarse_flow, pair, off, query, torch.tensor([1.0, 0.5]))
    assert weighted.item() == pytest.approx((1 + 0.5 * 2) / 1.5, abs=1e-6)


@pytest.fixture
def network() -> TrainingLoss:
    model = from_official_state_dict(official_state_dict(official_shapes(**SMALL), seed=2), 2)
    return TrainingLoss(model, LossConfig(field_weight=2.0, flow_weight=0.5, negatives=9))


@pytest.fixture
def batch() -> Batch:
    images = torch.randn(2, 3, 3, 64, 64, generator=generator_of("images"))
    return Batch(
        reference=images[0],
        query=images[1],
        pair=PAIR,
        reference_xy_norm=REFERENCE,
        query_xy_norm=QUERY,
        keypoint=torch.tensor([0, 1, 0]),
        probability=SURE,
    )


def test_both_losses_reach_what_is_trained_and_nothing_else(network: TrainingLoss, batch: Batch):
    losses = network(batch, generator_of("negatives"), 0.0)
    assert losses["total"].item() == pytest.approx(2 * losses["field"].item() + 0.5 * losses["flow"].item())

    def reached(loss: str) -> set[str]:
        network.zero_grad()
        losses[loss].backward(retain_graph=True)
        parameters = network.model.named_parameters()
        return {name.split(".")[0] for name, p in parameters if p.grad is not None and p.grad.abs().max() > 0}

    assert reached("field") == {"cost_encoder", "field"}
    assert reached("flow") == {"cost_encoder"}
    assert reached("total") == {"cost_encoder", "field"}


@pytest.mark.parametrize("weights", [(1.0, 0.0, 0.0), (0.0, 2.0, 0.0), (0.0, 0.0, 3.0), (1.0, 2.0, 3.0)])
def test_a_loss_of_no_weight_is_not_computed(
    network: TrainingLoss, batch: Batch, weights: tuple[float, float, float], monkeypatch: pytest.MonkeyPatch
):
    if not any(weights[:2]):
        monkeypatch.delattr(type(network.model.cost_encoder), "correlate")  # of no use to descriptors
    names = ("field_weight", "flow_weight", "descriptor_weight")
    config = LossConfig(**dict(zip(names, weights, strict=True)), negatives=9)
    losses = TrainingLoss(network.model, config)(batch, generator_of("negatives"), 0.0)

    by_name = {name: weight for name, weight in zip(LOSS_NAMES, weights, strict=True) if weight}
    assert set(losses) == {*by_name, "total"}
    weighted = sum(weight * losses[name].item() for name, weight in by_name.items())
    assert losses["total"].item() == pytest.approx(weighted, rel=1e-5)


def test_the_descriptor_loss_is_the_mean_over_maps_and_looks_across_pairs(network: TrainingLoss, batch: Batch):
    """Points 0 and 2 are one keypoint, in the pairs 0 and 2: in images 0 and 2 of the references, 3 and 5 of all."""
    config = LossConfig(field_weight=0.0, flow_weight=0.0, descriptor_weight=1.0)
    loss = TrainingLoss(network.model, config)(batch, generator_of("negatives"), 0.0)["descriptor"]

    images = torch.cat([batch.reference, batch.query])
    image, keypoint = torch.tensor([0, 0, 2, 3, 3, 5]), torch.tensor([0, 1, 0, 0, 1, 0])
    xy_norm = torch.cat([REFERENCE, QUERY])
    by_map = [
        descriptor_loss(level, image, xy_norm, keypoint, torch.ones(len(keypoint))).item()
        for level in network.model.features(images)
    ]
    assert len(by_map) == 4
    assert loss.item() == pytest.approx(sum(by_map) / 4, rel=1e-4)


def test_the_losses_are_finite_in_mixed_precision(network: TrainingLoss, batch: Batch):
    exact = network(batch, generator_of("negatives"), 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = network(batch, generator_of("negatives"), 0.0)
    mixed["total"].backward()
    for name, loss in exact.items():
        assert mixed[name].dtype == torch.float32
        assert mixed[name].item() == pytest.approx(loss.item(), rel=0.1)
