from pathlib import Path

import pytest
import torch
from torch import nn

from nemf.model.backbone import Backbone
from nemf.model.weights_file import BackboneConfig
from nemf.training.distil import Distiller
from nemf.training.draws import generator_of
from nemf.training.loop import TrainerConfig

CPU = torch.device("cpu")
CONFIG = TrainerConfig(steps=6, lr=1e-2, warmup_steps=2, final_lr_share=0.0)


class Pyramid(nn.Module):
    """Convolutions that halve the size each; gives their maps."""

    def __init__(self, *channels: int, norm: bool = True) -> None:
        super().__init__()
        steps = zip((3, *channels[:-1]), channels, strict=True)
        self.steps = nn.ModuleList(
            nn.Sequential(nn.Conv2d(*step, 3, 2, 1), nn.BatchNorm2d(step[1]) if norm else nn.Identity(), nn.LeakyReLU())
            for step in steps
        )

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        maps = [image]
        for step in self.steps:
            maps.append(step(maps[-1]))
        return maps[1:]


def pyramid(seed: int, *channels: int, norm: bool = True, mean: float = 0.5) -> Backbone:
    torch.manual_seed(seed)
    config = BackboneConfig(mean=(mean, mean, mean), std=(0.25, 0.25, 0.25))
    return Backbone("pyramid", Pyramid(*channels, norm=norm), config)


def images(step: int) -> torch.Tensor:
    """Smooth random colours."""
    coarse = torch.rand(4, 3, 6, 6, generator=generator_of("images", step))
    return nn.functional.interpolate(coarse, (32, 32), mode="bilinear")


def test_a_perfect_copy_has_no_distance_and_its_opposite_four():
    teacher = pyramid(0, 4, 8, norm=False)
    for sign, distance in ((1, 0), (-1, 4)):
        distiller = Distiller(pyramid(0, 4, 8, norm=False), teacher, CONFIG, CPU)
        for adapter in distiller.adapters:
            nn.init.dirac_(adapter.weight)
            adapter.weight.data *= sign
            nn.init.zeros_(adapter.bias)
        assert distiller.step(images(0))["distance"] == pytest.approx(distance, abs=1e-3)


def test_a_student_learns_what_its_teacher_gives():
    """It sees images normalised in its own way, and only those of the teacher's maps that have its sizes."""
    student, teacher = pyramid(1, 8, 16, mean=0.2), pyramid(0, 8, 16, 32)
    kept = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    config = TrainerConfig(steps=100, lr=2e-2, warmup_steps=5, final_lr_share=0.0)
    distiller = Distiller(student, teacher, config, CPU)

    told = [distiller.step(images(step)) for step in range(100)]

    assert told[0]["distance"] > 1
    assert told[-1]["distance"] < 0.2
    assert [told[0]["lr"], told[5]["lr"]] == pytest.approx([4e-3, 2e-2])
    assert all(torch.equal(tensor, kept[name]) for name, tensor in teacher.state_dict().items())
    assert student.network.steps[0][1].num_batches_tracked == 100


def test_what_was_learnt_is_there_in_eval_mode():
    """Batch normalisation has learnt its statistics: without them the maps would be others."""
    student = pyramid(1, 8, 16)
    distiller = Distiller(student, pyramid(0, 8, 16), TrainerConfig(steps=100, lr=1e-2), CPU)
    for _ in range(100):
        distiller.step(images(0))

    with torch.no_grad():
        network_in = (images(0) - student.mean) / student.std
        trained = student(network_in)
        student.network.eval()
        kept = student(network_in)

    for one, other in zip(trained, kept, strict=True):
        assert torch.allclose(one, other, atol=0.1 * one.abs().max().item())


def test_a_restarted_distiller_goes_on_exactly(tmp_path: Path):
    def distiller(seed: int) -> Distiller:
        return Distiller(pyramid(seed, 4, 8), pyramid(0, 4, 8), CONFIG, CPU)

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
    wanted = straight.student.state_dict()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in restarted.student.state_dict().items())


def test_maps_of_other_sizes_are_refused():
    said = "of 64 x 64 pixels it gives 32, 16 cells a side, the student 32, 16, 8"
    with pytest.raises(ValueError, match=f"the teacher must give maps of the sizes of the student's; {said}"):
        Distiller(pyramid(0, 4, 8, 8), pyramid(0, 4, 8), CONFIG, CPU)


def test_a_gradient_that_is_not_finite_changes_nothing():
    distiller = Distiller(pyramid(1, 4), pyramid(0, 4), CONFIG, CPU)
    before = distiller.adapters[0].weight.detach().clone()
    with pytest.raises(FloatingPointError, match="step 0: the gradient is not finite; loss nan"):
        distiller.step(torch.full((2, 3, 32, 32), torch.nan))
    assert torch.equal(distiller.adapters[0].weight, before)
    assert distiller.step_number == 0
