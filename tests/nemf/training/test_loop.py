import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from wrong_in_bfloat16 import put_wrong_convolution

from nemf.matcher import ImagePair
from nemf.matchers.nemf import NemfMatcher
from nemf.model.backbone_config import BackboneConfig
from nemf.model.build import build
from nemf.model.network import NeMF
from nemf.model.presets import NeMFConfig
from nemf.search.config import SearchConfig
from nemf.training.batch import Batch, ImageFormat, collate
from nemf.training.config import DistillerConfig, LossConfig, TrainerConfig
from nemf.training.example import Example
from nemf.training.initialization import initialize_at_correlation
from nemf.training.loop import Trainer, rate_share
from nemf.training.rng import generator_of
from nemf.training.warps import WarpConfig, warped_pair

CPU = torch.device("cpu")
TINY = NeMFConfig(
    backbone="torchvision/resnet18",
    backbone_config=BackboneConfig(out_indices=(1, 2, 3, 4), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25)),
    image_size=64,
    feature_size=4,
    embedding_channels=(2, 4),
    projection_dim=16,
    depth=1,
    heads=2,
    mlp_ratio=2,
    hidden=32,
    field_blocks=2,
)
CONFIG = TrainerConfig(
    steps=6, lr=1e-3, warmup_steps=2, final_lr_share=0.1, ema_decay=0.5, loss=LossConfig(negatives=9)
)


def tiny() -> NeMF:
    torch.manual_seed(0)
    return build(TINY)


def planted(number: int, n_points: int = 24) -> Example:
    """A picture of smooth random colours and its warped copy."""
    coarse = torch.rand(1, 3, 7, 9, generator=generator_of("picture", number))
    picture = nn.functional.interpolate(coarse, (90, 120), mode="bicubic", align_corners=True).clamp(0, 1)
    rgb = (picture[0].permute(1, 2, 0) * 255).to(torch.uint8).numpy()
    return warped_pair(rgb, n_points, generator_of("warp", number), WarpConfig())


@pytest.fixture(scope="module")
def batches() -> list[Batch]:
    images = ImageFormat(image_size=TINY.image_size, mean=TINY.backbone_config.mean, std=TINY.backbone_config.std)
    return [collate([planted(2 * step), planted(2 * step + 1)], images) for step in range(6)]


def test_a_restarted_run_goes_on_exactly(batches: list[Batch], tmp_path: Path):
    straight = Trainer(tiny(), CONFIG, CPU)
    expected = [straight.step(batch) for batch in batches]

    killed = Trainer(tiny(), CONFIG, CPU)
    losses = [killed.step(batch) for batch in batches[:3]]
    torch.save(killed.state_dict(), tmp_path / "state.pt")
    del killed
    torch.manual_seed(123)
    restarted = Trainer(build(TINY), CONFIG, CPU)
    restarted.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert restarted.step_number == 3
    losses += [restarted.step(batch) for batch in batches[3:]]

    assert losses == expected
    for one, other in ((restarted.model, straight.model), (restarted.averaged, straight.averaged)):
        tensors = other.state_dict()
        assert all(torch.equal(tensor, tensors[name]) for name, tensor in one.state_dict().items())


def test_workers_draw_negatives_of_their_own(batches: list[Batch]):
    first, second = (Trainer(tiny(), CONFIG, CPU, rank=rank).step(batches[0]) for rank in (0, 1))
    assert first["flow"] == second["flow"]
    assert first["field"] != second["field"]


def test_the_average_follows_the_weights(batches: list[Batch]):
    trainer = Trainer(tiny(), CONFIG, CPU)
    weights = []
    for batch in batches[:3]:
        trainer.step(batch)
        weights.append(trainer.model.field.fc_p.weight.detach().clone())
    expected = weights[0] / 4 + weights[1] / 4 + weights[2] / 2
    assert torch.allclose(trainer.averaged.field.fc_p.weight, expected, atol=1e-7)
    assert torch.equal(trainer.averaged.backbone.network.conv1.weight, trainer.model.backbone.network.conv1.weight)


def test_the_rate_by_hand():
    config = TrainerConfig(steps=10, warmup_steps=2, final_lr_share=0.2)
    shares = [rate_share(step, config) for step in (0, 1, 2, 6, 10, 11)]
    assert shares == pytest.approx([0.5, 1, 1, 0.6, 0.2, 0.2])
    assert {rate_share(step, TrainerConfig(steps=10)) for step in range(12)} == {1}
    shares = [rate_share(step, DistillerConfig(steps=10, warmup_steps=2)) for step in (0, 2, 6, 10)]
    assert shares == pytest.approx([0.5, 1, 0.5, 0])


def test_long_gradients_are_shortened(batches: list[Batch], monkeypatch: pytest.MonkeyPatch):
    """AdamW forgets lengths; seen through its first moments, a tenth of the first gradient."""
    monkeypatch.setattr("nemf.training.loop.CLIP_NORM", 1e-3)
    trainer = Trainer(tiny(), TrainerConfig(steps=6, loss=CONFIG.loss), CPU)
    assert trainer.step(batches[0])["gradient_norm"] > 1e-2
    moments = trainer.state_dict()["optimiser"]["state"].values()
    length = torch.cat([state["exp_avg"].flatten() for state in moments]).norm().item()
    assert length == pytest.approx(1e-4, rel=1e-2)


