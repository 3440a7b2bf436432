import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import TINY
from torch import Tensor

from nemf.model.build import build
from nemf.model.descriptor_decoder import DescriptorDecoder
from nemf.training.batch import ImageFormat, collate
from nemf.training.config import LossConfig, TrainerConfig
from nemf.training.example import Example, View
from nemf.training.implicit_loss import gaussian, implicit_descriptor_loss
from nemf.training.loop import Trainer

HW = (3, 4)


def test_a_gaussian_by_hand():
    values = gaussian(torch.tensor([[1.0, 2.0]]), HW, sigma=1.5)
    weights = [math.exp(-((x - 1) ** 2 + (y - 2) ** 2) / (2 * 1.5**2)) for y in range(3) for x in range(4)]
    assert values[0].tolist() == pytest.approx([weight / sum(weights) for weight in weights])


def one_by_one(
    decoder: DescriptorDecoder, features: torch.Tensor, image: list[int], xy_norm: torch.Tensor, keypoint: list[int]
) -> torch.Tensor:
    """The loss of images of 32 px match by match, with sigma 2, half way from 3 to 1."""
    losses = []
    for a in range(len(image)):
        for b in range(len(image)):
            if keypoint[a] == keypoint[b] and image[a] != image[b]:
                xy_px = (xy_norm[[a, b]] + 1) / 2 * 31
                cells, dense = ((xy_px + 0.5) * torch.tensor([4.0, 3.0]) * r / 32 - 0.5 for r in (1, 4))
                query = F.normalize(decoder(features, torch.tensor([image[a]]), cells[:1])[0], dim=0)
                grid = F.normalize(decoder.grid(features[image[b]][None])[0], dim=0)
                log_share = (torch.einsum("c,chw->hw", query, grid).flatten() / 0.05).log_softmax(dim=0)
                y, x = torch.meshgrid(torch.arange(12), torch.arange(16), indexing="ij")
                weight = torch.exp(-((x - dense[1, 0]) ** 2 + (y - dense[1, 1]) ** 2) / 8).flatten()
                losses.append(-(log_share * weight / weight.sum()).sum())
    return torch.stack(losses).mean()


def test_the_loss_is_the_mean_over_all_matches_one_by_one():
    torch.manual_seed(0)
    decoder = DescriptorDecoder(5, 6)
    torch.nn.init.normal_(decoder.output.weight)
    features = torch.randn(3, 5, *HW, requires_grad=True)
    image, keypoint = [0, 0, 1, 1, 2], [0, 1, 0, 1, 0]
    xy_norm = torch.rand(5, 2) * 2 - 1
    loss = implicit_descriptor_loss(
        decoder, features, 32, torch.tensor(image), xy_norm, torch.tensor(keypoint), torch.ones(5), progress=0.5
    )
    expected = one_by_one(decoder, features, image, xy_norm, keypoint)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    gradients = [torch.autograd.grad(value, features, retain_graph=True)[0] for value in (loss, expected)]
    assert torch.allclose(*gradients, atol=1e-4)


def test_nothing_known_costs_the_logarithm_of_the_number_of_cells():
    """Features that are alike everywhere, whatever the truth is."""
    decoder = DescriptorDecoder(5, 6)
    points = (torch.tensor([0, 1]), torch.zeros(2, 2), torch.tensor([0, 0]), torch.ones(2))
    loss = implicit_descriptor_loss(decoder, torch.ones(2, 5, *HW), 32, *points, progress=0.0)
    assert loss.item() == pytest.approx(math.log(16 * 3 * 4), rel=1e-4)


def test_a_decoder_learns_from_the_descriptor_loss_whose_truth_narrows(monkeypatch: pytest.MonkeyPatch):
    torch.manual_seed(0)
    model = build(replace(TINY, decoder_channels=8))
    rgb = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    points = np.array([[10.0, 20], [40, 50], [30, 12]], np.float32)
    views = [View(rgb=image, xy_px=points) for image in (rgb, rgb[:, ::-1].copy())]
    batch = collate([Example(reference=views[0], query=views[1])], ImageFormat.from_model(model))
    loss = LossConfig(field_weight=0, flow_weight=0, descriptor_weight=1)
    trainer = Trainer(model, TrainerConfig(steps=8, lr=3e-3, loss=loss), torch.device("cpu"))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    progress: list[float] = []

    def recorded(*arguments: Any) -> Tensor:
        progress.append(arguments[-1])
        return implicit_descriptor_loss(*arguments)

    monkeypatch.setattr("nemf.training.losses.implicit_descriptor_loss", recorded)
    losses = [trainer.step(batch)["descriptor"] for _ in range(8)]
    assert progress == [step / 7 for step in range(8)]
    assert losses[-1] < losses[0]
    changed = {
        name.split(".")[0] for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])
    }
    assert changed == {"neck", "decoder"}
