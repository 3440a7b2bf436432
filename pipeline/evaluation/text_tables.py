"""METRICS, differences and published numbers as text: for a terminal, for papers, for other programs."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import pandas as pd

from pipeline.evaluation.evaluate import Unscored
from pipeline.evaluation.keypoint_errors import Failed
from pipeline.evaluation.metrics import per_category
from pipeline.evaluation.protocols import Protocol
from pipeline.evaluation.published import with_published
from schemas.metrics import MEASURES

Format = Literal["text", "markdown", "latex", "csv", "json"]
PROGRAM_FORMATS: tuple[Format, ...] = ("csv", "json")
"""One tidy table; the other formats have one table per data set, protocol, direction and subset."""

_KEYS = ["dataset", "protocol", "direction", "subset"]
_COUNTS = ("pairs", "keypoints", "failed")
_OF_TWINS = ("twin", "both")
_PUBLISHED_ALPHAS = (0.01, 0.05, 0.1)
_AVERAGES = {"image": "images", "point": "keypoints", "class": "categories"}


def metrics_tables(metrics: pd.DataFrame, protocols: Sequence[Protocol], failed: Failed, form: Format) -> str:
    """METRICS as one table per data set, protocol, direction and subset, each under its protocol and counts."""
    by_name = {protocol.name: protocol for protocol in protocols}
    lines: list[str] = []
    for _, rows in metrics[metrics["group_kind"] == "all"].groupby(_KEYS, sort=False):
        overall = rows.iloc[0]
        dataset, name, direction, subset = overall[_KEYS]
        treated = f" ({'counted wrong' if failed == 'wrong' else 'excluded'})" if overall.n_failed else ""
        lines += [
            f"\n{dataset}, protocol {name}{_subset_note(subset)}",
            f"  {by_name[name].describe(direction)}",
            "  in the table: average over images, percent, where it does not say otherwise",
            f"  {overall.n_pairs:,} pairs, {overall.n_points:,} "
            f"{'pixels' if by_name[name].of == 'flow' else 'keypoints'}; "
            f"{overall.n_failed:,} pairs failed or missing{treated}",
            as_text(_summary_of(by_name[name], metrics, rows), form) if overall.n_pairs else "  nothing to score",
        ]
    return "\n".join(lines)


def difference_tables(
    differences: pd.DataFrame, run: str, other: str, protocols: Sequence[Protocol], form: Format
) -> str:
    """The other run's PCK less the run's under each protocol's own average, with its 95 % interval.

    differences: as pipeline.evaluation.compare.compare returns them.
    """
    lines = [f"\n{other} less {run}: points of PCK [95 % interval]"]
    if differences.empty:
        return "\n".join([*lines, "  nothing to compare"])
    average_of = {protocol.name: protocol.average for protocol in protocols}
    for _, scope_rows in differences.groupby(_KEYS, sort=False):
        dataset, name, direction, subset = scope_rows.iloc[0][_KEYS]
        average = average_of[name]
        # categories have no average over categories
        own = np.where(scope_rows["group_kind"] == "all", average, "image" if average == "class" else average)
        rows = scope_rows[scope_rows["group_kind"].isin(["category", "all"]) & (scope_rows["average"] == own)]
        overall = rows[rows["group_kind"] == "all"].iloc[0]
        lines += [
            f"\n{dataset}, protocol {name}, {direction.replace('_', ' ')}, "
            f"average over {_AVERAGES[average]}{_subset_note(subset)}",
            f"  failed or missing: {overall['n_failed']:,} pairs of this run, "
            f"{overall['n_failed_other']:,} of the other",
            as_text(_difference_table(rows), form),
        ]
    return "\n".join(lines)


def published_tables(metrics: pd.DataFrame, run: str, form: Format, *, dim: bool) -> str:
    """Published PCK at alpha .01, .05 and .1 of the run's data sets and categories, with the run's where they compare.

    dim: in format text, grey the lines that do not compare, for a terminal. Empty where nothing is published.
    """
    rows = with_published(metrics, run)
    own = rows[rows["source"] == "this run"]
    papers = rows[(rows["source"] != "this run") & rows["alpha"].isin(_PUBLISHED_ALPHAS)]
    lines: list[str] = []
    for (dataset, alpha), of_alpha in papers.groupby(["dataset", "alpha"]):
        text = as_text(_published_table(of_alpha, own[own["alpha"] == alpha]), form)
        lines += [
            f"\n{dataset}: published PCK@{alpha:g}, and this run's under the same protocol",
            _dimmed(text) if form == "text" and dim else text,
            "  a run's number is shown where it is of the same direction and number of pairs",
        ]
    return "\n".join(lines)


def unscored_notes(unscored: Unscored) -> str:
    """Text about the pairs and matches that are in no average; empty if there are none."""
    lines = []
    if unscored.n_without_keypoints:
        lines.append(f"\n{unscored.n_without_keypoints:,} pairs have no keypoints to score and are in no average")
    if unscored.n_foreign:
        lines.append(f"\n{unscored.n_foreign:,} matches are of pairs that this manifest does not plan and are left out")
    return "\n".join(lines)


def tidy_table(metrics: pd.DataFrame, differences: dict[str, pd.DataFrame], run: str) -> pd.DataFrame:
    """The one table for programs: METRICS without single pairs, or the differences to other runs where there are any.

    differences: by the other run, as pipeline.evaluation.compare.compare returns them; columns run and other are added.
    """
    if not differences:
        return metrics[metrics["group_kind"] != "pair"]
    return pd.concat([rows.assign(run=run, other=other) for other, rows in differences.items()], ignore_index=True)


def summary(metrics: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """One table of METRICS: categories, all with the ends of its interval, and the other averages.

    rows: those of group 'all' of one data set, protocol, direction and subset; one per alpha.
    Cells are text. The index is the name of a row; columns are the counts and PCK@alpha.
    """
    table = per_category(metrics, **{key: rows.iloc[0][key] for key in _KEYS})
    labels = {
        "pck_image_low": "all, 95 % from",
        "pck_image_high": "all, 95 % to",
        "pck_point": "all keypoints",
        "pck_class_mean": "class mean",
        **{f"{measure}_image": f"all, {measure}" for measure in MEASURES if measure not in _OF_TWINS},
        **{f"{measure}_point": f"n11 keypoints, {measure}" for measure in _OF_TWINS},
        "kap": "class mean, KAP",
    }
    averages = rows.set_index("alpha")[list(labels)].T.set_axis(list(labels.values()))
    averages = averages.set_axis([f"PCK@{alpha:g}" for alpha in rows["alpha"]], axis=1).dropna(how="all")
    table = pd.concat([table, averages, _mirror_cases(metrics, rows)])
    for column in table.columns:
        pattern, absent = ("{:,.0f}", "") if column in _COUNTS else ("{:.1f}", "-")
        table[column] = [pattern.format(value) if pd.notna(value) else absent for value in table[column]]
    return table


def _summary_of(protocol: Protocol, metrics: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """summary in the words of the protocol: pixels and FAcc for flow."""
    table = summary(metrics, rows)
    if protocol.of == "flow":
        table = table.rename(index=lambda name: "all pixels" if name == "all keypoints" else name)
        table = table.rename(columns=lambda name: name.replace("keypoints", "pixels").replace("PCK", "FAcc"))
    return table


def _mirror_cases(metrics: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The average over keypoints of each case of left and right, with its counts; empty under most protocols.

    rows: those of group 'all' of one data set, protocol, direction and subset.
    """
    cases = metrics[metrics["group_kind"] == "mirror_case"].merge(rows[_KEYS].drop_duplicates(), on=_KEYS)
    if cases.empty:
        return pd.DataFrame()
    table = cases.pivot(index="group", columns="alpha", values="pck_point")
    table.columns = [f"PCK@{alpha:g}" for alpha in table.columns]
    counts = cases.drop_duplicates("group").set_index("group")[["n_pairs", "n_points", "n_failed"]]
    table = pd.concat([counts.set_axis(list(_COUNTS), axis=1), table], axis=1)
    return table.rename(index=lambda name: f"{name} keypoints")


