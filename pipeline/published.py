"""Published numbers, to be set beside a run's: pipeline/published.csv.

A row is one number of one paper. Like is set beside like only: a number is comparable where data set, protocol and
alpha are those of the run, and for 'all' also the number of pairs. `protocol` is 'unknown' where nobody knows.
"""

import io
from importlib import resources

import pandas as pd

COLUMNS = ["method", "source", "dataset", "protocol", "alpha", "category", "n_pairs", "pck"]


def published() -> pd.DataFrame:
    """All published numbers, COLUMNS; PCK in percent, n_pairs missing where it is not told."""
    text = resources.files("pipeline").joinpath("published.csv").read_text("utf-8")
    return pd.read_csv(io.StringIO(text), dtype={"n_pairs": "Int64"})[COLUMNS]


def beside(metrics: pd.DataFrame, run: str) -> pd.DataFrame:
    """The run's own numbers and all published ones of the same data sets, alphas and groups, in COLUMNS and two more.

    metrics: METRICS. run: what the run is called in column `method`.
    `direction` is the run's. `comparable` tells whether a row may be set beside the run's of its data set, category and
    alpha under some protocol of the run; the run's own always are.
    """
    chosen = metrics[metrics["group_kind"].isin(["category", "all"]) & (metrics["subset"] == "all")]
    own = chosen.assign(method=run, source="this run", category=chosen["group"], comparable=True)
    average = own["pck_image"].where(own["n_pairs"] > 0)
    own = own.assign(pck=average)[[*COLUMNS, "direction", "comparable"]]
    others = published()
    keys = ["dataset", "category", "alpha"]
    others = others.merge(own[keys].drop_duplicates(), on=keys)
    alike = others.merge(own[[*keys, "protocol", "n_pairs"]], on=[*keys, "protocol"], how="left", suffixes=("", "_run"))
    known = alike["n_pairs_run"].notna() & (alike["n_pairs"].isna() | (alike["n_pairs"] == alike["n_pairs_run"]))
    alike = alike.assign(comparable=known).drop_duplicates(COLUMNS)
    return pd.concat([own, alike[[*COLUMNS, "comparable"]]], ignore_index=True)
