"""The benchmark of PMNC runs, and refuses to compare unequal scores; the measured values are not asserted."""

import pytest
import torch

from benchmarks import pmnc

TINY = pmnc.Config(cells=(6,), kernels=(3, 1), channels=(2, 1), repeats=0)


@pytest.fixture(autouse=True)
def _one_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pmnc, "PAIRS", {"unrelated": pmnc.PAIRS["unrelated"]})


def test_a_small_network(capsys: pytest.CaptureFixture[str]):
    (row,) = pmnc.run(TINY)
    assert row["cells"] == 6
    assert 0 < row["scored"] <= 6**4
    assert row["score difference"] < 1e-5
    assert 0.5 < row["best found"] <= 1
    assert "| 6 x 6 | unrelated |" in capsys.readouterr().out


def test_other_scores_are_not_compared(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        pmnc,
        "whole",
        lambda model, query, reference: (torch.ones(36), torch.rand(36, 36, generator=torch.manual_seed(0))),
    )
    with pytest.raises(RuntimeError, match=r"scores differ by .* of the greatest"):
        pmnc.run(TINY)
