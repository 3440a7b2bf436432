"""What a run must reach, so that a pipeline can stop where it does not: 'spair image .1 all >= 50'."""

import operator
import re
from dataclasses import dataclass

import pandas as pd

_FORM = "PROTOCOL AVERAGE ALPHA GROUP >= PERCENT, such as 'spair image .1 all >= 50'"
_PATTERN = re.compile(r"(\S+)\s+(image|point|class)\s+(\S+)\s+(.+?)\s*(>=|>)\s*(\S+)")
_OPERATORS = {">=": operator.ge, ">": operator.gt}
_COLUMNS = {"image": "pck_image", "point": "pck_point", "class": "pck_class_mean"}


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """A least PCK."""

    text: str
    protocol: str
    average: str
    """image, point or class."""
    alpha: float
    group: str
    """all, or a category."""
    comparison: str
    """>= or >."""
    percent: float

    def unmet(self, metrics: pd.DataFrame) -> list[str]:
        """What falls short, in words; METRICS of any data set and direction must reach it.

        Raises ValueError where METRICS hold no such number.
        """
        rows = metrics[
            metrics["group_kind"].isin(["category", "all"])
            & (metrics["subset"] == "all")
            & (metrics["protocol"] == self.protocol)
        ]
        for column, wanted in (("alpha", self.alpha), ("group", self.group)):
            there = sorted(rows[column].unique())
            rows = rows[rows[column] == wanted]
            if rows.empty:
                listed = ", ".join(f"{value:g}" if column == "alpha" else value for value in there)
                raise ValueError(f"--require {self.text!r}: there is no {column} {wanted}; there are: {listed or '-'}")
        name = _COLUMNS[self.average]
        if rows[name].isna().all():
            raise ValueError(f"--require {self.text!r}: only 'all' has an average over classes")
        reaches = _OPERATORS[self.comparison]
        return [
            f"{self.text}: {row['dataset']}, {row['direction'].replace('_', ' ')}, has "
            + (f"{row[name]:.2f}" if row["n_pairs"] else "nothing to average over")
            for row in rows.to_dict("records")
            if not row["n_pairs"] or not reaches(row[name], self.percent)
        ]


def requirement(text: str) -> Requirement:
    """The requirement that `text` says. Raises ValueError with the form it must have."""
    match = _PATTERN.fullmatch(text.strip())
    try:
        if match is None:
            raise ValueError
        protocol, average, alpha, group, comparison, percent = match.groups()
        return Requirement(
            text=text,
            protocol=protocol,
            average=average,
            alpha=float(alpha),
            group=group,
            comparison=comparison,
            percent=float(percent),
        )
    except ValueError as error:
        raise ValueError(f"--require {text!r}: expected {_FORM}") from error
