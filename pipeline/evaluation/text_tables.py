"""METRICS and what is made of them as text: for a terminal, for papers, for other programs."""

from typing import Literal

import pandas as pd

from pipeline.evaluation.metrics import per_category

Format = Literal["text", "markdown", "latex", "csv", "json"]
"""Three for people, one table per data set, protocol and direction; two for programs, which are one tidy table."""

KEYS = ["dataset", "protocol", "direction", "subset"]
COUNTS = ("pairs", "keypoints", "failed")


def summary(metrics: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """One table of METRICS: categories, all with the ends of its interval, and the other averages.

    rows: those of group 'all' of one data set, protocol, direction and subset; one per alpha.
    Values are text. The index is the name of a row; columns are the counts and PCK@alpha.
    """
    first = rows.iloc[0]
    table = per_category(metrics, **{key: first[key] for key in KEYS})
    names = {
        "pck_image_low": "all, 95 % from",
        "pck_image_high": "all, 95 % to",
        "pck_point": "all keypoints",
        "pck_class_mean": "class mean",
    }
    further = rows.set_index("alpha")[list(names)].T.set_axis(list(names.values()))
    further = further.set_axis([f"PCK@{alpha:g}" for alpha in rows["alpha"]], axis=1).dropna(how="all")
    table = pd.concat([table, further])
    for column in table.columns:
        shown = "{:,.0f}" if column in COUNTS else "{:.1f}"
        absent = "" if column in COUNTS else "-"
        table[column] = [shown.format(value) if pd.notna(value) else absent for value in table[column]]
    return table


def as_text(table: pd.DataFrame, form: Format) -> str:
    """A table in one of the formats; the index is its first column in those for people, and left out of the others."""
    if form == "csv":
        return table.to_csv(index=False).rstrip("\n")
    if form == "json":
        return str(table.to_json(orient="records", indent=1))
    aligned = "l" + "r" * table.shape[1]
    if form == "latex":
        style = table.style.format(escape="latex")
        for axis in (0, 1):
            style = style.format_index(escape="latex", axis=axis)
        return style.to_latex(column_format=aligned, hrules=True).rstrip("\n")
    if form == "markdown":
        table = table.rename(index=lambda name: str(name).replace("|", "\\|"))
        alignment = ["left", *["right"] * table.shape[1]]
        return str(table.to_markdown(disable_numparse=True, colalign=alignment))
    return table.to_string()
