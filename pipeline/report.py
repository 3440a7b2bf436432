"""A run as one self-contained HTML page: numbers with their protocol and counts, failures, timing, drawn pairs."""

from dataclasses import dataclass
from importlib import resources
from itertools import groupby
from typing import Any

import jinja2
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from nemf import pck
from pipeline import album
from pipeline.evaluate import planned_pairs
from pipeline.metrics import per_category, read_metrics
from pipeline.parts import read_matches
from pipeline.protocols import protocol
from pipeline.scores import MATCH_COLUMNS, Failed, Scores, score, without_keypoints

HEADLINE_ALPHA = 0.1
"""The alpha of the large numbers, and the one at which drawn points are green or red."""
MAX_DRAWN_CATEGORIES = 18
"""Of all data sets together: a drawn pair has about 60 kB, six of each category make 6.5 MB."""
MAX_TABLE_CATEGORIES = 200
"""Rows of one table."""
_REPORT_COLUMNS = ("error_stage", "error_kind", "error_message", "flow_hw", "matcher", "milliseconds")
_CURVE_ALPHAS = np.linspace(0, 0.2, 41)
_MAX_CURVE_CATEGORIES = 20


def render_report(
    metrics_uri: str,
    matches_uri: str,
    pairs_uri: str,
    *,
    image_root: str | None = None,
    pairs_per_category: int = 2,
) -> str:
    """The HTML of a run that was matched and evaluated; the same run gives the same page.

    image_root: what relative image URIs of the manifest are relative to.
    pairs_per_category: how many best, worst and random pairs are drawn of each category.
    Raises ValueError if the metrics are of other matches.
    """
    metrics = read_metrics(metrics_uri)
    pairs = planned_pairs(pairs_uri, matches_uri)
    matches = read_matches(matches_uri, [*MATCH_COLUMNS, *_REPORT_COLUMNS])
    evaluated = (metrics.schema.metadata or {}).get(b"fingerprint", b"").decode()
    fingerprint = ", ".join(pc.unique(matches["fingerprint"]).to_pylist())
    if fingerprint != evaluated:
        raise ValueError(
            f"{metrics_uri} was evaluated from other matches than {matches_uri} holds (fingerprint "
            f"{evaluated or 'none'}, here {fingerprint or 'none'}); run python -m jobs.evaluate again"
        )
    matches = matches.filter(pc.is_in(matches["pair_id"], pairs["pair_id"]))
    failed: Failed = "exclude" if metrics.schema.metadata.get(b"failed") == b"exclude" else "wrong"

    sections: list[dict[str, Any]] = []
    albums: list[dict[str, Any]] = []
    frame = metrics.filter(pc.is_in(metrics["group_kind"], pa.array(["all", "category"]))).to_pandas()
    dataset_of_pair = pc.fill_null(pairs["dataset"], "unknown").to_numpy()
    for (name, direction), measured in frame.groupby(["protocol", "direction"], sort=False):
        scores = score(matches, pairs, protocol(name), direction)
        chosen = {"protocol": name, "direction": direction}
        for dataset, of_dataset in measured.groupby("dataset", sort=False):
            here = dataset_of_pair == dataset
            scores_here = scores.of(here)
            numbers = _numbers(of_dataset, chosen | {"dataset": dataset})
            counts = [np.count_nonzero(scores_here.failed), scores_here.n_counted(failed).sum()]
            if counts != [numbers["headline"]["n_failed"], numbers["headline"]["n_points"]]:
                raise ValueError(
                    f"{metrics_uri} is older than {matches_uri} or of another manifest: it counts "
                    f"{numbers['headline']['n_failed']} failed pairs and {numbers['headline']['n_points']} keypoints "
                    f"of {dataset}, there are {counts[0]} and {counts[1]}; run python -m jobs.evaluate again"
                )
            curve = _curve(scores_here, pairs["category"].filter(pa.array(here)), failed)
            about = {"dataset": dataset, "description": protocol(name).describe(direction), "curve": curve}
            sections.append(chosen | about | numbers)
        if not albums:
            answers = matches.filter(pc.equal(matches["direction"], direction))
            drawable = _drawable(answers, pairs)
            most = pairs_per_category, MAX_DRAWN_CATEGORIES
            choices = album.choose(scores, pairs, drawable, HEADLINE_ALPHA, *most)
            pictures = album.draw(
                choices,
                scores,
                answers,
                pairs,
                HEADLINE_ALPHA,
                matches_uri=matches_uri,
                pairs_uri=pairs_uri,
                image_root=image_root,
            )
            albums = [chosen | drawn for drawn in _albums(pictures, pairs.filter(pa.array(drawable)))]

    page = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    ).from_string(resources.files("pipeline").joinpath("report.html").read_text("utf-8"))
    return page.render(
        matcher=", ".join(pc.unique(matches["matcher"]).to_pylist()),
        fingerprint=fingerprint,
        matches_uri=matches_uri,
        pairs_uri=pairs_uri,
        n_pairs=pairs.num_rows,
        n_without_keypoints=without_keypoints(pairs),
        coverage=_coverage(matches, pairs.num_rows),
        failed_count=failed,
        sections=sections,
        plot=_PLOT,
        x_ticks={f"{alpha:g}": _plot_x(alpha) for alpha in np.linspace(0, _CURVE_ALPHAS[-1], 5)},
        y_ticks={f"{percent:g}": _plot_y(percent) for percent in np.linspace(0, 100, 5)},
        failures=_failures(matches),
        timing=_timing(matches),
        albums=albums,
        alpha=HEADLINE_ALPHA,
        max_drawn_categories=MAX_DRAWN_CATEGORIES,
    )


