from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import TINY
from torch import nn
from wrong_in_bfloat16 import put_wrong_convolution

from nemf.model.backbone import Backbone, build_backbone
from nemf.model.build import build
from nemf.model.network import NeMF
from nemf.model.presets import NeMFConfig
from nemf.training.config import DistillerConfig
from nemf.training.distil import Distiller
from nemf.training.rng import generator_of

CPU = torch.device("cpu")
CONFIG = DistillerConfig(steps=6, lr=1e-2, warmup_steps=2)
OTHER_LIGHT = replace(TINY.backbone_config, mean=(0.2, 0.2, 0.2), std=(0.5, 0.5, 0.5))


def teacher(config: NeMFConfig = TINY) -> NeMF:
    torch.manual_seed(0)
    return build(config)


def student(seed: int) -> Backbone:
    torch.manual_seed(seed)
    return build_backbone(TINY.backbone, OTHER_LIGHT)


def images(step: int) -> torch.Tensor:
    """Smooth random colours."""
    coarse = torch.rand(4, 3, 6, 6, generator=generator_of("images", step))
    return nn.functional.interpolate(coarse, (64, 64), mode="bilinear")


@pytest.mark.parametrize(("neck_channels", "n_maps"), [(0, 2), (16, 3)])
def test_the_distance_is_0_to_a_copy_and_2_to_4_to_what_is_turned_round(neck_channels: int, n_maps: int):
    """The mean over the backbone's two maps and the neck's one, for a student whose maps have the opposite sign."""
    network = teacher(replace(TINY, neck_channels=neck_channels, feature_size=8, embedding_channels=(), depth=0))
    copy = student(0)
    copy.load_state_dict(network.backbone.state_dict())
    copy.mean.copy_(network.backbone.mean)
    copy.std.copy_(network.backbone.std)
    network.backbone.network.train()  # as the student: batch normalisation by the batch
    distiller = Distiller(copy, network, replace(CONFIG, lr=0.0), CPU)
    network.backbone.network.train()
    assert distiller.step(images(0))["distance"] == pytest.approx(0, abs=1e-3)

    copy.register_forward_hook(lambda _module, _image, maps: [-level for level in maps])
    distance = distiller.step(images(0))["distance"]
    assert 4 * 2 / n_maps <= distance <= 4


def test_a_student_learns_what_its_teacher_gives():
    """It sees images normalised in its own way; the teacher stays as it is."""
    network = teacher()
    kept = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    config = DistillerConfig(steps=60, lr=5e-3, warmup_steps=5)
    distiller = Distiller(student(1), network, config, CPU)

    metrics = [distiller.step(images(step)) for step in range(60)]

    assert metrics[-1]["distance"] < 0.5 * metrics[0]["distance"]
    assert [metrics[0]["lr"], metrics[5]["lr"]] == pytest.approx([1e-3, 5e-3])
    assert all(torch.equal(tensor, kept[name]) for name, tensor in network.state_dict().items())


def test_what_was_learnt_is_there_in_eval_mode_before_the_teachers_neck():
    """Batch normalisation has learnt its statistics: without them the maps would be others."""
    network = teacher()
    distiller = Distiller(student(1), network, DistillerConfig(steps=100, lr=5e-3, warmup_steps=0), CPU)
    for _ in range(100):
        distiller.step(images(0))

    distilled = distiller.distilled()
    with torch.no_grad():
        network_in = (images(0) - distilled.backbone.mean) / distilled.backbone.std
        trained = distilled.features(network_in)
        distilled.backbone.network.eval()
        kept = distilled.features(network_in)
        expected = network.features((images(0) - network.backbone.mean) / network.backbone.std)

    for one, other in ((trained, kept), (kept, expected)):
        assert nn.functional.cosine_similarity(one[0], other[0]).mean() > 0.95


def test_a_restarted_distiller_goes_on_exactly(tmp_path: Path):
    def distiller(seed: int) -> Distiller:
        return Distiller(student(seed), teacher(), CONFIG, CPU)

    straight = distiller(1)
    expected = [straight.step(images(step)) for step in range(6)]

    killed = distiller(1)
    losses = [killed.step(images(step)) for step in range(3)]
    torch.save(killed.state_dict(), tmp_path / "state.pt")
    restarted = distiller(2)
    restarted.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert restarted.step_number == 3
    losses += [restarted.step(images(step)) for step in range(3, 6)]

    assert losses == expected
    tensors = straight.student.state_dict()
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in restarted.student.state_dict().items())


def test_maps_of_other_shapes_are_refused():
    coarse = build_backbone(TINY.backbone, replace(TINY.backbone_config, out_indices=(3,)))
    message = r"like its teacher's, \[\(128, 8, 8\), \(256, 4, 4\)\] .* it gives \[\(256, 4, 4\)\]"
    with pytest.raises(ValueError, match=message):
        Distiller(coarse, teacher(), CONFIG, CPU)


def test_backbones_that_the_processor_computes_wrongly_are_refused_in_bfloat16():
    for part in ("student", "teacher"):
        learner, network = student(1), teacher()
        put_wrong_convolution(learner.network if part == "student" else network.backbone.network)
        with pytest.raises(ValueError, match="computes 1 of its convolutions wrongly in bfloat16"):
            Distiller(learner, network, replace(CONFIG, bfloat16=True), CPU)


def test_a_gradient_that_is_not_finite_changes_nothing():
    distiller = Distiller(student(1), teacher(), CONFIG, CPU)
    before = [parameter.clone() for parameter in distiller.student.parameters()]
    with pytest.raises(FloatingPointError, match="step 0: the gradient is not finite; loss nan"):
        distiller.step(torch.full((2, 3, 64, 64), torch.nan))
    assert all(map(torch.equal, distiller.student.parameters(), before))
    assert distiller.step_number == 0
