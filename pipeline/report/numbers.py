"""What a report says of METRICS: groups with their counts, and PCK with its interval."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pyarrow as pa

from pipeline.evaluation.groups import NUISANCES
from pipeline.evaluation.protocols import Protocol, protocol_of

HEADLINE_ALPHA = 0.1
"""The alpha of the large numbers and of the bars, if it was evaluated, and the one that drawn points are judged at."""
AVERAGES = {"pck_image": "image average", "pck_point": "keypoint average", "pck_class_mean": "mean of categories"}
"""Columns of METRICS, and what they are called."""
_VARIATION = {"0": "easy", "1": "medium", "2": "hard"}
_WHICH_IMAGE = {"0": "none", "1": "source", "2": "target", "3": "both"}
_LEVELS = dict(zip(NUISANCES, (_VARIATION, _VARIATION, _WHICH_IMAGE, _WHICH_IMAGE), strict=True))


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A percentage and its 95 % interval; None for what is not known."""

    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True, kw_only=True)
class Group:
    """Pairs that METRICS summarise together."""

    name: str
    n_pairs: int
    n_points: int
    n_failed: int
    estimates: dict[str, list[Estimate]]
    """By column of METRICS (see AVERAGES), one per alpha, ascending."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """All that METRICS say of one data set under one protocol in one direction."""

    alphas: list[float]
    headline: int
    """Which alpha is the headline's."""
    own: str
    """The column with the number that the protocol is known by."""
    overall: Group
    leak_free: Group | None
    categories: list[Group]
    """By name."""
    nuisances: list[tuple[str, list[Group]]]
    """Those of which the manifest knows a level, by name, with their levels."""

    @property
    def alpha(self) -> float:
        """The headline's."""
        return self.alphas[self.headline]

    @property
    def of_groups(self) -> str:
        """The column to compare groups by: the protocol's own, or the image average where that is a mean of groups."""
        return "pck_image" if self.own == "pck_class_mean" else self.own

    def by_value(self, groups: Sequence[Group]) -> list[Group]:
        """The groups by falling PCK, those without any last."""

        def value(group: Group) -> float:
            known = group.estimates[self.of_groups][self.headline].value
            return -1.0 if known is None else known

        return sorted(groups, key=value, reverse=True)


def protocols_of(metrics: pa.Table) -> dict[str, Protocol]:
    """The protocols that METRICS were made under, by name; a file says which choices each of them is."""
    choices = json.loads((metrics.schema.metadata or {}).get(b"protocols", b"[]"))
    return {found.name: found for found in map(protocol_of, choices)}


def numbers(metrics: pd.DataFrame, protocol: Protocol) -> Numbers:
    """The numbers of METRICS rows of one data set, protocol and direction, without those of single pairs."""
    of_all = metrics[metrics["subset"] == "all"]
    alphas = sorted(of_all["alpha"].unique())
    leak_free = groups(metrics[metrics["subset"] == "leak_free"], "all")
    nuisances = []
    for kind in NUISANCES:
        levels = groups(of_all, kind)
        if any(level.name != "unknown" for level in levels):
            named = [replace(level, name=_LEVELS[kind].get(level.name, level.name)) for level in levels]
            nuisances.append((kind.removesuffix("_variation"), named))
    return Numbers(
        alphas=alphas,
        headline=alphas.index(HEADLINE_ALPHA) if HEADLINE_ALPHA in alphas else len(alphas) - 1,
        own=protocol.column,
        overall=groups(of_all, "all")[0],
        leak_free=leak_free[0] if leak_free else None,
        categories=groups(of_all, "category"),
        nuisances=nuisances,
    )


def groups(metrics: pd.DataFrame, kind: str) -> list[Group]:
    """The groups of a kind, by name."""
    return [
        Group(
            name=str(name),
            n_pairs=int(rows["n_pairs"].iloc[0]),
            n_points=int(rows["n_points"].iloc[0]),
            n_failed=int(rows["n_failed"].iloc[0]),
            estimates={column: _estimates(rows.sort_values("alpha"), column) for column in AVERAGES},
        )
        for name, rows in metrics[metrics["group_kind"] == kind].groupby("group", sort=True)
    ]


def _estimates(rows: pd.DataFrame, column: str) -> list[Estimate]:
    """Nothing to average over is 0 in METRICS and None here."""
    known = rows[[column, f"{column}_low", f"{column}_high"]].to_numpy(np.float64, copy=True)
    known[rows["n_pairs"] == 0] = np.nan
    present = [[None if np.isnan(value) else float(value) for value in row] for row in known]
    return [Estimate(value=value, low=low, high=high) for value, low, high in present]