def _numbers(metrics: pd.DataFrame, chosen: dict[str, str]) -> dict[str, Any]:
    """The headline and the rows of the per-category table, for one data set, protocol and direction."""
    overall = metrics[metrics["group_kind"] == "all"]
    for column, value in chosen.items():
        overall = overall[overall[column] == value]
    alphas = sorted(overall["alpha"].unique())
    alpha = HEADLINE_ALPHA if HEADLINE_ALPHA in alphas else alphas[-1]
    headline = overall[overall["alpha"] == alpha].set_index("subset").to_dict("index")
    by_image, by_point = (per_category(metrics, **chosen, average=average) for average in ("image", "point"))
    percent = [f"PCK@{alpha:g}" for alpha in alphas]
    rows = [
        {"name": name, **counts, "image": _present(image), "point": _present(point)}
        for name, counts, image, point in zip(
            by_image.index,
            by_image[["pairs", "keypoints", "failed"]].to_dict("records"),
            by_image[percent].to_numpy(),
            by_point[percent].to_numpy(),
            strict=True,
        )
    ]
    means = overall[overall["subset"] == "all"].sort_values("alpha")["pck_class_mean"]
    return {
        "alphas": alphas,
        "alpha": alpha,
        "headline": headline["all"],
        "leak_free": headline.get("leak_free"),
        "n_categories": len(rows) - 1,
        "categories": rows[:-1][:MAX_TABLE_CATEGORIES],
        "n_pairs_left_out": sum(row["pairs"] for row in rows[:-1][MAX_TABLE_CATEGORIES:]),
        "overall": rows[-1],
        "class_means": _present(means.to_numpy()),
    }


def _present(percent: np.ndarray) -> list[float | None]:
    """Percent for the page: None instead of a missing value."""
    return [float(value) if pd.notna(value) else None for value in percent]


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of the plot of PCK over alpha, in the units of its SVG."""

    name: str
    style: str
    points: str
    label_y: float


_PLOT = {"left": 44, "right": 560, "top": 14, "bottom": 314}
_LABEL_STEP = 14


def _plot_x(alpha: np.ndarray) -> np.ndarray:
    return _PLOT["left"] + (_PLOT["right"] - _PLOT["left"]) * alpha / _CURVE_ALPHAS[-1]


def _plot_y(percent: np.ndarray) -> np.ndarray:
    return _PLOT["bottom"] - (_PLOT["bottom"] - _PLOT["top"]) * percent / 100


def _curve(scores: Scores, category_of_pair: pa.ChunkedArray, failed: Failed) -> list[_Line]:
    """PCK over alpha: both averages over all pairs, and each category's image average if there are few."""
    n_points = scores.n_counted(failed)
    counted = n_points > 0
    if not counted.any():
        return []
    n_points = n_points[counted]
    category = pc.fill_null(category_of_pair, "unknown").to_pandas()[counted]
    group, names = pd.factorize(category, sort=True)
    everything = np.zeros_like(group)
    image, point, by_category = [], [], []
    for alpha in _CURVE_ALPHAS:
        n_correct = scores.n_correct(alpha)[counted]
        image.append(pck.image_average(n_correct, n_points, everything, 1)[0])
        point.append(pck.point_average(n_correct, n_points, everything, 1)[0])
        by_category.append(pck.image_average(n_correct, n_points, group, len(names)))
    curves = [("all, image average", "image", np.array(image)), ("all, keypoint average", "point", np.array(point))]
    if 1 < len(names) <= _MAX_CURVE_CATEGORIES:
        curves += [(name, "category", values) for name, values in zip(names, np.transpose(by_category), strict=True)]
    x, y = _plot_x(_CURVE_ALPHAS), [_plot_y(values) for _, _, values in curves]
    label_y = _spread(np.array([line[-1] for line in y]))
    return [
        _Line(
            name=name,
            style=style,
            points=" ".join(f"{px:.1f},{py:.1f}" for px, py in zip(x, y[index], strict=True)),
            label_y=round(float(label_y[index]), 1),
        )
        for index, (name, style, _) in enumerate(curves)
    ]


