"""Confidence against correctness, keypoint by keypoint: reliability, and risk over coverage."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64

from pipeline.evaluation.keypoint_errors import KeypointErrors

N_BINS = 10


@dataclass(frozen=True, kw_only=True)
class Bin:
    """Keypoints of similar confidence: their number, the share of correct ones, and their lowest, highest and mean
    confidence."""

    low: float
    high: float
    mean: float
    n_points: int
    percent_correct: float


@dataclass(frozen=True, kw_only=True, eq=False)
class RiskCoverage:
    """The share of wrong keypoints among the most confident ones, for every number of them that is kept."""

    kept: Float64[np.ndarray, " n"]
    """Share of all keypoints that is kept, ascending to 1."""
    wrong: Float64[np.ndarray, " n"]
    """Share of the kept keypoints that is wrong, 0..1."""

    @property
    def area(self) -> float:
        """AURC, the mean of `wrong` over all N shares kept: 0..1, less is better."""
        return float(self.wrong.mean())


def point_confidence(
    matches: pa.Table, pairs: pa.Table, errors: KeypointErrors, direction: str
) -> Float64[np.ndarray, " n"]:
    """The confidence of each keypoint of `errors`; NaN where the pair failed or has no confidence.

    errors: of all annotated keypoints of `pairs`, in their order.
    """
    rows = matches.filter(pc.equal(matches["direction"], direction))
    given = rows["point_confidence"].take(pc.index_in(pairs["pair_id"], rows["pair_id"]))
    n_given = pc.fill_null(pc.list_value_length(given), 0).to_numpy()
    usable = ~errors.failed & (n_given == errors.n_points)
    confidence = np.full(errors.n_points.sum(), np.nan)
    confidence[np.repeat(usable, errors.n_points)] = pc.list_flatten(given.filter(pa.array(usable))).to_numpy()
    return confidence


def reliability(
    confidence: Float64[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], n_bins: int = N_BINS
) -> list[Bin]:
    """Bins of about equally many keypoints, by rising confidence, which is finite; equal confidences share a bin."""
    _, value_of_point, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    middle_rank = np.cumsum(counts) - counts / 2
    bin_of_point = np.floor(middle_rank * n_bins / max(1, len(confidence)))[value_of_point]
    bins = []
    for number in np.unique(bin_of_point):
        in_bin = bin_of_point == number
        bins.append(
            Bin(
                low=float(confidence[in_bin].min()),
                high=float(confidence[in_bin].max()),
                mean=float(confidence[in_bin].mean()),
                n_points=int(in_bin.sum()),
                percent_correct=100 * float(correct[in_bin].mean()),
            )
        )
    return bins


def risk_coverage(confidence: Float64[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]) -> RiskCoverage:
    """The curve of at least one keypoint; confidence is finite.

    Of equally confident keypoints any may be kept first: `wrong` is its expectation over their orders, so it does not
    depend on the order they are given in.
    """
    _, rank, counts = np.unique(-confidence, return_inverse=True, return_counts=True)
    ends = np.concatenate([[0], np.cumsum(counts)])
    n_wrong = np.concatenate([[0], np.cumsum(np.bincount(rank, ~correct))])
    n_kept = np.arange(1, len(confidence) + 1)
    return RiskCoverage(kept=n_kept / len(confidence), wrong=np.interp(n_kept, ends, n_wrong) / n_kept)