def test_a_frozen_backbone_stays_and_a_trained_one_keeps_its_normalisation(batches: list[Batch]):
    def changed(backbone_lr: float | None) -> set[str]:
        trainer = Trainer(tiny(), TrainerConfig(steps=6, lr=1e-3, backbone_lr=backbone_lr, loss=CONFIG.loss), CPU)
        before = {name: tensor.clone() for name, tensor in trainer.model.backbone.state_dict().items()}
        trainer.step(batches[0])
        after = trainer.model.backbone.state_dict()
        return {name for name, tensor in before.items() if not torch.equal(after[name], tensor)}

    assert changed(None) == set()
    trained = changed(1e-4)
    convolutions = {name for name in tiny().backbone.state_dict() if "conv" in name or "downsample.0" in name}
    assert trained == convolutions - {"network.conv1.weight"}  # its map is larger than any that is correlated


def test_the_losses_can_be_wrapped(batches: list[Batch], tmp_path: Path):
    """DistributedDataParallel with one process gives the same result as training without it."""
    torch.distributed.init_process_group("gloo", f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        wrapped = Trainer(tiny(), CONFIG, CPU, wrap=nn.parallel.DistributedDataParallel)
        plain = Trainer(tiny(), CONFIG, CPU)
        assert [wrapped.step(batch) for batch in batches[:2]] == [plain.step(batch) for batch in batches[:2]]
        assert wrapped.state_dict()["model"].keys() == plain.state_dict()["model"].keys()
    finally:
        torch.distributed.destroy_process_group()


def test_mixed_precision_changes_digits_and_keeps_weights_whole(batches: list[Batch]):
    exact, mixed = (Trainer(tiny(), replace(CONFIG, bfloat16=bfloat16), CPU) for bfloat16 in (False, True))
    expected, metrics = exact.step(batches[0]), mixed.step(batches[0])
    assert metrics != expected
    for name in ("field", "flow"):
        assert metrics[name] == pytest.approx(expected[name], rel=0.1)
    assert {parameter.dtype for parameter in mixed.model.parameters()} == {torch.float32}


def test_a_backbone_that_the_processor_computes_wrongly_is_trained_in_float32_alone():
    model = tiny()
    name = put_wrong_convolution(model.backbone.network)
    Trainer(model, CONFIG, CPU)
    with pytest.raises(ValueError, match=rf"resnet18: this processor computes 1 of its .* in bfloat16, {name} for one"):
        Trainer(model, replace(CONFIG, bfloat16=True), CPU)


def test_a_gradient_that_is_not_finite_changes_nothing(batches: list[Batch]):
    trainer = Trainer(tiny(), CONFIG, CPU)
    with torch.no_grad():
        trainer.model.field.fc_out.bias.fill_(torch.nan)
    before = trainer.model.field.fc_p.weight.detach().clone()
    with pytest.raises(FloatingPointError, match=r"step 0: the gradient is not finite; losses \{'field': nan"):
        trainer.step(batches[0])
    assert torch.equal(trainer.model.field.fc_p.weight, before)


def test_a_bad_configuration_is_refused():
    with pytest.raises(ValueError, match="got 5 steps, 5 to warm up"):
        Trainer(tiny(), TrainerConfig(steps=5, warmup_steps=5), CPU)


def pck(model: NeMF, examples: list[Example]) -> float:
    """Percentage of points matched within a tenth of the reference's longer side, with the real search."""
    matcher = NemfMatcher("tiny", model, CPU, SearchConfig(patchmatch_steps=3, refine_steps=0))
    hits = []
    for example in examples:
        query, reference = example.query, example.reference
        pair = ImagePair(query_rgb=query.rgb, reference_rgb=reference.rgb, query_xy_px=query.xy_px)
        predicted_xy_px = next(matcher.match_batch([pair])).reference_xy_px
        hits.append(np.linalg.norm(predicted_xy_px - reference.xy_px, axis=1) <= 0.1 * max(reference.hw))
    return 100 * float(np.concatenate(hits).mean())


def test_two_planted_pairs_are_learnt():
    """The field's loss starts near log 20 = 3.0, and the coarse flow alone finds half of the points."""
    examples = [planted(0, n_points=8), planted(1, n_points=8)]
    model = tiny()
    initialize_at_correlation(model)
    assert pck(copy.deepcopy(model), examples) < 70
    config = TrainerConfig(
        steps=60, lr=2e-3, warmup_steps=5, final_lr_share=0.05, ema_decay=0.8, loss=LossConfig(negatives=19)
    )
    trainer = Trainer(model, config, CPU)
    batch = collate(examples, ImageFormat.from_model(model))
    losses = [trainer.step(batch) for _ in range(config.steps)]
    assert losses[0]["field"] > 2.7
    assert losses[0]["flow"] > 0.3
    assert losses[-1]["field"] < 0.7
    assert losses[-1]["flow"] < 0.2
    assert pck(trainer.averaged, examples) > 90
