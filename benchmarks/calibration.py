"""How good a matcher's confidence is on pairs with known keypoints, and the calibration that fits them.

    python -m benchmarks.calibration --matcher nemf-small --manifest val.parquet --out confidence.json

The file is the object `confidence` of a checkpoint's config.json. Fit to validation pairs only, and to many images:
what is fitted here is what users are told of their own pairs. `crosswise` is what the fitting itself is worth: every
second pair has the confidence that was fitted to the others. Every pair is matched once, on one thread.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float

from jobs.command import MatcherName, run_command
from nemf import calibration
from nemf.calibration import ALPHA, TEMPERATURES, Calibration
from nemf.load import load_matcher
from nemf.matcher import ImagePair, Match, Matcher
from nemf.matchers.confidence import MassMatcher
from pipeline.evaluation.keypoint_errors import keypoint_errors
from pipeline.evaluation.protocols import protocol
from pipeline.io import storage
from pipeline.io.manifest import INLINE_COLUMNS, read_pairs
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import CropTo, MatchOptions
from schemas.pairs import PAIRS

_PAIRS_AT_ONCE = 64


@dataclass(frozen=True, kw_only=True)
class Config:
    """The matcher and the pairs."""

    matcher: MatcherName = "nemf-small"
    manifest: str
    """PAIRS manifest, path or URI, of pairs with keypoints."""
    image_root: str | None = None
    """Folder, path or URI, of the manifest's relative image URIs."""
    crop: Literal["none", "boxes", "both"] = "none"
    """boxes: match inside the boxes of the pairs, as nemf match --crop boxes. both: every pair as it is, and once more
    inside its boxes: what is fitted lies between objects as large as they come and those that fill their images."""
    protocol: str = "spair"
    """What T is, see pipeline.evaluation.protocols."""
    backbone_weights: str | None = None
    """Weights of a frozen backbone, see nemf match."""
    device: str = "auto"
    """cpu, cuda, cuda:N, or auto: a GPU if there is one."""
    out: str | None = None
    """File for the fitted calibration; default: print only."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One way to make a confidence, and how good it is."""

    name: str
    auroc: float
    error: float
    """Expected calibration error."""
    log_loss: float
    coverage: float
    """Share of the answers that is kept at a precision of 90 %."""


