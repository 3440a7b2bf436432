"""Which labels are kept: a threshold for the whole run, from exact counts of the labels by probability.

A label's key is the largest threshold that still keeps it: its probability or, where its pair must keep `min_points`
labels, the least of its own and that of the pair's label of this rank. The labels of a run at a threshold are those
whose key reaches it, so one pass that counts labels by key tells what every threshold would keep.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int64

from pipeline.pseudo_labels.calibration import PROBABILITY_STEPS


class NoLabelsError(ValueError):
    """No label is as good as asked for."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """What is kept; None for what is not asked."""

    precision: float | None = None
    """Minimum of the expected precision, the mean probability of all labels kept."""
    min_probability: float | None = None
    max_cycle: float | None = None
    """Maximum cycle error, as a share of the query's size."""
    per_pair: int | None = None
    """Maximum number of labels of a pair, the most probable ones."""
    min_points: int = 1
    """Minimum number of labels of a pair; a pair with fewer keeps none."""

    def check(self) -> None:
        """Raises ValueError for a value out of range."""
        for name in ("precision", "min_probability"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise ValueError(f"--{name.replace('_', '-')} is a share, 0..1; got {value}")
        if self.max_cycle is not None and not self.max_cycle >= 0:
            raise ValueError(f"--max-cycle is a share of the object's size, 0 or more; got {self.max_cycle}")
        if self.per_pair is not None and self.per_pair < 1:
            raise ValueError(f"--per-pair must be at least 1; got {self.per_pair}")
        if self.min_points < 1:
            raise ValueError(f"--min-points must be at least 1; got {self.min_points}")
        if self.per_pair is not None and self.per_pair < self.min_points:
            raise ValueError(
                f"no pair can have {self.min_points} labels (--min-points) of {self.per_pair} (--per-pair)"
            )


def best_of_pair(
    steps: Int64[np.ndarray, " n"], counts: Int64[np.ndarray, " p"], per_pair: int | None
) -> Bool[np.ndarray, " n"]:
    """Mask of the `per_pair` most probable labels of each pair (None: all); of equal ones the first."""
    if per_pair is None:
        return np.ones(len(steps), bool)
    return _rank_in_pair(steps, counts) < per_pair


def keys(steps: Int64[np.ndarray, " n"], counts: Int64[np.ndarray, " p"], min_points: int) -> Int64[np.ndarray, " n"]:
    """The key of each label, in steps; -1 for the labels of pairs that have fewer than min_points."""
    if min_points == 1:
        return steps
    needed = np.full(len(counts), -1, np.int64)
    of_pair = np.repeat(np.arange(len(counts)), counts)
    is_last = _rank_in_pair(steps, counts) == min_points - 1
    needed[of_pair[is_last]] = steps[is_last]
    return np.minimum(steps, needed[of_pair])


@dataclass(frozen=True)
class Counts:
    """The labels of a run, or of a part of one, by key."""

    labels: Int64[np.ndarray, " k"]
    """(PROBABILITY_STEPS + 1,): the number of labels of each key; those of key -1 are in none."""
    steps: Int64[np.ndarray, " k"]
    """The sum of their probabilities, in steps."""

    @classmethod
    def of(cls, steps: Int64[np.ndarray, " n"], key: Int64[np.ndarray, " n"]) -> "Counts":
        """The counts of labels with these probabilities and keys."""
        kept = key >= 0
        length = PROBABILITY_STEPS + 1
        sums = np.bincount(key[kept], steps[kept], minlength=length)  # exact: sums are below 2^53
        return cls(np.bincount(key[kept], minlength=length).astype(np.int64), sums.astype(np.int64))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.labels + other.labels, self.steps + other.steps)

    def threshold(self, precision: float | None, min_probability: float | None = None) -> int:
        """The lowest key to keep, in steps, at which the mean probability of all kept is at least `precision`.

        min_probability: no label below it is kept. Raises NoLabelsError, saying the best there is, if nothing is left.
        """
        least = 0 if min_probability is None else int(np.ceil(min_probability * PROBABILITY_STEPS - 1e-6))
        n_kept, sums = (values[::-1].cumsum()[::-1] for values in (self.labels, self.steps))
        if not n_kept[0]:
            raise NoLabelsError(
                "there are no labels to choose from: the run has no points, none is within --max-cycle, or no pair has "
                "as many as --min-points"
            )
        reaches = n_kept > 0
        reaches[:least] = False
        best = sums[n_kept > 0] / n_kept[n_kept > 0]
        if precision is not None:
            reaches &= sums >= np.ceil(precision * PROBABILITY_STEPS * n_kept - 1e-6)
        if not reaches.any():
            asked = [f"a precision of {precision:g}"] if precision is not None else []
            asked += [f"a probability of {min_probability:g}"] if min_probability is not None else []
            top = int(np.flatnonzero(n_kept)[-1])
            raise NoLabelsError(
                f"no label reaches {' and '.join(asked)}: the best there is is a precision of "
                f"{best.max() / PROBABILITY_STEPS:.3f}, and the most probable are {n_kept[top]} labels at "
                f"{top / PROBABILITY_STEPS:.4f}"
            )
        lowest = int(np.flatnonzero(reaches)[0])
        return lowest + int(np.flatnonzero(self.labels[lowest:])[0])

    def kept(self, threshold: int) -> tuple[int, float]:
        """The number of labels from a threshold on, and the number of them that is expected to be right."""
        return int(self.labels[threshold:].sum()), float(self.steps[threshold:].sum() / PROBABILITY_STEPS)


def _rank_in_pair(steps: Int64[np.ndarray, " n"], counts: Int64[np.ndarray, " p"]) -> Int64[np.ndarray, " n"]:
    """The place of each label among those of its pair, the most probable first, from 0."""
    of_pair = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((np.arange(len(steps)), -steps, of_pair))
    rank = np.empty(len(steps), np.int64)
    rank[order] = np.arange(len(steps)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank
