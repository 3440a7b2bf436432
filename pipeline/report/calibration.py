"""Does a matcher know when it is right? Confidence against correctness, keypoint by keypoint."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.keypoint_errors import KeypointErrors

N_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Keypoints of similar confidence."""

    low: float
    high: float
    """Least and greatest confidence in it."""
    mean: float
    """Mean confidence."""
    n_points: int
    percent_correct: float


@dataclass(frozen=True, kw_only=True, eq=False)
class RiskCoverage:
    """How much is wrong of what is left when only the most confident keypoints are kept."""

    kept: np.ndarray
    wrong: np.ndarray
    """(N,) each, share of all keypoints that is kept, ascending to 1, and share of those that is wrong."""

    @property
    def area(self) -> float:
        """AURC, the mean of `wrong` over all N shares kept: 0..1, less is better."""
        return float(self.wrong.mean())


def point_confidence(matches: pa.Table, pairs: pa.Table, errors: KeypointErrors, direction: str) -> np.ndarray:
    """(N,) float64: the confidence of each scored keypoint; NaN where the pair failed or has none.

    errors: of all annotated keypoints, those of `pairs` in order.
    """
    answers = matches.filter(pc.equal(matches["direction"], direction))
    given = answers["point_confidence"].take(pc.index_in(pairs["pair_id"], answers["pair_id"]))
    n_given = pc.fill_null(pc.list_value_length(given), 0).to_numpy()
    usable = ~errors.failed & (n_given == errors.n_points)
    confidence = np.full(errors.n_points.sum(), np.nan)
    confidence[np.repeat(usable, errors.n_points)] = pc.list_flatten(given.filter(pa.array(usable))).to_numpy()
    return confidence


def reliability(confidence: np.ndarray, correct: np.ndarray, n_bins: int = N_BINS) -> list[Bin]:
    """Bins of about equally many keypoints, by rising confidence; equal confidences share a bin.

    confidence, correct: (N,) finite, (N,) bool.
    """
    _, value_of_point, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - counts / 2
    bin_of_point = np.floor(middle_rank * n_bins / max(1, len(confidence)))[value_of_point]
    found = []
    for number in np.unique(bin_of_point):
        here = bin_of_point == number
        found.append(
            Bin(
                low=float(confidence[here].min()),
                high=float(confidence[here].max()),
                mean=float(confidence[here].mean()),
                n_points=int(here.sum()),
                percent_correct=100 * float(correct[here].mean()),
            )
        )
    return found


def risk_coverage(confidence: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """The curve of (N,) finite confidences and (N,) bool, N at least 1.

    Of equally confident keypoints any may be kept first: `wrong` is what to expect of them in random order, so it does
    not depend on the order they are given in.
    """
    _, place, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)])
    wrong_until = np.concatenate([[0], np.cumsum(np.bincount(place, ~correct))])
    n_kept = np.arange(1, len(confidence) + 1)
    return RiskCoverage(kept=n_kept / len(confidence), wrong=np.interp(n_kept, ends, wrong_until) / n_kept)