def run(config: Config) -> tuple[list[Row], Calibration]:
    """Match, fit, print. Raises ValueError for a matcher without score maps, and as loading and `fit` do."""
    torch.set_num_threads(1)
    matcher = load_matcher(config.matcher, backbone_weights=config.backbone_weights, device=config.device)
    if not isinstance(matcher, MassMatcher):
        raise ValueError(f"--matcher {config.matcher} has no score maps, so its confidence cannot be fitted")
    crops: dict[str, list[CropTo]] = {"none": ["none"], "boxes": ["boxes"], "both": ["none", "boxes"]}
    measured = [_measure(config, crop, _Recorder(matcher, matcher)) for crop in crops[config.crop]]
    masses = {t: np.concatenate([masses[t] for masses, _, _ in measured]) for t in measured[0][0]}
    correct = np.concatenate([correct for _, correct, _ in measured])
    is_odd = np.concatenate([is_odd for _, _, is_odd in measured])
    fitted = calibration.fit(masses, correct)
    ways = {"the mass itself": Calibration(), "as it is": matcher.calibration, "fitted to these pairs": fitted}
    confidences = {name: one.confidence(masses[one.temperature]) for name, one in ways.items()}
    confidences["crosswise"] = _crosswise(masses, correct, is_odd)
    rows = [_row(name, confidence, correct) for name, confidence in confidences.items()]
    print(f"{len(correct):,} answers, {100 * correct.mean():.1f} % correct at {ALPHA}")
    print(f"{'':24}{'AUROC':>8}{'ECE':>8}{'log loss':>10}{'kept at 90 %':>14}")
    for row in rows:
        print(f"{row.name:24}{row.auroc:8.3f}{row.error:8.3f}{row.log_loss:10.3f}{100 * row.coverage:12.1f} %")
    text = json.dumps(fitted.to_json(), indent=1)
    print(text)
    if config.out is not None:
        storage.write_bytes(config.out, f"{text}\n".encode())
    return rows, fitted


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point."""
    return run_command(Config, run, argv)


class _Recorder(Matcher):
    """The matcher, keeping the masses of its answers by pair and temperature."""

    def __init__(self, matcher: Matcher, masses: MassMatcher) -> None:
        self.name, self.fingerprint = matcher.name, matcher.fingerprint
        self.temperatures = sorted({*TEMPERATURES, masses.calibration.temperature})
        self.recorded: dict[str, np.ndarray] = {}
        self._masses = masses

    def match_batch(self, pairs: Sequence[ImagePair]) -> list[Match]:
        matches = []
        for pair in pairs:
            match, self.recorded[pair.pair_id] = self._masses.masses(pair, self.temperatures)
            matches.append(match)
        return matches


def _crosswise(
    masses: Mapping[float, Float[np.ndarray, " n"]], correct: Bool[np.ndarray, " n"], is_odd: Bool[np.ndarray, " n"]
) -> Float[np.ndarray, " n"]:
    """The confidence of every answer by what is fitted to the other half of the answers; NaN where nothing can be."""
    confidence = np.full(len(correct), np.nan)
    for half in (is_odd, ~is_odd):
        try:
            fitted = calibration.fit({t: mass[~half] for t, mass in masses.items()}, correct[~half])
        except ValueError:  # few answers, or all of them wrong
            continue
        confidence[half] = fitted.confidence(masses[fitted.temperature][half])
    return confidence


def _measure(
    config: Config, crop: CropTo, recorder: _Recorder
) -> tuple[dict[float, Float[np.ndarray, " n"]], Bool[np.ndarray, " n"], Bool[np.ndarray, " n"]]:
    """The masses of all answers by temperature, whether each is correct, and whether its pair has an odd number in the
    manifest; pairs that failed are left out."""
    measure = protocol(config.protocol)
    pairs = read_pairs(config.manifest, PAIRS.names)
    options = MatchOptions(directions=measure.directions[:1], outputs=("keypoints",), crop=crop)
    rows = [
        match_chunk(recorder, chunk, options, fingerprint=recorder.fingerprint, attempt=1)
        for first in range(0, pairs.num_rows, _PAIRS_AT_ONCE)
        for chunk in decode_rows(pairs.slice(first, _PAIRS_AT_ONCE), config.image_root)
    ]
    if not rows:
        raise ValueError(f"{config.manifest}: there are no pairs to match")
    truth = pairs.drop_columns(list(INLINE_COLUMNS))
    errors = keypoint_errors(pa.concat_tables(rows), truth, measure, options.directions[0])
    errors = errors.select(~errors.failed & (errors.n_points > 0))
    of_pairs = [recorder.recorded.get(pair_id) for pair_id in truth["pair_id"].to_pylist()]
    answered = [(number, masses) for number, masses in enumerate(of_pairs) if masses is not None]
    stacked = np.concatenate([masses for _, masses in answered], axis=1)
    is_odd = np.concatenate([np.full(masses.shape[1], number % 2 == 1) for number, masses in answered])
    correct = errors.is_correct(ALPHA)
    if stacked.shape[1] != len(correct):
        raise ValueError(f"protocol {config.protocol} leaves out keypoints: take one that counts all, such as spair")
    return dict(zip(recorder.temperatures, stacked, strict=True)), correct, is_odd


def _row(name: str, confidence: np.ndarray, correct: np.ndarray) -> Row:
    return Row(
        name=name,
        auroc=calibration.auroc(confidence, correct),
        error=calibration.calibration_error(confidence, correct),
        log_loss=calibration.log_loss(confidence, correct),
        coverage=calibration.coverage_at_precision(confidence, correct),
    )


if __name__ == "__main__":
    sys.exit(main())
