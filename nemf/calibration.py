"""Confidence as a probability: what it is made of, how that is fitted, how good it is. Imports no torch.

A matcher scores every place of the reference image for a query point. The **mass** of its answer is the softmax of
these scores over a temperature, summed over the places within RADIUS of the image's longer side round the answer: 0..1,
and near 1 where there is nothing else that the point could be. nemf.matchers.confidence computes it.

The **confidence** is the probability that the answer is correct at ALPHA: within 0.1 T of the true place, T being the
longest side of the object's box in the reference image (protocol `spair`). It is a rising line through a few knots of
(mass, probability), fitted together with the temperature to pairs with known keypoints: what was true of those pairs.
On images of another kind it still ranks answers, and may be too high or too low on the whole.
"""

import itertools
import reprlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

ALPHA = 0.1
"""An answer is correct within this share of T."""
RADIUS = 0.06
"""The mass is that of places so near the answer, in longer sides of the reference image."""
TEMPERATURES = (0.02, 0.03, 0.04, 0.05, 0.07, 0.1, 0.2, 0.5, 0.7, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0)
"""The temperatures to choose from: the small ones are for cosines, the others for logits."""

_BINS = 8
_MAX_KNOTS = 64
_DECIMALS = 4
_LEAST, _MOST = 0.001, 0.999
_FIELDS = ("temperature", "mass", "probability")


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """A temperature and a rising line; without any, temperature 1 and the mass itself.

    Raises ValueError naming the field that cannot be.
    """

    temperature: float = 1.0
    mass: tuple[float, ...] = (0.0, 1.0)
    """The knots' masses."""
    probability: tuple[float, ...] = (0.0, 1.0)
    """The knots' probabilities; beyond the outermost knots theirs."""

    def __post_init__(self) -> None:
        _check(self.temperature, self.mass, self.probability)

    def confidence(self, mass: Float[np.ndarray, "*n"]) -> Float[np.ndarray, "*n"]:
        """The probability of answers of this mass to be correct, in float64."""
        return np.interp(mass, self.mass, self.probability)

    def to_json(self) -> dict[str, Any]:
        """The `confidence` object of a checkpoint's config.json, which from_json reads back."""
        return asdict(self)


def from_json(content: Any) -> Calibration:
    """The calibration that the `confidence` object of a checkpoint's config.json holds.

    Raises ValueError for anything but an object, missing or unknown fields and values that cannot be.
    """
    if not isinstance(content, dict):
        raise ValueError(f"confidence must be a JSON object; got {reprlib.repr(content)}")
    if content.keys() != set(_FIELDS):
        raise ValueError(f"confidence must have the fields {', '.join(_FIELDS)}; got {', '.join(content) or 'none'}")
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in content.items()}
    try:
        _check(**values)
    except ValueError as error:
        raise ValueError(f"field confidence.{error}") from error
    return Calibration(**values)


def _check(temperature: Any, mass: Any, probability: Any) -> None:
    """Raises ValueError naming the first of the fields of a Calibration that cannot be."""
    if not (_is_number(temperature) and 0 < temperature <= 1e6):
        raise ValueError(f"temperature must be a number above 0 and at most 1e6; got {reprlib.repr(temperature)}")
    if not (_are_shares(mass) and 2 <= len(mass) <= _MAX_KNOTS and all(a < b for a, b in itertools.pairwise(mass))):
        raise ValueError(
            f"mass must be a list of 2 to {_MAX_KNOTS} rising numbers from 0 to 1; got {reprlib.repr(mass)}"
        )
    fits = _are_shares(probability) and len(probability) == len(mass)
    if not (fits and all(a <= b for a, b in itertools.pairwise(probability))):
        raise ValueError(
            f"probability must be a list of {len(mass)} numbers from 0 to 1, none smaller than the one before; "
            f"got {reprlib.repr(probability)}"
        )


