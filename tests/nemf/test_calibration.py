"""Confidence as a probability: the rising line, its fit, and the measures of how good it is."""

import json
from typing import Any

import numpy as np
import pytest

from nemf.calibration import (
    Calibration,
    auroc,
    calibration_error,
    coverage_at_precision,
    fit,
    from_json,
    log_loss,
)


def test_the_confidence_lies_on_the_line_through_the_knots():
    line = Calibration(temperature=2.0, mass=(0.2, 0.6, 1.0), probability=(0.1, 0.3, 0.9))
    assert line.confidence(np.array([0, 0.2, 0.4, 0.8, 1])) == pytest.approx([0.1, 0.1, 0.2, 0.6, 0.9])
    assert Calibration().confidence(np.array([0, 0.3, 1])).tolist() == [0, 0.3, 1]


def test_json_brings_it_back():
    line = Calibration(temperature=1.4, mass=(0, 0.5, 1), probability=(0.01, 0.2, 0.99))
    assert from_json(json.loads(json.dumps(line.to_json()))) == line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0}, r"field confidence\.temperature must be a number above 0 and at most 1e6; got 0"),
        ({"temperature": True}, r"temperature must be a number"),
        ({"mass": [0, 0.5, 0.5]}, r"mass must be a list of 2 to 64 rising numbers from 0 to 1; got \(0, 0\.5, 0\.5\)"),
        ({"mass": [0, 1.5]}, "mass must be"),
        ({"mass": [0.5]}, "mass must be"),
        ({"mass": "much"}, "mass must be"),
        ({"probability": [0, 0.5]}, "probability must be a list of 3 numbers"),
        ({"probability": [0, 0.6, 0.5]}, "probability must be .* none smaller than the one before"),
        ({"probability": [0, float("nan"), 1]}, "probability must be"),
        ({"colour": 1}, "must have the fields temperature, mass, probability; got .*colour"),
    ],
)
def test_what_a_file_may_not_say(change: dict[str, Any], message: str):
    content = {"temperature": 1.0, "mass": [0, 0.5, 1], "probability": [0, 0.4, 1]}
    with pytest.raises(ValueError, match=message):
        from_json(content | change)
    with pytest.raises(ValueError, match="confidence must be a JSON object; got 3"):
        from_json(3)


def test_the_fit_recovers_planted_probabilities():
    rng = np.random.default_rng(0)
    mass = rng.uniform(0, 1, 100_000)
    line = fit({1.0: mass}, rng.uniform(size=len(mass)) < mass**2)
    places = np.array([0.1, 0.3, 0.5, 0.7, 0.9])
    assert line.confidence(places) == pytest.approx(places**2, abs=0.03)
    assert (line.mass[0], line.mass[-1]) == (0, 1)
    assert np.all(np.diff(line.probability) > 0)


def test_the_fit_takes_the_temperature_that_tells_most():
    rng = np.random.default_rng(1)
    mass = rng.uniform(0, 1, 5_000)
    correct = rng.uniform(size=len(mass)) < mass
    assert (
        fit({0.5: rng.permutation(mass), 1.4: mass, 2.0: np.sqrt(mass) * rng.uniform(size=5_000)}, correct).temperature
        == 1.4
    )


def test_a_mass_that_falls_with_correctness_makes_a_flat_line():
    mass = np.linspace(0, 1, 80)
    line = fit({1.0: mass}, mass < 0.5)
    assert line.confidence(np.array([0.1, 0.9])) == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize(
    ("mass", "correct", "message"),
    [
        (np.linspace(0, 1, 20), np.ones(20, bool), "some right and some wrong; got 20, 20 of them right"),
        (np.linspace(0, 1, 4), np.arange(4) > 1, "at least 8 answers"),
        (np.full(20, 0.5), np.arange(20) > 9, "every answer has the same mass"),
    ],
)
def test_what_cannot_be_fitted(mass: np.ndarray, correct: np.ndarray, message: str):
    with pytest.raises(ValueError, match=message):
        fit({1.0: mass}, correct)


def test_the_measures_of_small_cases():
    confidence, correct = np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True])
    assert auroc(confidence, correct) == pytest.approx((1 + 1 + 1 + 0.5) / 4)
    assert np.isnan(auroc(confidence, np.ones(4, bool)))
    assert calibration_error(confidence, correct, n_bins=2) == pytest.approx((abs(0.25 - 0.5) + abs(0.65 - 0.5)) / 2)
    assert log_loss(np.array([0.5, 0.5]), correct[:2]) == pytest.approx(np.log(2))
    assert np.isfinite(log_loss(np.array([0.0, 1.0]), np.array([True, False])))


def test_coverage_is_what_can_be_kept():
    correct = np.array([True] * 9 + [False] + [True] * 5 + [False] * 5)
    confidence = np.linspace(1, 0, 20)
    assert coverage_at_precision(confidence, correct, at_least=5) == 15 / 20
    assert coverage_at_precision(confidence, correct, at_least=16) == 0
    assert coverage_at_precision(-confidence, correct, at_least=1) == 0
