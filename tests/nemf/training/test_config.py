import pytest

from nemf.training.config import DistillerConfig, LossConfig, TrainerConfig


def test_defaults_are_in_range():
    TrainerConfig().check()
    DistillerConfig().check()


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (LossConfig(negatives=0), r"negatives must be at least 1 and hard from 0 to 1; got 0 and 0\.5"),
        (LossConfig(hard=1.5), r"negatives must be at least 1 and hard from 0 to 1; got 99 and 1\.5"),
        (LossConfig(field_weight=0.0, flow_weight=0.0), r"must be at least 0 and not all 0; got 0\.0, 0\.0, 0\.0"),
        (
            LossConfig(flow_weight=-1.0, descriptor_weight=0.5),
            r"must be at least 0 and not all 0; got 1\.0, -1\.0, 0\.5",
        ),
    ],
)
def test_losses_out_of_range(loss: LossConfig, message: str):
    with pytest.raises(ValueError, match=message):
        loss.check()
    with pytest.raises(ValueError, match=message):
        TrainerConfig(loss=loss).check()


def test_steps_and_averaging_out_of_range():
    for config in (TrainerConfig(steps=5, warmup_steps=5), DistillerConfig(steps=5, warmup_steps=5)):
        with pytest.raises(ValueError, match="got 5 steps, 5 to warm up"):
            config.check()
    with pytest.raises(ValueError, match=r"ema_decay must be from 0 to below 1; got 1\.0"):
        TrainerConfig(ema_decay=1.0).check()
