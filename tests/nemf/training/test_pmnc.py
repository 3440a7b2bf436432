import math

import pytest
import torch
import torch.nn.functional as F
from tiny_pmnc import TINY_PMNC

from nemf.pmnc.network import PMNC, build
from nemf.pmnc.scorer import LocalScorer
from nemf.training.batch import Batch, ImageFormat, collate
from nemf.training.config import LossConfig, TrainerConfig
from nemf.training.example import Example
from nemf.training.loop import Trainer
from nemf.training.pmnc import initialize_at_consensus, parameter_groups, proxy_loss
from nemf.training.rng import generator_of
from nemf.training.warps import WarpConfig, warped_pair

CENTRES = torch.tensor([[-1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
"""Points on the first cell, the last one, and the first of the last row."""
PAIR, SURE = torch.tensor([0, 1, 1]), torch.ones(3)


def tiny() -> PMNC:
    torch.manual_seed(0)
    model = build(TINY_PMNC)
    initialize_at_consensus(model)
    return model


def planted(number: int) -> Example:
    """A picture of smooth random colours and its warped copy."""
    coarse = torch.rand(1, 3, 7, 9, generator=generator_of("picture", number))
    picture = F.interpolate(coarse, (90, 120), mode="bicubic", align_corners=True).clamp(0, 1)
    rgb = (picture[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
    return warped_pair(rgb, 24, generator_of("warp", number), WarpConfig())


@pytest.fixture(scope="module")
def batch() -> Batch:
    images = ImageFormat.from_model(tiny())
    return collate([planted(0), planted(1)], images)


def middle_scorer(gain: float) -> LocalScorer:
    """The logit is the gain times the correlation of the patch's middle."""
    scorer = LocalScorer((3,), (1,))
    scorer.layers[0].weight.data.zero_()
    scorer.layers[0].weight.data[0, 0, 1, 1, 1, 1] = gain
    return scorer


def test_the_loss_of_known_logits():
    volumes = torch.zeros(2, 3, 3, 3, 3)
    assert proxy_loss(middle_scorer(1), volumes, CENTRES, CENTRES, PAIR, SURE).item() == pytest.approx(math.log(9))
    volumes[0, 0, 0, 0, 0] = 1
    found = proxy_loss(middle_scorer(2), volumes, CENTRES, CENTRES, PAIR, SURE)
    expected = (math.log(math.e**2 + 8) - 2 + 2 * math.log(9)) / 3
    assert found.item() == pytest.approx(expected)


def test_points_between_cells_share_them():
    """Half way between two query cells the logits are the mean of both, between two answers the truth is."""
    volumes = torch.zeros(1, 1, 3, 1, 3)
    volumes[0, 0, 0, 0, 1] = 2
    between = torch.tensor([[-0.5, 0.0]])
    found = proxy_loss(middle_scorer(1), volumes, between, between, PAIR[:1], SURE[:1])
    assert found.item() == pytest.approx(math.log(math.e + 2) - 0.5)


def test_a_match_that_is_not_sure_counts_less():
    volumes = torch.zeros(2, 3, 3, 3, 3)
    volumes[0, 0, 0] = -5
    volumes[0, 0, 0, 2, 2] = 5
    sure = proxy_loss(middle_scorer(1), volumes, CENTRES, CENTRES, PAIR, SURE)
    unsure = proxy_loss(middle_scorer(1), volumes, CENTRES, CENTRES, PAIR, torch.tensor([0.1, 1, 1]))
    assert sure > 4
    assert unsure < 3


@pytest.mark.parametrize(("kernels", "channels"), [((5, 1), (3, 1)), ((3, 3), (3, 1)), ((5,), (1,))])
def test_before_training_cells_that_move_together_agree(kernels, channels):
    torch.manual_seed(0)
    model = PMNC(tiny().backbone, LocalScorer(kernels, channels), image_size=64, feature_size=8)
    initialize_at_consensus(model)
    identity = torch.eye(64).view(8, 8, 8, 8)
    with torch.no_grad():
        scores = model.scorer(identity).flatten(2).flatten(0, 1)
    inner = [row * 8 + column for row in range(2, 6) for column in range(2, 6)]
    assert torch.equal(scores.argmax(dim=1), torch.arange(64))
    torch.testing.assert_close(scores[inner, inner], torch.full((16,), 20.0), rtol=0.2, atol=0)


def test_a_few_steps_lower_the_loss_and_change_scorer_and_backbone(batch: Batch):
    config = TrainerConfig(steps=12, lr=1e-3, backbone_lr=1e-4, ema_decay=0.0)
    model = tiny()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    trainer = Trainer(model, config, torch.device("cpu"))
    losses = [trainer.step(batch)["score"] for _ in range(12)]
    assert losses[-1] < losses[0] - 0.1
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert {name for name in changed if name.startswith("scorer.")} == {
        f"scorer.{n}" for n in model.scorer.state_dict()
    }
    assert any(name.startswith("backbone.") for name in changed)
    assert not any("running" in name or "stem" in name for name in changed)


def test_without_a_rate_the_backbone_is_frozen():
    model = tiny()
    groups = parameter_groups(model, 1e-3, None, LossConfig())
    assert [group["lr"] for group in groups] == [1e-3]
    assert not any(parameter.requires_grad for parameter in model.backbone.parameters())
    with pytest.raises(ValueError, match="PMNC has one loss, without settings"):
        parameter_groups(model, 1e-3, None, LossConfig(descriptor_weight=1.0))
