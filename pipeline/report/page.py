"""A run as one self-contained HTML page: numbers with their protocol and counts, plots, failures, time, drawn pairs."""

import base64
import io
from dataclasses import dataclass, replace
from itertools import groupby

import jinja2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.evaluation.keypoint_errors import (
    MATCH_COLUMNS,
    Failed,
    KeypointErrors,
    count_without_keypoints,
    keypoint_errors,
)
from pipeline.evaluation.metrics import read_metrics
from pipeline.evaluation.protocols import Protocol
from pipeline.report import gallery, plots, run_summary
from pipeline.report.calibration import point_confidence
from pipeline.report.numbers import AVERAGES, HEADLINE_ALPHA, Group, Numbers, numbers, protocols_of
from pipeline.report.svg import Plot
from pipeline.runs.parts import read_matches
from pipeline.runs.selection import planned_pairs
from pipeline.visualization.flow import draw_wheel

MAX_DRAWN_CATEGORIES = 18
"""Of all data sets together: a drawn pair has about 60 kB and its flow 15 kB, six of each category make 8 MB."""
MAX_TABLE_CATEGORIES = 200
"""Rows of one table."""
_DRAWING_COLUMNS = ("matcher", "point_confidence", "flow_hw")


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """One data set under one protocol in one direction."""

    number: int
    """Its place on the page, from 0."""
    dataset: str
    protocol: Protocol
    direction: str
    numbers: Numbers
    curve: Plot | None
    errors: plots.Errors | None
    confidence: plots.Confidence | str | None

    @property
    def description(self) -> tuple[str, str]:
        """The protocol's name, and what it is."""
        return self.protocol.name, self.protocol.describe(self.direction)

    @property
    def listed(self) -> list[Group]:
        """The categories of its table, by name."""
        return self.numbers.categories[:MAX_TABLE_CATEGORIES]

    @property
    def anchors(self) -> dict[str, str]:
        """Where the page has the row of each listed category."""
        return {group.name: f"category-{self.number}-{row}" for row, group in enumerate(self.listed)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Album:
    """The drawn pairs of one data set."""

    number: int
    """Its place on the page, from 0."""
    section: Section
    """The numbers they are judged by."""
    n_categories: int
    """How many could be drawn."""
    categories: list[tuple[str, list[gallery.Picture]]]
    """Those that are, by name."""

    @property
    def anchors(self) -> dict[str, str]:
        """Where the page has the pairs of each drawn category."""
        return {category: f"pairs-{self.number}-{row}" for row, (category, _) in enumerate(self.categories)}

    @property
    def has_flow(self) -> bool:
        """Whether any flow is drawn."""
        return any(picture.flow for _, pictures in self.categories for picture in pictures)


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
    columns = dict.fromkeys([*MATCH_COLUMNS, *run_summary.RUN_COLUMNS, *_DRAWING_COLUMNS])
    matches = read_matches(matches_uri, list(columns))
    about = metrics.schema.metadata or {}
    evaluated = about.get(b"fingerprint", b"").decode()
    fingerprint = ", ".join(pc.unique(matches["fingerprint"]).to_pylist())
    if fingerprint != evaluated:
        raise ValueError(
            f"{metrics_uri} was evaluated from other matches than {matches_uri} holds (fingerprint "
            f"{evaluated or 'none'}, here {fingerprint or 'none'}); run python -m jobs.evaluate again"
        )
    matches = matches.filter(pc.is_in(matches["pair_id"], pairs["pair_id"]))
    failed: Failed = "exclude" if about.get(b"failed") == b"exclude" else "wrong"

    sections: list[Section] = []
    albums: list[Album] = []
    protocols = protocols_of(metrics)
    summaries = metrics.filter(pc.not_equal(metrics["group_kind"], "pair")).to_pandas()
    dataset_of_pair = pc.fill_null(pairs["dataset"], "unknown").to_numpy()
    for (name, direction), measured in summaries.groupby(["protocol", "direction"], sort=False):
        if name not in protocols:
            raise ValueError(f"{metrics_uri} does not say what protocol {name} is; run python -m jobs.evaluate again")
        protocol = protocols[name]
        errors = every_point = keypoint_errors(matches, pairs, protocol, direction)
        if protocol.points == "inside":
            # confidences and drawn points are of all keypoints
            every_point = keypoint_errors(matches, pairs, replace(protocol, points="all"), direction)
        confidence = point_confidence(matches, pairs, every_point, direction)
        if unmeasured := set(dataset_of_pair) - set(measured["dataset"]):
            raise ValueError(
                f"{metrics_uri} is of another manifest: it has nothing of {', '.join(sorted(unmeasured))}; "
                "run python -m jobs.evaluate again"
            )
        for dataset, of_dataset in measured.groupby("dataset", sort=False):
            here = dataset_of_pair == dataset
            found, scores_here = numbers(of_dataset, protocol), errors.select(here)
            _refuse_stale(found, scores_here, failed, f"{metrics_uri} is older than {matches_uri}", dataset)
            confidence_here = confidence[np.repeat(here, every_point.n_points)]
            sections.append(
                Section(
                    number=len(sections),
                    dataset=dataset,
                    protocol=protocol,
                    direction=direction,
                    numbers=found,
                    curve=plots.curve(scores_here, pairs["category"].filter(pa.array(here)), failed),
                    errors=plots.errors(scores_here, found.alpha),
                    confidence=plots.confidence(every_point.select(here), confidence_here, found.alpha),
                )
            )
        if not albums:
            answers = matches.filter(pc.equal(matches["direction"], direction))
            drawable = _drawable(answers, pairs)
            most = pairs_per_category, MAX_DRAWN_CATEGORIES
            choices = gallery.choose(every_point, pairs, drawable, HEADLINE_ALPHA, *most)
            pictures = gallery.draw(
                choices,
                every_point,
                answers,
                pairs,
                HEADLINE_ALPHA,
                matches_uri=matches_uri,
                pairs_uri=pairs_uri,
                image_root=image_root,
            )
            albums = _albums(pictures, pairs.filter(pa.array(drawable)), sections)

    page = jinja2.Environment(
        loader=jinja2.PackageLoader("pipeline.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    ).get_template("page.html")
    return page.render(
        matcher=", ".join(pc.unique(matches["matcher"]).to_pylist()),
        fingerprint=fingerprint,
        matches_uri=matches_uri,
        pairs_uri=pairs_uri,
        n_pairs=pairs.num_rows,
        n_without_keypoints=count_without_keypoints(pairs),
        coverage=run_summary.coverage(matches, pairs.num_rows),
        failed_count=failed,
        sections=sections,
        averages=AVERAGES,
        failures=run_summary.failures(matches),
        timing=run_summary.timing(matches),
        albums=albums,
        album_of={found.section.dataset: found for found in albums},
        wheel=_wheel_uri() if any(found.has_flow for found in albums) else None,
        alpha=HEADLINE_ALPHA,
        max_drawn_categories=MAX_DRAWN_CATEGORIES,
    )


def _refuse_stale(found: Numbers, errors: KeypointErrors, failed: Failed, suspicion: str, dataset: str) -> None:
    """ValueError if the matches say other counts than the metrics."""
    counts = int(np.count_nonzero(errors.failed)), int(errors.n_counted(failed).sum())
    if counts != (found.overall.n_failed, found.overall.n_points):
        raise ValueError(
            f"{suspicion} or of another manifest: it counts {found.overall.n_failed} failed pairs and "
            f"{found.overall.n_points} keypoints of {dataset}, there are {counts[0]} and {counts[1]}; "
            "run python -m jobs.evaluate again"
        )


def _albums(pictures: list[gallery.Picture], drawable: pa.Table, sections: list[Section]) -> list[Album]:
    """The pictures by category of every data set that has a pair to draw; `sections` has one of each."""
    names = pa.table({name: pc.fill_null(drawable[name], "unknown") for name in ("dataset", "category")})
    n_categories = names.to_pandas().groupby("dataset")["category"].nunique()
    by_category = groupby(pictures, lambda picture: (picture.choice.dataset, picture.choice.category))
    drawn = [(*key, list(group)) for key, group in by_category]
    section_of = {section.dataset: section for section in sections}
    return [
        Album(
            number=number,
            section=section_of[dataset],
            n_categories=count,
            categories=[(category, found) for of, category, found in drawn if of == dataset],
        )
        for number, (dataset, count) in enumerate(n_categories.items())
    ]


def _drawable(answers: pa.Table, pairs: pa.Table) -> np.ndarray:
    """(P,) bool: pairs with an answer that can be seen, keypoints or flow."""
    has_points = pc.greater(pc.fill_null(pc.list_value_length(answers["query_xy_px"]), 0), 0)
    visible = pc.and_(pc.equal(answers["status"], "ok"), pc.or_(has_points, pc.is_valid(answers["flow_hw"])))
    return pc.is_in(pairs["pair_id"], answers.filter(visible)["pair_id"].combine_chunks()).to_numpy()


def _wheel_uri() -> str:
    buffer = io.BytesIO()
    draw_wheel().save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
