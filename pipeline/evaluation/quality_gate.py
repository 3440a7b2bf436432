"""The minimum PCK of a run, such as 'spair image .1 all >= 50', so that a pipeline can stop below it."""

import math
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import pandas as pd

from pipeline.evaluation.protocols import COLUMN_OF_AVERAGE, Average

_FORM = "PROTOCOL AVERAGE ALPHA GROUP >= PERCENT, such as 'spair image .1 all >= 50'"
_PATTERN = re.compile(r"(\S+)\s+(image|point|class)\s+(\S+)\s+(.+?)\s*(>=|>)\s*(\S+)")
_OPERATORS = {">=": operator.ge, ">": operator.gt}


@dataclass(frozen=True, kw_only=True)
class PCKThreshold:
    """The minimum PCK of one protocol, average, alpha and group."""

    text: str
    protocol: str
    average: Average
    alpha: float
    group: str
    """Name of the group: 'all', or a category."""
    comparison: str
    """'>=' or '>'."""
    percent: float

    def check_evaluated(self, protocols: Sequence[str], alphas: Sequence[float]) -> None:
        """Raises ValueError unless the protocol and the alpha are among those to be evaluated."""
        for name, value, evaluated in (("protocol", self.protocol, protocols), ("alpha", self.alpha, alphas)):
            if value not in evaluated:
                listed = ", ".join(map(str, evaluated))
                raise ValueError(f"--require {self.text!r}: {name} {value} is not evaluated; evaluated are: {listed}")

    def rows(self, metrics: pd.DataFrame) -> pd.DataFrame:
        """The METRICS rows, one per data set and direction, that the threshold is about.

        Raises ValueError where METRICS have no such group or average.
        """
        kind = "all" if self.group == "all" else "category"
        rows = metrics[metrics["group_kind"].isin(["category", "all"]) & (metrics["subset"] == "all")]
        rows = rows[(rows["protocol"] == self.protocol) & (rows["alpha"] == self.alpha)]
        groups = sorted(rows["group"].unique())
        rows = rows[(rows["group_kind"] == kind) & (rows["group"] == self.group)]
        if rows.empty:
            raise ValueError(f"--require {self.text!r}: there is no group {self.group}; there are: {', '.join(groups)}")
        if self.average == "class" and kind != "all":
            raise ValueError(f"--require {self.text!r}: only 'all' has an average over classes")
        return rows

    def shortfalls(self, metrics: pd.DataFrame) -> list[str]:
        """One line for each data set and direction of METRICS below the threshold, or without a number of it.

        Raises ValueError where METRICS have no such group or average.
        """
        column = COLUMN_OF_AVERAGE[self.average]
        reaches = _OPERATORS[self.comparison]
        return [
            f"{self.text}: {row['dataset']}, {row['direction'].replace('_', ' ')}, has "
            + (f"{row[column]:.2f}" if row["n_pairs"] else "nothing to average over")
            for row in self.rows(metrics).to_dict("records")
            if not row["n_pairs"] or not reaches(row[column], self.percent)
        ]


def parse_threshold(text: str) -> PCKThreshold:
    """The threshold written as `text`. Raises ValueError with the form it must have."""
    match = _PATTERN.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        protocol, average, alpha, group, comparison, percent = match.groups()
        if not (math.isfinite(float(alpha)) and math.isfinite(float(percent))):
            raise ValueError
        return PCKThreshold(
            text=text,
            protocol=protocol,
            average=cast(Average, average),
            alpha=float(alpha),
            group=group,
            comparison=comparison,
            percent=float(percent),
        )
    except ValueError as error:
        raise ValueError(f"--require {text!r}: expected {_FORM}") from error
