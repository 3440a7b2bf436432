"""METRICS as a report shows them: groups with their counts, and PCK with its interval."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.evaluation.groups import LEVELS, NUISANCES
from pipeline.evaluation.protocols import Protocol, protocol_of
from schemas.metrics import MEASURES

HEADLINE_ALPHA = 0.1
"""The alpha of the large numbers and of the bars, if it was evaluated, and of the colours of drawn points."""
AVERAGES = {"pck_image": "image average", "pck_point": "keypoint average", "pck_class_mean": "mean of categories"}
"""Columns of METRICS with their names on the page."""
_VARIATION = {"0": "easy", "1": "medium", "2": "hard"}
_WHICH_IMAGE = {"0": "none", "1": "source", "2": "target", "3": "both"}
_SLICES = (*NUISANCES, *LEVELS, "objects", "object_share", "mirror_case")
"""Kinds of groups that are drawn beside the categories."""
_KIND_NAMES = {
    "viewpoint_variation": "viewpoint",
    "scale_variation": "scale",
    "azimuth_difference": "difference of azimuth, steps of 45 degrees",
    "objects": "objects of the category in an image",
    "object_share": "longest side of the object's box in the reference image, of the image's",
    "mirror_case": "left and right: both labelled in the target (n11), the twin not (n10), no twin (n1x)",
}
_LEVELS = dict(zip(NUISANCES, (_VARIATION, _VARIATION, _WHICH_IMAGE, _WHICH_IMAGE), strict=True))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A percentage and its 95 % interval; None for what is not known."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class GroupNumbers:
    """The METRICS of one group."""

    name: str
    n_pairs: int
    n_points: int
    n_failed: int
    estimates: dict[str, list[Estimate]]
    """Percentages by column of METRICS (see AVERAGES), one per alpha, ascending."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """The METRICS of one data set under one protocol in one direction."""

    alphas: list[float]
    headline: int
    """Index of the headline's alpha."""
    own_column: str
    """The column of the protocol's own average."""
    overall: GroupNumbers
    leak_free: GroupNumbers | None
    categories: list[GroupNumbers]
    """The categories by name."""
    nuisances: list[tuple[str, list[GroupNumbers]]]
    """Name and groups of each other kind that the METRICS have a group of."""
    measures: list[tuple[str, list[float | None]]]
    """Name of each measure besides PCK that is known, and its percentages, one per alpha."""

    @property
    def alpha(self) -> float:
        """The headline's alpha."""
        return self.alphas[self.headline]

    @property
    def group_column(self) -> str:
        """The column that groups are compared by: the protocol's own, or the image average instead of a class mean."""
        return "pck_image" if self.own_column == "pck_class_mean" else self.own_column

    def by_value(self, groups: Sequence[GroupNumbers]) -> list[GroupNumbers]:
        """The groups by falling PCK, those without any last."""

        def value(group: GroupNumbers) -> float:
            known = group.estimates[self.group_column][self.headline].value
            return -1.0 if known is None else known

        return sorted(groups, key=value, reverse=True)


def protocols_of(metrics: pa.Table) -> dict[str, Protocol]:
    """The protocols of METRICS by name, from the metadata of the file."""
    choices = json.loads((metrics.schema.metadata or {}).get(b"protocols", b"[]"))
    return {protocol.name: protocol for protocol in map(protocol_of, choices)}


def read_numbers(metrics: pd.DataFrame, protocol: Protocol) -> Numbers:
    """The numbers of METRICS rows of one data set, protocol and direction, without those of single pairs."""
    rows = metrics[metrics["subset"] == "all"]
    alphas = sorted(rows["alpha"].unique())
    leak_free = groups(metrics[metrics["subset"] == "leak_free"], "all")
    nuisances = []
    for kind in _SLICES:
        levels = groups(rows, kind)
        if any(level.name != "unknown" for level in levels):
            names = _LEVELS.get(kind, {})
            named = [replace(level, name=names.get(level.name, level.name)) for level in levels]
            nuisances.append((_KIND_NAMES.get(kind, kind), named))
    return Numbers(
        alphas=alphas,
        headline=alphas.index(HEADLINE_ALPHA) if HEADLINE_ALPHA in alphas else len(alphas) - 1,
        own_column=protocol.column,
        overall=groups(rows, "all")[0],
        leak_free=leak_free[0] if leak_free else None,
        categories=groups(rows, "category"),
        nuisances=nuisances,
        measures=_measures(rows[rows["group_kind"] == "all"].sort_values("alpha")),
    )


def _measures(overall: pd.DataFrame) -> list[tuple[str, list[float | None]]]:
    """The measures, over keypoints, of the rows of group all; known ones alone."""
    named = {"kap": "KAP, mean of categories"} | {f"{name}_point": name for name in MEASURES}
    percents = {name: overall[column].to_numpy(np.float64) for column, name in named.items()}
    return [
        (name, [None if np.isnan(value) else float(value) for value in values])
        for name, values in percents.items()
        if not np.isnan(values).all()
    ]


def groups(metrics: pd.DataFrame, kind: str) -> list[GroupNumbers]:
    """The groups of a group_kind, by name."""
    return [
        GroupNumbers(
            name=str(name),
            n_pairs=int(rows["n_pairs"].iloc[0]),
            n_points=int(rows["n_points"].iloc[0]),
            n_failed=int(rows["n_failed"].iloc[0]),
            estimates={column: _estimates(rows.sort_values("alpha"), column) for column in AVERAGES},
        )
        for name, rows in metrics[metrics["group_kind"] == kind].groupby("group", sort=True)
    ]


def _estimates(rows: pd.DataFrame, column: str) -> list[Estimate]:
    """Percentages, one per alpha; None for a group without pairs, for which METRICS have 0."""
    known = rows[[column, f"{column}_low", f"{column}_high"]].to_numpy(np.float64, copy=True)
    known[rows["n_pairs"] == 0] = np.nan
    present = [[None if np.isnan(value) else float(value) for value in row] for row in known]
    return [Estimate(value=value, low=low, high=high) for value, low, high in present]
