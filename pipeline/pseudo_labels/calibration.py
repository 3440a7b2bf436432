"""From signals to the probability that a match is right: a small model, kept as a JSON file that numpy alone reads.

Each signal becomes its rank among those the calibration was made on, 0..1, and its share of the score is a piecewise
linear function of the rank. The probability is the logistic function of the score, the sum of the shares and an
intercept. A point that lacks a signal gets the signal's share for missing ones. Probabilities are whole multiples of
1 / PROBABILITY_STEPS, so that sums of them are exact.

"Right" is an error of at most `alpha` T under a protocol of pipeline.evaluation.protocols; the file names both.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import scipy.special
from jaxtyping import Float64, Int64

from pipeline.io import storage
from pipeline.pseudo_labels.signals import SIGNALS, SignalValues, describe_absent

FORMAT = "nemf calibration"
VERSION = 1
PROBABILITY_STEPS = 10_000
BENDS = (0.0, 0.25, 0.5, 0.75, 0.9)
"""Ranks at which the share of a signal changes its slope; it has a weight for each."""
MAX_BYTES = 2**20
MAX_KNOTS = 1000
"""Largest file, and longest list in it."""


@dataclass(frozen=True, kw_only=True)
class SignalShare:
    """What one signal adds to the score."""

    values: tuple[float, ...]
    """Values of the signal, rising."""
    ranks: tuple[float, ...]
    """The share of points below each of them, rising, 0..1; values between and beyond are interpolated and clipped."""
    weights: tuple[float, ...]
    """One for each of BENDS: the share is the sum of weight * max(0, rank - bend)."""
    missing: float
    """The share of a point without the signal."""

    def features(self, values: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, "n k"]:
        """What the weights, and last `missing`, are multiplied with."""
        return signal_features(values, np.array(self.values), np.array(self.ranks))


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """A calibration, as its file holds it."""

    matcher: str
    """Name of the matcher it is of."""
    matcher_fingerprint: str
    alpha: float
    protocol: str
    signals: Mapping[str, SignalShare]
    intercept: float
    made_on: Mapping[str, Any]
    """What it was made on: manifest, digest, data sets, numbers of pairs, images and points."""
    quality: Mapping[str, Any]
    """Cross-fitted numbers of pipeline.pseudo_labels.calibration_quality."""

    def check_signals(self, present: Iterable[str], where: str) -> None:
        """Raises ValueError if a signal it judges by is not among those of the matches at `where`."""
        absent = [name for name in self.signals if name not in present]
        if absent:
            how = ", ".join(describe_absent([name for name in SIGNALS if name not in absent]))
            raise ValueError(
                f"the calibration judges by signals that {where} lacks: {how}; or make another calibration"
            )

    def score(self, values: SignalValues) -> Float64[np.ndarray, " n"]:
        """The score of each point; the signals it judges by must be among `values`."""
        n_points = len(next(iter(values.values())))
        score = np.full(n_points, self.intercept)
        for name, share in self.signals.items():
            for feature, weight in zip(share.features(values[name]).T, (*share.weights, share.missing), strict=True):
                score += weight * feature
        return score

    def probability_steps(self, values: SignalValues) -> Int64[np.ndarray, " n"]:
        """The probability that each point is right, in units of 1 / PROBABILITY_STEPS."""
        probability = scipy.special.expit(self.score(values))
        return np.rint(probability * PROBABILITY_STEPS).astype(np.int64)

    def as_json(self) -> str:
        """The content of the file."""
        return json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1)

    def check_matcher(self, matcher: str, fingerprint: str | None, where: str) -> None:
        """Raises ValueError unless it is of the matcher whose matches are at `where`."""
        if fingerprint != self.matcher_fingerprint:
            raise ValueError(
                f"{where} is of matcher {matcher} (fingerprint {fingerprint}), the calibration of {self.matcher} "
                f"(fingerprint {self.matcher_fingerprint}): make one with nemf calibrate --matches RUN "
                "--pairs LABELLED, RUN being of this matcher with these weights"
            )


def signal_features(
    values: Float64[np.ndarray, " n"], knots: Float64[np.ndarray, " k"], ranks: Float64[np.ndarray, " k"]
) -> Float64[np.ndarray, "n f"]:
    """max(0, rank - bend) of each value for each of BENDS, 0 where the value is missing; then 1 where it is missing."""
    missing = np.isnan(values)
    rank = np.interp(np.where(missing, knots[0], values), knots, ranks)
    features = np.maximum(0, rank[:, None] - np.array(BENDS))
    return np.concatenate([np.where(missing[:, None], 0, features), missing[:, None]], axis=1)


def read_calibration(uri: str) -> Calibration:
    """The calibration in a file. Raises FileNotFoundError, and ValueError naming the file if it is not a usable one."""
    try:
        content = storage.read_bytes(uri)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there is no calibration at {uri}; nemf calibrate writes them") from error
    if len(content) > MAX_BYTES:
        raise ValueError(f"{uri} has {len(content):,} bytes; a calibration has at most {MAX_BYTES:,}")
    try:
        return from_json(content)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{uri} is not a calibration, as nemf calibrate writes them: {error}") from error


def from_json(content: bytes | str) -> Calibration:
    """The calibration of a file's content. Raises ValueError that says what is wrong with it."""
    fields = _mapping(json.loads(content), "the file")
    if fields.get("format") != FORMAT:
        raise ValueError(f"expected format {FORMAT!r}, got {fields.get('format')!r}; nemf calibrate writes them")
    if fields.get("version") != VERSION:
        raise ValueError(
            f"expected version {VERSION}, got {fields.get('version')!r}: make it again with nemf calibrate"
        )
    shares = _mapping(fields.get("signals"), "signals")
    if unknown := [name for name in shares if name not in SIGNALS]:
        raise ValueError(f"signals are {', '.join(SIGNALS)}; got {', '.join(map(repr, unknown))}")
    if not shares:
        raise ValueError("it judges by no signal")
    alpha = _number(fields, "alpha")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be above 0 and at most 1; got {alpha}")
    return Calibration(
        matcher=_text(fields, "matcher"),
        matcher_fingerprint=_text(fields, "matcher_fingerprint"),
        protocol=_text(fields, "protocol"),
        alpha=alpha,
        signals={name: _share(name, _mapping(shares[name], name)) for name in SIGNALS if name in shares},
        intercept=_number(fields, "intercept"),
        made_on=_mapping(fields.get("made_on"), "made_on"),
        quality=_mapping(fields.get("quality"), "quality"),
    )


