import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nemf.calibration import auroc
from pipeline.evaluation.bootstrap import BootstrapWeights
from pipeline.pseudo_labels.calibration import PROBABILITY_STEPS, from_json, read_calibration
from pipeline.pseudo_labels.calibration_quality import precision_at, quality
from pipeline.pseudo_labels.fit_calibration import cross_fitted_probability, fit_calibration

NAMES = {"matcher": "m", "matcher_fingerprint": "f", "protocol": "spair", "alpha": 0.1, "made_on": {}, "quality": {}}


def planted(n_points: int, seed: int) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Signals, which points are right, and the probability that each was so with: 0.05 to 0.95 by two signals."""
    rng = np.random.default_rng(seed)
    confidence, cycle = rng.random(n_points), rng.exponential(size=n_points)
    probability = 0.05 + 0.45 * confidence**2 + 0.45 * np.exp(-cycle)
    values = {"confidence": confidence, "cycle": np.where(rng.random(n_points) < 0.1, np.nan, cycle)}
    return values, rng.random(n_points) < probability, probability


def quality_of(probability: np.ndarray, correct: np.ndarray, pair: np.ndarray | None = None) -> dict[str, Any]:
    """The quality of points of these pairs (default: each of its own), each of one image of its own."""
    pair = np.arange(len(correct)) if pair is None else pair
    images = np.arange(pair.max() + 1, dtype=np.uint64)
    weights = BootstrapWeights(source=images, target=images, seed=0, n_replicates=200)
    return quality(probability, correct, pair, weights)


def test_probabilities_are_those_that_were_planted():
    values, correct, _ = planted(20_000, 0)
    calibration = fit_calibration(values, correct, **NAMES)

    others, right, probability = planted(20_000, 1)
    found = calibration.probability_steps(others) / PROBABILITY_STEPS

    known = ~np.isnan(others["cycle"])
    assert np.abs(found - probability)[known].mean() < 0.03
    selected = {s["asked"]: s for s in quality_of(found, right)["selected"]}
    for asked in (0.7, 0.8):
        assert selected[asked]["real"] == pytest.approx(asked, abs=0.03)
        assert asked <= selected[asked]["expected"] < asked + 0.005


def test_a_file_gives_the_same_probabilities(tmp_path: Path):
    values, correct, _ = planted(1000, 0)
    calibration = fit_calibration(values, correct, **NAMES)
    (tmp_path / "c.json").write_text(calibration.as_json())

    read = read_calibration(str(tmp_path / "c.json"))

    assert read == calibration
    np.testing.assert_array_equal(read.probability_steps(values), calibration.probability_steps(values))


def test_no_image_judges_itself():
    """A signal that tells the image, with all its points right or all wrong; and one that does not."""
    rng = np.random.default_rng(0)
    image = np.arange(400, dtype=np.uint64)
    is_right = rng.random(400) < 0.5
    counts = np.full(400, 10)
    values = {"confidence": np.repeat(is_right + rng.random(400) * 0.9, counts)}
    noise = {"confidence": np.repeat(rng.random(400), counts)}
    correct = np.repeat(is_right, counts)

    told = cross_fitted_probability(values, correct, image, image, counts)
    untold = cross_fitted_probability(noise, correct, image, image, counts)

    assert auroc(told, correct) > 0.95
    assert auroc(untold, correct) < 0.6


def test_a_pair_without_a_model_that_has_not_seen_its_images_has_no_probability():
    values, correct, _ = planted(1000, 0)
    one = np.zeros(100, np.uint64)

    assert np.isnan(cross_fitted_probability(values, correct, one, one, np.full(100, 10))).all()


@pytest.mark.parametrize("correct", [np.ones(1000, bool), np.arange(1000) < 10, np.arange(100) % 2 == 0])
def test_too_little_to_learn_from_is_refused(correct: np.ndarray):
    with pytest.raises(ValueError, match="a calibration needs at least 200 points, 20 of them right and as many wrong"):
        fit_calibration({"confidence": np.linspace(0, 1, len(correct))}, correct, **NAMES)


def test_quality_of_hand_made_probabilities():
    probability, correct = np.array([0.9, 0.9, 0.6, 0.2]), np.array([True, False, True, False])

    numbers = quality_of(probability, correct)

    assert numbers["brier"] == pytest.approx((0.01 + 0.81 + 0.16 + 0.04) / 4)
    # right .9 against wrong .9: half; .9 > .2; .6 < .9; .6 > .2
    assert numbers["auroc"] == pytest.approx(2.5 / 4)
    assert precision_at(probability, correct, 0.5) == pytest.approx(0.5)
    assert precision_at(probability, correct, 0.75) == pytest.approx(2 / 3)
    selected = {s["asked"]: s for s in numbers["selected"]}
    assert selected[0.8] == {
        "asked": 0.8,
        "coverage": 0.75,
        "expected": pytest.approx(0.8),
        "real": pytest.approx(2 / 3),
        "interval": [0, 1],
    }
    assert selected[0.95]["real"] is None


def test_intervals_draw_images():
    """Of 400 points, half right, the share's standard error is .025 with an image each, and .25 with four images."""
    probability, correct = np.full(400, 0.8), np.arange(400) % 2 == 0
    of_four = np.where(correct, 0, 1) + 2 * (np.arange(400) // 2 % 2)

    def interval(pair: np.ndarray | None) -> list[float]:
        return {s["asked"]: s for s in quality_of(probability, correct, pair)["selected"]}[0.8]["interval"]

    assert interval(None) == pytest.approx([0.45, 0.55], abs=0.02)
    assert interval(np.zeros(400, np.int64)) == [0.5, 0.5]
    assert interval(of_four) == [0, 1]


def damaged(**changes: Any) -> str:
    values, correct, _ = planted(1000, 0)
    content = json.loads(fit_calibration(values, correct, **NAMES).as_json())
    return json.dumps(content | changes)


SHARE = {"values": [0, 1], "ranks": [0, 1], "weights": [0] * 5, "missing": 0}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[" * 100_000, "recursion"),
        ("[]", "the file must be an object"),
        ("{}", "expected format 'nemf calibration'"),
        (damaged(version=2), "expected version 1, got 2"),
        (damaged(version="1"), "expected version 1"),
        (damaged(signals={}), "no signal"),
        (damaged(signals={"os.system": SHARE}), "signals are confidence"),
        (damaged(signals={"cycle": SHARE | {"weights": [1]}}), "expected 5 weights"),
        (damaged(signals={"cycle": SHARE | {"values": [1, 1]}}), "must rise"),
        (damaged(signals={"cycle": SHARE | {"ranks": [0, 2]}}), "must not fall and be in 0..1"),
        (damaged(signals={"cycle": SHARE | {"missing": True}}), "missing must be a finite number"),
        (damaged(signals={"cycle": SHARE | {"ranks": [0, 0.5, 1]}}), "equally many"),
        (damaged(signals={"cycle": SHARE | {"values": [], "ranks": []}}), "at least one"),
        (damaged(signals={"cycle": SHARE | {"values": [0] * 2000}}), "at most 1000 numbers"),
        (damaged(signals={"cycle": SHARE | {"ranks": [0.5, 0.4]}}), "must not fall"),
        (damaged(intercept=float("nan")), "intercept must be a finite number"),
        (damaged(intercept=10**400), "intercept must be a finite number"),
        (damaged(matcher=None), "matcher must be text"),
        (damaged(alpha=0), "alpha must be above 0"),
        (damaged(made_on=[]), "made_on must be an object"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_it(tmp_path: Path, content: str, message: str):
    (tmp_path / "c.json").write_text(content)

    with pytest.raises(ValueError, match=message) as caught:
        read_calibration(str(tmp_path / "c.json"))
    assert str(tmp_path / "c.json") in str(caught.value)


def test_a_file_that_is_too_large_is_not_parsed(tmp_path: Path):
    (tmp_path / "c.json").write_text(" " * (2**20 + 1))

    with pytest.raises(ValueError, match="has 1,048,577 bytes"):
        read_calibration(str(tmp_path / "c.json"))


def test_any_values_give_a_probability():
    calibration = from_json(damaged())
    values = {
        "confidence": np.array([np.nan, -1e30, np.inf, 0.5]),
        "cycle": np.array([np.nan, np.inf, -np.inf, 1e-300]),
    }

    steps = calibration.probability_steps(values)

    assert ((steps >= 0) & (steps <= PROBABILITY_STEPS)).all()
