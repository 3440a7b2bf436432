"""Published numbers, to be set beside a run's: pipeline/evaluation/published.csv.

A row is one number of one paper. Like is set beside like only: a number is comparable where data set, protocol,
direction, alpha, category and number of pairs are those of the run. `protocol` and `direction` are 'unknown' where
nobody knows.
"""

import io
from importlib import resources

import pandas as pd

COLUMNS = ["method", "source", "dataset", "protocol", "direction", "alpha", "category", "n_pairs", "pck"]
_ALIKE = ["dataset", "protocol", "direction", "alpha", "category", "n_pairs"]


def published() -> pd.DataFrame:
    """All published numbers, COLUMNS; PCK in percent."""
    text = resources.files("pipeline.evaluation").joinpath("published.csv").read_text("utf-8")
    return pd.read_csv(io.StringIO(text))[COLUMNS]


def beside(metrics: pd.DataFrame, run: str) -> pd.DataFrame:
    """The run's own numbers and all published ones of the same data sets, alphas and categories.

    metrics: METRICS. run: what the run is called in column `method`.
    Columns are COLUMNS, and `comparable`: whether a row may be set beside one of the run's own, which always are. PCK
    is missing where the run had nothing to average over.
    """
    chosen = metrics[metrics["group_kind"].isin(["category", "all"]) & (metrics["subset"] == "all")]
    own = chosen.assign(method=run, source="this run", category=chosen["group"], comparable=True)
    own = own.assign(pck=own["pck_image"].where(own["n_pairs"] > 0))[[*COLUMNS, "comparable"]]
    here = own[["dataset", "alpha", "category"]].drop_duplicates()
    others = published().merge(here, on=list(here.columns))
    known = others.merge(own[_ALIKE].drop_duplicates(), on=_ALIKE, how="left", indicator="found")["found"]
    return pd.concat([own, others.assign(comparable=(known == "both").to_numpy())], ignore_index=True)
