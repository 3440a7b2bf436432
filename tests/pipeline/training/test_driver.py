"""The driver of a training run, in addition to the checks with Ray in tests/jobs/test_train_job.py."""

import io

import pytest
from tqdm import tqdm

from pipeline.training.driver import _require, _update


def test_a_cluster_must_have_enough_for_all_workers():
    _require({"CPU": 6.0, "GPU": 3.0}, 3, {"CPU": 2.0, "GPU": 1.0})
    with pytest.raises(ValueError, match="3 workers need 6 CPUs, the Ray cluster has 5: ask for fewer --workers"):
        _require({"CPU": 5.0}, 3, {"CPU": 2.0})
    with pytest.raises(ValueError, match="2 workers need 2 GPUs, the Ray cluster has 0"):
        _require({"CPU": 8.0}, 2, {"CPU": 1.0, "GPU": 1.0})


def test_the_bar_starts_at_the_first_step_and_shows_losses_and_validations(capsys: pytest.CaptureFixture[str]):
    with tqdm(total=100, file=io.StringIO()) as progress:
        _update(progress, {"step": 40})
        assert (progress.initial, progress.n) == (40, 40)

        _update(progress, {"step": 50, "field": 1.23456, "flow": 2.0, "total": 3.0, "lr": 0.1})
        assert (progress.initial, progress.n) == (40, 50)
        assert progress.postfix == "field=1.235, flow=2.000"

        _update(progress, {"step": 50, "pck@0.1": 45.678, "n_pairs": 9})
    assert "step 50: pck@0.1 45.68 on the validation pairs" in capsys.readouterr().err
