"""Losses of labels that may be wrong."""

import math

import pytest
import torch

from nemf.training.label_noise import noisy_loss, weighted_mean


def test_sure_labels_have_the_mean_of_the_cross_entropy():
    log_likelihood = torch.tensor([-0.1, -2.0, -30.0], requires_grad=True)
    loss = noisy_loss(log_likelihood, torch.ones(3), n_candidates=4)
    assert loss.item() == pytest.approx((0.1 + 2 + 30) / 3)
    (gradient,) = torch.autograd.grad(loss, log_likelihood)
    assert gradient.tolist() == pytest.approx([-1 / 3] * 3)


def test_a_doubtful_label_that_the_network_contradicts_hardly_pulls():
    log_likelihood = torch.tensor([math.log(0.9), math.log(1e-6)], requires_grad=True)
    loss = noisy_loss(log_likelihood, torch.tensor([0.8, 0.8]), n_candidates=5)
    expected = [-math.log(0.8 * q + 0.2 / 5) for q in (0.9, 1e-6)]
    assert loss.item() == pytest.approx(sum(expected) / 2, rel=1e-5)
    agreed, contradicted = torch.autograd.grad(loss, log_likelihood)[0].tolist()
    assert agreed == pytest.approx(-0.5 * 0.72 / 0.76, rel=1e-4)
    assert abs(contradicted) < 2e-5


def test_the_weighted_mean():
    assert weighted_mean(torch.tensor([1.0, 4.0]), torch.tensor([1.0, 0.5])).item() == pytest.approx(2)