def _share(name: str, fields: Mapping[str, Any]) -> SignalShare:
    values, ranks, weights = (_numbers(fields, key, name) for key in ("values", "ranks", "weights"))
    _check_curve(f"{name}: values", values, f"{name}: ranks", ranks)
    if len(weights) != len(BENDS):
        raise ValueError(f"{name}: expected {len(BENDS)} weights, got {len(weights)}")
    return SignalShare(values=values, ranks=ranks, weights=weights, missing=_number(fields, "missing", name))


def _check_curve(x_name: str, x: tuple[float, ...], y_name: str, y: tuple[float, ...]) -> None:
    if len(x) != len(y) or not x:
        raise ValueError(f"{x_name} and {y_name} must be equally many, at least one; got {len(x)} and {len(y)}")
    if (np.diff(x) <= 0).any() or (np.diff(y) < 0).any() or y[0] < 0 or y[-1] > 1:
        raise ValueError(f"{x_name} must rise, and {y_name} must not fall and be in 0..1")


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name} must be an object; got {type(value).__name__}")
    return value


def _text(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be text; got {value!r:.60}")
    return value


def _number(fields: Mapping[str, Any], name: str, of: str = "") -> float:
    return _finite(fields.get(name), f"{of}: {name}" if of else name)


def _numbers(fields: Mapping[str, Any], name: str, of: str = "") -> tuple[float, ...]:
    values, where = fields.get(name), f"{of}: {name}" if of else name
    if not isinstance(values, list) or len(values) > MAX_KNOTS:
        raise ValueError(f"{where} must be a list of at most {MAX_KNOTS} numbers; got {type(values).__name__}")
    return tuple(_finite(value, where) for value in values)


def _finite(value: Any, name: str) -> float:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    # a whole number of JSON may be too large for a float
    if not is_number or abs(value) > 1e12 or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number; got {value!r:.60}")
    return float(value)