def _spread(wanted_y: np.ndarray) -> np.ndarray:
    """Heights near the wanted ones, in their order, far enough apart for labels, none below the plot."""
    order = np.argsort(wanted_y, kind="stable")
    steps = _LABEL_STEP * np.arange(len(order))
    spread = np.maximum.accumulate(wanted_y[order] - steps) + steps
    room_below = _PLOT["bottom"] - steps[::-1]
    placed = np.empty_like(spread)
    placed[order] = np.minimum(spread, room_below)
    return placed


def _albums(pictures: list[album.Picture], drawable: pa.Table) -> list[dict[str, Any]]:
    """The pictures by category of every data set, and how many categories it has that could be drawn."""
    names = pa.table({name: pc.fill_null(drawable[name], "unknown") for name in ("dataset", "category")})
    n_categories = names.to_pandas().groupby("dataset")["category"].nunique()
    by_category = groupby(pictures, lambda picture: (picture.choice.dataset, picture.choice.category))
    drawn = [(*key, list(group)) for key, group in by_category]
    return [
        {"dataset": dataset, "n_categories": count, "categories": [found[1:] for found in drawn if found[0] == dataset]}
        for dataset, count in n_categories.items()
    ]


def _drawable(answers: pa.Table, pairs: pa.Table) -> np.ndarray:
    """(P,) bool: pairs with an answer that can be seen, keypoints or flow."""
    has_points = pc.greater(pc.fill_null(pc.list_value_length(answers["query_xy_px"]), 0), 0)
    visible = pc.and_(pc.equal(answers["status"], "ok"), pc.or_(has_points, pc.is_valid(answers["flow_hw"])))
    return pc.is_in(pairs["pair_id"], answers.filter(visible)["pair_id"].combine_chunks()).to_numpy()


def _coverage(matches: pa.Table, n_pairs: int) -> list[dict[str, Any]]:
    """How many pairs were answered, failed and are missing, per direction."""
    rows = matches.select(["direction", "status"]).to_pandas()
    found = []
    for direction, status in rows.groupby("direction")["status"]:
        n_ok = int((status == "ok").sum())
        failed, missing = len(status) - n_ok, n_pairs - len(status)
        found.append({"direction": direction, "ok": n_ok, "failed": failed, "missing": missing})
    return found


def _failures(matches: pa.Table) -> list[dict[str, Any]]:
    """Reasons with their number and one example, the most frequent first."""
    columns = ["pair_id", "error_stage", "error_kind", "error_message"]
    errors = matches.filter(pc.not_equal(matches["status"], "ok")).select(columns).to_pandas().fillna("not given")
    reasons = errors.groupby(["error_stage", "error_kind"], sort=True)
    table = reasons.first().assign(count=reasons.size()).reset_index()
    return table.sort_values("count", ascending=False, kind="stable").to_dict("records")


def _timing(matches: pa.Table) -> list[dict[str, Any]]:
    """Milliseconds per pair of each stage that was timed."""
    found = []
    for stage in matches.schema.field("milliseconds").type.names:
        values = pc.struct_field(matches["milliseconds"], stage).drop_null().to_numpy()
        if len(values):
            median, slow = np.percentile(values, [50, 95])
            found.append(
                {"stage": stage, "n": len(values), "median": median, "slow": slow, "total_s": values.sum() / 1000}
            )
    return found
