"""Training of LPMFlow: its beginning and its losses, with known answers."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from nemf.lpmflow.build import build
from nemf.lpmflow.network import LPMFlow
from nemf.lpmflow.presets import small
from nemf.training.batch import ImageFormat, collate
from nemf.training.config import LossConfig, TrainerConfig
from nemf.training.example import Example, View
from nemf.training.loop import Trainer
from nemf.training.lpmflow import (
    contrast_loss,
    flow_error,
    initialize_at_features,
    match_loss,
    parameter_groups,
    replace_tokens,
    token_loss,
)

CPU = torch.device("cpu")
TINY = replace(
    small(),
    backbone="timm/resnet10t",
    backbone_config=replace(small().backbone_config, create_kwargs={}),
    cells=4,
    dim=64,
    depth=1,
    heads=2,
    context_channels=8,
    windows=(8,),
)


def _tiny() -> LPMFlow:
    torch.manual_seed(0)
    model = build(TINY)
    initialize_at_features(model)
    return model


@torch.no_grad()
def test_training_begins_at_the_neighbour_in_feature_space():
    """The target's tokens are the source's, one column farther right: 8 cells of the flow."""
    source = torch.randn(1, 17, 64, generator=torch.Generator().manual_seed(1))
    target = source.clone()
    target[:, 1:] = source[:, 1:].view(1, 4, 4, 64).roll(1, dims=2).view(1, 16, 64)
    encoded = _tiny().encode_tokens(source, target)
    flow = encoded.flows[0].view(2, 4, 8, 4, 8)[
        :, :, 4, :3, 4
    ]  # near the middle of coarse cells, not of the last column
    assert (flow[0] - 8).abs().max() < 4
    assert flow[1].abs().max() < 4
    assert torch.equal(encoded.flow, encoded.flows[3])


def _points() -> dict[str, Tensor]:
    """Two matches of the second of two pairs: a displacement of (3, 4) cells of 32 in images of 128 pixels."""
    query = torch.tensor([[40.0, 40.0], [90.0, 30.0]])
    to_norm = 2 / 127
    return {
        "pair": torch.tensor([1, 1]),
        "query_xy_norm": query * to_norm - 1,
        "reference_xy_norm": (query + 4 * torch.tensor([[3.0, 4.0], [0.0, 0.0]])) * to_norm - 1,
        "probability": torch.ones(2),
    }


def test_flow_error_is_the_mean_distance_in_cells():
    flow = torch.zeros(2, 2, 32, 32)
    points = _points()
    torch.testing.assert_close(flow_error(flow, **points, seen_hw=(128, 128)), torch.tensor(2.5))
    points["probability"] = torch.tensor([1.0, 0.25])
    torch.testing.assert_close(flow_error(flow, **points, seen_hw=(128, 128)), torch.tensor(4.0))
    flow[1] = torch.tensor([3.0, 4.0]).view(2, 1, 1)
    points["probability"] = torch.tensor([1.0, 1e-6])
    torch.testing.assert_close(flow_error(flow, **points, seen_hw=(128, 128)), torch.tensor(0.0), atol=1e-4, rtol=0)


def test_flow_error_asks_the_cells_round_the_point():
    flow = torch.zeros(2, 2, 32, 32, requires_grad=True)
    flow_error(flow, **_points(), seen_hw=(128, 128)).backward()
    assert flow.grad is not None
    asked = flow.grad.abs().sum(dim=1) > 0
    assert not asked[0].any()
    rows, columns = asked[1].nonzero().unbind(1)  # the second match has no error, and no gradient at its minimum
    assert (int(rows.min()), int(rows.max()), int(columns.min()), int(columns.max())) == (6, 14, 6, 14)
    assert flow.grad[1].norm(dim=0).argmax() == 32 * 10 + 10


def test_match_loss_is_the_cross_entropy_of_the_cells_round_the_match():
    """Fine to coarse: images of 128 pixels in 8 x 8 source cells and 4 x 4 target cells."""
    points = _points()
    constant = torch.full((2, 64, 16), 0.3)
    torch.testing.assert_close(match_loss(constant, **points, seen_hw=(128, 128)), torch.tensor(math.log(16)))
    # the centre of source cell (2, 4) and that of target cell (1, 3)
    points["query_xy_norm"] = 2 * torch.tensor([[71.5, 39.5]]) / 127 - 1
    points["reference_xy_norm"] = 2 * torch.tensor([[111.5, 47.5]]) / 127 - 1
    points |= {"pair": torch.tensor([1]), "probability": torch.ones(1)}
    correlation = torch.zeros(2, 64, 16)
    correlation[1, 8 * 2 + 4, 4 * 1 + 3] = 0.1 * math.log(15)
    torch.testing.assert_close(match_loss(correlation, **points, seen_hw=(128, 128)), torch.tensor(math.log(2)))
    points["probability"] = torch.tensor([0.5])
    expected = -math.log(0.5 * 0.5 + 0.5 / 16)
    torch.testing.assert_close(match_loss(correlation, **points, seen_hw=(128, 128)), torch.tensor(expected))


def test_contrast_of_equal_tokens():
    cells = torch.arange(16)[None]
    torch.testing.assert_close(contrast_loss(torch.ones(1, 65, 8), cells), torch.tensor(math.log(16)))


def test_contrast_is_small_where_neighbours_alone_are_alike():
    encoded = torch.zeros(1, 65, 4)
    for row in range(8):
        for column in range(8):
            encoded[0, 1 + 8 * row + column, 2 * (row // 4) + column // 4] = 1
    corners = torch.tensor([[9, 14, 49, 54]])  # one of each quarter
    assert contrast_loss(encoded, corners) < 0.01


def test_replaced_tokens():
    generator = torch.Generator().manual_seed(0)
    source, target = torch.randn(2, 257, 8, generator=generator), torch.randn(2, 257, 8, generator=generator)
    replaced, cells = replace_tokens(source, target, generator)
    assert cells.shape == (2, 16)
    for pair in range(2):
        assert len(cells[pair].unique()) == 16
        torch.testing.assert_close(replaced[pair, 1 + cells[pair]], (source[pair, 0] + target[pair, 0]).expand(16, 8))
        direction = [image[pair, 0] / image[pair, 0].norm() for image in (source, target)]
        likeness = torch.nn.functional.normalize(source[pair, 1:], dim=1) @ (direction[0] + direction[1])
        assert set(cells[pair].tolist()) <= set(likeness.topk(64).indices.tolist())
    assert int((replaced != source).any(dim=2).sum()) == 32


def test_parameters():
    model = _tiny()
    (head,) = parameter_groups(model, 1e-3, None, LossConfig())
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert not any(name.startswith("backbone.backbone.") for name in trained)
    assert "backbone.proj.weight" in trained
    assert len(head["params"]) == len(trained)
    _, backbone = parameter_groups(model, 1e-3, 1e-5, LossConfig())
    assert backbone["lr"] == 1e-5
    assert model.get_parameter("backbone.backbone.network.layer3.0.conv1.weight").requires_grad
    assert not model.get_parameter("backbone.backbone.network.layer3.0.bn1.weight").requires_grad
    with pytest.raises(ValueError, match="flow_weight or descriptor_weight must be"):
        parameter_groups(model, 1e-3, None, LossConfig(flow_weight=0))


def test_descriptors_alone_train_the_backbone_and_its_projection():
    model = _tiny()
    descriptors = LossConfig(field_weight=0, flow_weight=0, descriptor_weight=1)
    head, _ = parameter_groups(model, 1e-3, 1e-5, descriptors)
    assert {id(parameter) for parameter in head["params"]} == {id(p) for p in model.backbone.proj.parameters()}
    assert not any(parameter.requires_grad for parameter in model.fine_decoder.parameters())
    config = replace(small(), backbone="lpmflow/vit", cells=4, dim=64, heads=2, context_channels=8, windows=(8,))
    kwargs = {"depth": 1, "heads": 2, "position_cells": 4}
    vit = build(replace(config, backbone_config=replace(config.backbone_config, create_kwargs=kwargs)))
    with pytest.raises(ValueError, match="would train nothing"):
        parameter_groups(vit, 1e-3, None, descriptors)


def test_token_loss_of_tokens_that_match_and_of_equal_ones():
    """Cell (row 2, column 1) of 4 x 4 in images of 128 pixels: its centre is (47.5, 79.5)."""
    batch = replace(
        collate([_example()], ImageFormat.from_model(_tiny())),
        pair=torch.tensor([0]),
        keypoint=torch.tensor([0]),
        query_xy_norm=2 * torch.tensor([[47.5, 79.5]]) / 127 - 1,
        reference_xy_norm=2 * torch.tensor([[111.5, 15.5]]) / 127 - 1,
        probability=torch.ones(1),
    )
    equal = torch.ones(1, 17, 8)
    torch.testing.assert_close(token_loss(equal, equal, batch, (128, 128)), torch.tensor(math.log(16)))
    source, target = torch.eye(34)[None].chunk(2, dim=1)
    source = source.clone()
    source[0, 1 + 4 * 2 + 1] = target[0, 1 + 3]  # row 0, column 3
    assert token_loss(source, target, batch, (128, 128)) < 1e-6
    source[0, 1 + 4 * 2 + 1] = target[0, 1 + 2]
    assert token_loss(source, target, batch, (128, 128)) > 10


def _example() -> Example:
    rgb = np.random.Generator(np.random.PCG64(0)).integers(0, 256, (64, 64, 3), np.uint8)
    points = np.array([[10, 12], [40, 30], [50, 50], [20, 44]], np.float32)
    moved = np.roll(rgb, 8, axis=1)
    return Example(reference=View(rgb=moved, xy_px=points + np.float32([8, 0])), query=View(rgb=rgb, xy_px=points))


def test_steps_are_repeatable():
    losses = []
    for _ in range(2):
        trainer = Trainer(_tiny(), TrainerConfig(steps=12, lr=3e-3, loss=LossConfig(contrast_weight=0.1)), CPU)
        batch = collate([_example()], ImageFormat.from_model(trainer.model))
        state = torch.random.get_rng_state()
        losses.append([trainer.step(batch) for _ in range(12)])
        assert torch.equal(torch.random.get_rng_state(), state)
        torch.manual_seed(99)  # dropout must not depend on it
    assert losses[0] == losses[1]
    assert losses[0][0].keys() == {"match", "flow", "contrast", "total", "gradient_norm", "lr"}


def test_without_dropout_the_loss_falls(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("nemf.lpmflow.encoder.DROPOUT", 0.0)
    monkeypatch.setattr("nemf.lpmflow.flow._CONTEXT_DROPOUT", 0.0)
    trainer = Trainer(_tiny(), TrainerConfig(steps=12, lr=3e-4, loss=LossConfig(contrast_weight=0.1)), CPU)
    batch = collate([_example()], ImageFormat.from_model(trainer.model))
    losses = [trainer.step(batch)["match"] for _ in range(12)]
    assert losses[-1] < 0.9 * losses[0]
