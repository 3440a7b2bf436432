"""PCK that papers published, from published.csv, and which of it compares with a run's.

A row is one number of one paper. A number is comparable where data set, protocol, direction, alpha, category and number
of pairs are those of the run. `protocol` and `direction` are 'unknown' where neither paper nor code gives them.
"""

import io
from importlib import resources

import pandas as pd

COLUMNS = ["method", "source", "dataset", "protocol", "direction", "alpha", "category", "n_pairs", "pck"]
_SAME_IF_COMPARABLE = ["dataset", "protocol", "direction", "alpha", "category", "n_pairs"]


def published() -> pd.DataFrame:
    """All published numbers, COLUMNS; PCK in percent."""
    text = resources.files("pipeline.evaluation").joinpath("published.csv").read_text("utf-8")
    return pd.read_csv(io.StringIO(text))[COLUMNS]


def with_published(metrics: pd.DataFrame, run: str) -> pd.DataFrame:
    """The run's own numbers and all published ones of the same data sets, alphas and categories.

    metrics: METRICS. run: the name of the run in column `method`.
    Columns are COLUMNS and `comparable`, which is True for the run's own rows. PCK is missing where the run had nothing
    to average over.
    """
    summary = metrics[metrics["group_kind"].isin(["category", "all"]) & (metrics["subset"] == "all")]
    own = summary.assign(method=run, source="this run", category=summary["group"], comparable=True)
    own = own.assign(pck=own["pck_image"].where(own["n_pairs"] > 0))[[*COLUMNS, "comparable"]]
    keys = own[["dataset", "alpha", "category"]].drop_duplicates()
    papers = published().merge(keys, on=list(keys.columns))
    same = own[_SAME_IF_COMPARABLE].drop_duplicates()
    merged = papers.merge(same, on=_SAME_IF_COMPARABLE, how="left", indicator="in_run")["in_run"]
    return pd.concat([own, papers.assign(comparable=(merged == "both").to_numpy())], ignore_index=True)