def fit(masses: Mapping[float, Float[np.ndarray, " n"]], correct: Bool[np.ndarray, " n"]) -> Calibration:
    """The temperature and the line that make the observed answers most probable.

    masses: the mass of each answer by temperature.
    correct: whether each answer is correct at ALPHA.
    Of every temperature a line is made through the mean mass and the share of correct answers of 8 bins of equally many
    answers; bins that do not rise are joined (isotonic regression). The temperature with the least log loss is taken.
    Raises ValueError where all answers are right or all wrong, or fewer than 8, or all of one mass.
    """
    if len(correct) < _BINS or correct.all() or not correct.any():
        raise ValueError(
            f"a confidence is fitted to at least {_BINS} answers, some right and some wrong; got {len(correct)}, "
            f"{int(correct.sum())} of them right"
        )
    fitted = [_fit_line(temperature, mass, correct) for temperature, mass in masses.items() if mass.min() < mass.max()]
    if not fitted:
        raise ValueError("every answer has the same mass at every temperature, so it tells nothing about what is right")
    return min(fitted, key=lambda one: log_loss(one.confidence(masses[one.temperature]), correct))


def _fit_line(temperature: float, mass: np.ndarray, correct: np.ndarray) -> Calibration:
    from scipy.optimize import isotonic_regression  # here, since every matcher imports this module and few fit

    order = np.argsort(mass, kind="stable")
    bins = np.array_split(order, _BINS)
    share = isotonic_regression([correct[of_bin].mean() for of_bin in bins], weights=[len(b) for b in bins]).x
    # bins of one share, and those of one mass, become one knot
    knots: list[tuple[float, float]] = []
    for probability in np.unique(share):
        joined = np.concatenate([of_bin for of_bin, s in zip(bins, share, strict=True) if s == probability])
        at = round(float(mass[joined].mean()), _DECIMALS)
        if knots and at <= knots[-1][0]:
            continue
        knots.append((at, round(float(probability), _DECIMALS)))
    x, y = (list(values) for values in zip(*_with_ends(knots), strict=True))
    return Calibration(temperature=temperature, mass=tuple(x), probability=tuple(y))


def _with_ends(knots: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """The knots, and the outer segments' ends at mass 0 and mass 1, within 0..1."""
    if len(knots) == 1:
        return [(0.0, knots[0][1]), (1.0, knots[0][1])]
    (x0, y0), (x1, y1) = knots[:2]
    low = max(_LEAST, y0 - x0 * (y1 - y0) / (x1 - x0))
    (x0, y0), (x1, y1) = knots[-2:]
    high = min(_MOST, y1 + (1 - x1) * (y1 - y0) / (x1 - x0))
    inner = [(x, y) for x, y in knots if 0 < x < 1]
    return [(0.0, round(min(low, inner[0][1]), _DECIMALS)), *inner, (1.0, round(max(high, inner[-1][1]), _DECIMALS))]


def log_loss(confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> float:
    """The mean of -log of the probability given to what came true; 0 is perfect, 0.693 is a coin."""
    probability = np.clip(confidence, _LEAST, _MOST)
    return float(-np.log(np.where(correct, probability, 1 - probability)).mean())


def auroc(confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> float:
    """The probability that a correct answer has more confidence than a wrong one: 0.5 says nothing, 1 is perfect.

    Equal confidences count half. NaN where all answers are right or all wrong.
    """
    from scipy.stats import rankdata

    n_right = int(correct.sum())
    n_wrong = len(correct) - n_right
    if n_right == 0 or n_wrong == 0:
        return float("nan")
    return float((rankdata(confidence)[correct].mean() - (n_right + 1) / 2) / n_wrong)


def calibration_error(confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], n_bins: int = 10) -> float:
    """The expected calibration error (ECE): |mean confidence - share correct|, the mean of equally full bins.

    0 is perfect. NaN for no answers.
    """
    if len(correct) == 0:
        return float("nan")
    bins = np.array_split(np.argsort(confidence, kind="stable"), min(n_bins, len(correct)))
    gaps = [abs(confidence[of_bin].mean() - correct[of_bin].mean()) * len(of_bin) for of_bin in bins]
    return float(sum(gaps) / len(correct))


def coverage_at_precision(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], precision: float = 0.9, at_least: int = 50
) -> float:
    """The largest share of the most confident answers, at least so many, of which `precision` is correct; else 0."""
    order = np.argsort(-confidence, kind="stable")
    share_correct = np.cumsum(correct[order]) / np.arange(1, len(order) + 1)
    enough = np.flatnonzero(share_correct >= precision) + 1
    kept = enough[enough >= at_least]
    return float(kept.max() / len(order)) if len(kept) else 0.0


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _are_shares(value: Any) -> bool:
    return isinstance(value, tuple) and all(_is_number(item) and 0 <= item <= 1 for item in value)
