"""Counts of labels and the precision that their probabilities promise, in one pass over pairs and flat memory.

The expected precision of labels is the mean of their probabilities. Its 95 % interval adds two variances: that of a
bootstrap over images (pipeline.evaluation.bootstrap), and that of labels being right or wrong by chance, where those of
a pair are taken to be so together, the worst case. It does not know whether the calibration holds on this data.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float64, Int64

from pipeline.evaluation.bootstrap import BootstrapWeights, image_keys

REPLICATES = 200
HISTOGRAM_BINS = 100
_SEED = 0


@dataclass(kw_only=True, eq=False)
class Precision:
    """Sums over the labels of some pairs."""

    n_pairs: int = 0
    n_labels: int = 0
    n_judged: int = 0
    """Number of labels that have a probability."""
    sum_probability: float = 0.0
    """The number of judged labels that is expected to be right."""
    _label_variance: float = 0.0
    """Of the number that is right."""
    _replicates: Float64[np.ndarray, "r 2"] = field(default_factory=lambda: np.zeros((REPLICATES, 2)))
    """Weighted sums of probabilities, and of judged labels."""

    @property
    def expected(self) -> float | None:
        """The expected precision, 0..1; None if no label has a probability."""
        return self.sum_probability / self.n_judged if self.n_judged else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Its 95 % interval, within 0..1."""
        if self.expected is None:
            return None
        drawn = self._replicates[self._replicates[:, 1] > 0]
        variance = (drawn[:, 0] / drawn[:, 1]).var() if len(drawn) else 0.0
        half = 1.96 * float(np.sqrt(variance + self._label_variance / self.n_judged**2))
        return max(0.0, self.expected - half), min(1.0, self.expected + half)

    def _add(
        self,
        n_pairs: int,
        n_labels: int,
        n_judged: int,
        sum_probability: float,
        label_variance: float,
        replicates: Float64[np.ndarray, "r 2"],
    ) -> None:
        self.n_pairs += n_pairs
        self.n_labels += n_labels
        self.n_judged += n_judged
        self.sum_probability += sum_probability
        self._label_variance += label_variance
        self._replicates += replicates


@dataclass(kw_only=True, eq=False)
class LabelCounts:
    """The labels of PAIRS rows, altogether and by category."""

    total: Precision = field(default_factory=Precision)
    by_category: dict[str, Precision] = field(default_factory=dict)
    histogram: Int64[np.ndarray, " b"] = field(default_factory=lambda: np.zeros(HISTOGRAM_BINS, np.int64))
    """Number of labels by probability, in equal bins from 0 to 1."""

    def add(self, pairs: pa.Table) -> None:
        """Count these rows; a probability that is null or NaN is none."""
        if not pairs.num_rows:
            return
        n_labels = pc.fill_null(pc.list_value_length(pairs["source_xy_px"]), 0).to_numpy().astype(np.int64)
        probability, row = _probabilities(pairs)
        self.histogram += np.histogram(probability, HISTOGRAM_BINS, (0, 1))[0]
        n_rows = pairs.num_rows
        n_judged = np.bincount(row, minlength=n_rows)
        sums = np.bincount(row, probability, minlength=n_rows)
        deviation = np.bincount(row, np.sqrt(np.clip(probability * (1 - probability), 0, None)), minlength=n_rows)
        source, target = image_keys(pairs)
        weights = BootstrapWeights(source=source, target=target, seed=_SEED, n_replicates=REPLICATES)
        drawn = weights.replicates(0, REPLICATES)
        for category, rows in _by_category(pairs):
            of_rows = (
                len(rows),
                int(n_labels[rows].sum()),
                int(n_judged[rows].sum()),
                float(sums[rows].sum()),
                float((deviation[rows] ** 2).sum()),
                np.stack([drawn[:, rows] @ sums[rows], drawn[:, rows] @ n_judged[rows]], axis=1),
            )
            self.by_category.setdefault(category, Precision())._add(*of_rows)
            self.total._add(*of_rows)


def _probabilities(pairs: pa.Table) -> tuple[Float64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The probabilities there are, and the row of each."""
    column = pairs["keypoint_probability"].combine_chunks()
    probability = pc.list_flatten(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    row = pc.list_parent_indices(column).to_numpy(zero_copy_only=False).astype(np.int64)
    known = ~np.isnan(probability)
    return probability[known], row[known]


def _by_category(pairs: pa.Table) -> Iterator[tuple[str, Int64[np.ndarray, " n"]]]:
    names, code = np.unique(pc.fill_null(pairs["category"], "unknown").to_numpy().astype(str), return_inverse=True)
    order = np.argsort(code, kind="stable")
    for name, rows in zip(names, np.split(order, np.cumsum(np.bincount(code))[:-1]), strict=True):
        yield str(name), rows