def as_text(table: pd.DataFrame, form: Format) -> str:
    """A table in one of the formats; the index is its first column, and left out in PROGRAM_FORMATS."""
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


def _subset_note(subset: str) -> str:
    return {"leak_free": ", leak-free pairs only", "without_flip": ", pairs that are not mirrored only"}.get(subset, "")


def _difference_table(rows: pd.DataFrame) -> pd.DataFrame:
    """One row per group: its number of pairs, and per alpha the difference with its interval as text."""
    ends = rows[["difference", "difference_low", "difference_high"]].to_numpy()
    cells = [f"{value:+.1f}" + (f" [{low:+.1f}, {high:+.1f}]" if np.isfinite(low) else "") for value, low, high in ends]
    keys = ["group_kind", "group"]
    table = rows.assign(cell=cells).pivot(index=keys, columns="alpha", values="cell")
    table.columns = [f"PCK@{alpha:g}" for alpha in table.columns]
    n_pairs = rows.drop_duplicates(keys).set_index(keys)["n_pairs"]
    table.insert(0, "pairs", n_pairs.map("{:,}".format))
    return table.loc[n_pairs.index].droplevel("group_kind").rename_axis(None)


def _published_table(papers: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    """One row per method and protocol, followed by the run's numbers that compare with it; a column per category."""
    columns = {}
    for (method, name), rows in papers.groupby(["method", "protocol"], sort=False):
        comparable = rows[rows["comparable"]]
        columns[f"{method} ({name}{'' if len(comparable) else ', not comparable'})"] = rows.set_index("category")["pck"]
        keys = ["dataset", "protocol", "direction", "category"]
        own_rows = comparable[keys].merge(own, on=keys)
        if len(own_rows):
            columns[f"  this run ({name})"] = own_rows.set_index("category")["pck"]
    table = pd.DataFrame(columns).T
    categories = [category for category in table.columns if category != "all"]
    table = table[[*categories, *(["all"] if "all" in table.columns else [])]]
    return table.map(lambda value: "-" if pd.isna(value) else f"{value:.1f}")


def _dimmed(text: str) -> str:
    """Lines that are not comparable in the terminal's dim style."""
    return "\n".join(f"\033[2m{line}\033[0m" if "not comparable" in line else line for line in text.splitlines())
