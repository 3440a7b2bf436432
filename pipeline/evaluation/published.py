"""PCK that papers published, from published.csv, and which of it compares with a run's.

A row is one number of one paper:

    source              where the number was read; `first_hand` is true if that is the method's own paper or code
    labels              what people must annotate for the method: none, coarse pose, keypoints, ...
    backbone            empty where it is not known
    protocol, direction 'unknown' where neither paper nor code gives them. spair: average over images, T of the target's
                        box; in a table of several methods the pixels may be those of another size. geoaware-point is
                        the average over keypoints
    category            'all', a category, or the part of the data set that papers report: a level of ap-10k, a measure
                        of soco, geometry-aware keypoints of spair
    n_pairs             empty where the source does not state it

A number is comparable where data set, protocol, direction, alpha, category and number of pairs are those of the run.
One whose number of pairs is not stated is therefore never comparable: it may be of another list of pairs.
"""

import io
from importlib import resources

import pandas as pd

COLUMNS = [
    *("method", "source", "first_hand", "labels", "backbone"),
    *("dataset", "protocol", "direction", "alpha", "category", "n_pairs", "pck"),
]
_SAME_IF_COMPARABLE = ["dataset", "protocol", "direction", "alpha", "category", "n_pairs"]


def published() -> pd.DataFrame:
    """All published numbers, COLUMNS; PCK in percent."""
    text = resources.files("pipeline.evaluation").joinpath("published.csv").read_text("utf-8")
    rows = pd.read_csv(io.StringIO(text), keep_default_na=False, na_values={"n_pairs": [""]})
    return rows[COLUMNS].astype({"n_pairs": "float64"})


def with_published(metrics: pd.DataFrame, run: str) -> pd.DataFrame:
    """The run's own numbers and all published ones of the same data sets, alphas and categories.

    metrics: METRICS. run: the name of the run in column `method`.
    Columns are COLUMNS and `comparable`, which is True for the run's own rows; labels and backbone of these are empty.
    PCK is missing where the run had nothing to average over.
    """
    summary = metrics[metrics["group_kind"].isin(["category", "level", "all"]) & (metrics["subset"] == "all")]
    own = summary.assign(method=run, source="this run", first_hand=True, labels="", backbone="")
    own = own.assign(category=summary["group"], comparable=True)
    own = own.assign(pck=own["pck_image"].where(own["n_pairs"] > 0))[[*COLUMNS, "comparable"]]
    keys = own[["dataset", "alpha", "category"]].drop_duplicates()
    papers = published().merge(keys, on=list(keys.columns))
    same = own[_SAME_IF_COMPARABLE].drop_duplicates()
    merged = papers.merge(same, on=_SAME_IF_COMPARABLE, how="left", indicator="in_run")["in_run"]
    comparable = (merged == "both").to_numpy() & papers["n_pairs"].notna().to_numpy()
    return pd.concat([own, papers.assign(comparable=comparable)], ignore_index=True)
