"""A run as one self-contained HTML page: numbers with their protocol and counts, plots, failures, time, drawn pairs."""

import base64
import io
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
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
from pipeline.evaluation.reliability import point_confidence
from pipeline.io.manifest import Manifest
from pipeline.pseudo_labels.calibration import Calibration, read_calibration
from pipeline.pseudo_labels.finished_run import finished_run
from pipeline.pseudo_labels.judged_points import MATCH_COLUMNS as JUDGED_COLUMNS
from pipeline.pseudo_labels.judged_points import calibrated_probability
from pipeline.report import plots, run_summary
from pipeline.report.gallery import GALLERY_COLUMNS, DrawnExample, choose_examples, draw_examples, has_visible_match
from pipeline.report.numbers import AVERAGES, HEADLINE_ALPHA, GroupNumbers, Numbers, protocols_of, read_numbers
from pipeline.report.rendering import template
from pipeline.report.svg import Plot
from pipeline.runs.parts import read_matches
from pipeline.runs.selection import planned_pairs
from pipeline.visualization.flow import draw_wheel

MAX_DRAWN_CATEGORIES = 18
"""Maximum number of drawn categories of all data sets: a drawn pair has about 60 kB and its flow 15 kB, so that six of
each category make 8 MB."""
MAX_TABLE_CATEGORIES = 200
"""Maximum number of categories in a table."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Section:
    """One data set under one protocol in one direction."""

    number: int
    """Position on the page, from 0."""
    dataset: str
    protocol: Protocol
    direction: str
    numbers: Numbers
    curve: Plot | None
    errors: plots.ErrorHistogram | None
    confidence: plots.ConfidencePlots | str | None
    calibrated: plots.ConfidencePlots | str | None
    """The same of the probabilities of a calibration; None without one."""

    @property
    def description(self) -> tuple[str, str]:
        """Name and description of the protocol."""
        return self.protocol.name, self.protocol.describe(self.direction)

    @property
    def listed(self) -> list[GroupNumbers]:
        """The categories of its table, by name."""
        return self.numbers.categories[:MAX_TABLE_CATEGORIES]

    @property
    def anchors(self) -> dict[str, str]:
        """The HTML id of each listed category's row."""
        return {group.name: f"category-{self.number}-{row}" for row, group in enumerate(self.listed)}


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """The drawn pairs of one data set."""

    number: int
    """Position on the page, from 0."""
    section: Section
    """The section whose protocol and direction the examples were chosen by."""
    n_categories: int
    """Categories with a pair that could be drawn."""
    categories: list[tuple[str, list[DrawnExample]]]
    """The drawn categories, by name."""

    @property
    def anchors(self) -> dict[str, str]:
        """The HTML id of each drawn category's pairs."""
        return {category: f"pairs-{self.number}-{row}" for row, (category, _) in enumerate(self.categories)}

    @property
    def has_flow(self) -> bool:
        """Whether any flow is drawn."""
        return any(example.flow for _, examples in self.categories for example in examples)


def render_report(
    metrics_uri: str,
    matches_uri: str,
    pairs_uri: str,
    *,
    calibration_uri: str | None = None,
    image_root: str | None = None,
    pairs_per_category: int = 2,
) -> str:
    """The HTML of a run that was matched and evaluated; the same run gives the same page.

    calibration_uri: a calibration of the run's matcher, whose probabilities are drawn beside the confidences.
    image_root: the folder or URI that relative image URIs of the manifest are below.
    pairs_per_category: how many best, worst and random pairs are drawn of each category.
    Protocols of flow are left out. Raises ValueError if the metrics are of other matches, or of flow alone, or the
    calibration of another matcher or by signals that the run lacks.
    """
    run = _read_run(metrics_uri, matches_uri, pairs_uri, calibration_uri)
    sections: list[Section] = []
    galleries: list[Gallery] = []
    for keys, metrics in run.metrics.groupby(["protocol", "direction"], sort=False):
        name, direction = map(str, keys)
        protocol = run.protocol(name)
        if protocol.of == "flow":
            continue
        errors = all_errors = keypoint_errors(run.matches, run.pairs, protocol, direction)
        if protocol.points == "inside":
            # confidences and drawn points are of all keypoints
            all_errors = keypoint_errors(run.matches, run.pairs, replace(protocol, points="all"), direction)
        sections += _sections(run, metrics, protocol, direction, errors, all_errors, len(sections))
        if not galleries:
            galleries = _galleries(run, sections, direction, all_errors, image_root, pairs_per_category)
    if not sections and len(run.metrics):
        raise ValueError(f"{metrics_uri} has only protocols of flow, and the page shows those of keypoints")
    return _render(run, sections, galleries)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Run:
    """The tables that a page is made from."""

    metrics_uri: str
    matches_uri: str
    pairs_uri: str
    metrics: pd.DataFrame
    """METRICS without single pairs."""
    protocols: dict[str, Protocol]
    failed: Failed
    fingerprint: str
    matches: pa.Table
    """MATCHES rows of the planned pairs."""
    pairs: pa.Table
    """The planned pairs, without inline images."""
    calibration: Calibration | None
    dataset: np.ndarray
    """(P,) str: the data set of each pair, 'unknown' for null."""

    def protocol(self, name: str) -> Protocol:
        """The protocol that the metrics call by this name. Raises ValueError if they lack its definition."""
        if name not in self.protocols:
            raise ValueError(f"{self.metrics_uri} does not say what protocol {name} is; run nemf evaluate again")
        return self.protocols[name]


def _read_run(metrics_uri: str, matches_uri: str, pairs_uri: str, calibration_uri: str | None) -> _Run:
    """Raises ValueError if the metrics were evaluated from other matches or with another manifest."""
    calibration = None if calibration_uri is None else read_calibration(calibration_uri)
    if calibration is not None:
        matched = finished_run(matches_uri)
        calibration.check_matcher(matched.config["matcher"], matched.matcher_fingerprint, matches_uri)
    metrics = read_metrics(metrics_uri)
    with Manifest(pairs_uri) as manifest:
        pairs = planned_pairs(manifest, matches_uri)
        manifest_digest = manifest.digest()
    columns = [*MATCH_COLUMNS, *run_summary.RUN_COLUMNS, *GALLERY_COLUMNS, "matcher", "point_confidence"]
    if calibration is not None:
        columns += JUDGED_COLUMNS
    matches = read_matches(matches_uri, list(dict.fromkeys(columns)))
    metadata = metrics.schema.metadata or {}
    evaluated = metadata.get(b"fingerprint", b"").decode()
    fingerprint = ", ".join(pc.unique(matches["fingerprint"]).to_pylist())
    if fingerprint != evaluated:
        raise ValueError(
            f"{metrics_uri} was evaluated from other matches than {matches_uri} holds (fingerprint "
            f"{evaluated or 'none'}, here {fingerprint or 'none'}); run nemf evaluate again"
        )
    if metadata.get(b"manifest_digest", manifest_digest.encode()).decode() != manifest_digest:
        raise ValueError(
            f"{metrics_uri} was evaluated with another manifest than {pairs_uri}: give the one that was evaluated, "
            "or run nemf evaluate again"
        )
    return _Run(
        metrics_uri=metrics_uri,
        matches_uri=matches_uri,
        pairs_uri=pairs_uri,
        metrics=metrics.filter(pc.not_equal(metrics["group_kind"], "pair")).to_pandas(),
        protocols=protocols_of(metrics),
        failed="exclude" if metadata.get(b"failed") == b"exclude" else "wrong",
        fingerprint=fingerprint,
        matches=matches.filter(pc.is_in(matches["pair_id"], pairs["pair_id"])),
        calibration=calibration,
        pairs=pairs,
        dataset=pc.fill_null(pairs["dataset"], "unknown").to_numpy(),
    )


def _sections(
    run: _Run,
    metrics: pd.DataFrame,
    protocol: Protocol,
    direction: str,
    errors: KeypointErrors,
    all_errors: KeypointErrors,
    first_number: int,
) -> list[Section]:
    """One section per data set. Raises ValueError if the metrics are not of this run and manifest.

    metrics: METRICS rows of this protocol and direction. errors: under the protocol. all_errors: of all annotated
        keypoints, whether the protocol counts them or not.
    """
    confidence = point_confidence(run.matches, run.pairs, all_errors, direction)
    probability = None
    if run.calibration is not None:
        probability = calibrated_probability(run.calibration, run.matches, run.pairs, all_errors, direction)
    if unmeasured := set(run.dataset) - set(metrics["dataset"]):
        raise ValueError(
            f"{run.metrics_uri} is of another manifest: it has nothing of {', '.join(sorted(unmeasured))}; "
            "run nemf evaluate again"
        )
    sections = []
    for number, (key, rows) in enumerate(metrics.groupby("dataset", sort=False), first_number):
        dataset = str(key)
        mask = run.dataset == dataset
        numbers, dataset_errors = read_numbers(rows, protocol), errors.select(mask)
        _refuse_stale(run, numbers, dataset_errors, dataset)
        of_dataset, points = all_errors.select(mask), np.repeat(mask, all_errors.n_points)
        sections.append(
            Section(
                number=number,
                dataset=dataset,
                protocol=protocol,
                direction=direction,
                numbers=numbers,
                curve=plots.pck_curve(dataset_errors, run.pairs["category"].filter(pa.array(mask)), run.failed),
                errors=plots.error_histogram(dataset_errors, numbers.alpha),
                confidence=plots.confidence_plots(of_dataset, confidence[points], numbers.alpha),
                calibrated=None
                if probability is None
                else plots.confidence_plots(
                    of_dataset, probability[points], numbers.alpha, name="calibrated probability"
                ),
            )
        )
    return sections


def _refuse_stale(run: _Run, numbers: Numbers, errors: KeypointErrors, dataset: str) -> None:
    """Raises ValueError if failed pairs or keypoints of a data set are not as many as in the metrics."""
    n_failed, n_points = int(np.count_nonzero(errors.failed)), int(errors.n_counted(run.failed).sum())
    if (n_failed, n_points) != (numbers.overall.n_failed, numbers.overall.n_points):
        raise ValueError(
            f"{run.metrics_uri} is older than {run.matches_uri} or of another manifest: it counts "
            f"{numbers.overall.n_failed} failed pairs and {numbers.overall.n_points} keypoints of {dataset}, "
            f"there are {n_failed} and {n_points}; run nemf evaluate again"
        )


def _galleries(
    run: _Run,
    sections: list[Section],
    direction: str,
    errors: KeypointErrors,
    image_root: str | None,
    pairs_per_category: int,
) -> list[Gallery]:
    """The examples of every data set that has a pair to draw; `sections` has one of each data set.

    errors: of all annotated keypoints.
    """
    matches = run.matches.filter(pc.equal(run.matches["direction"], direction))
    drawable = has_visible_match(matches, run.pairs)
    limits = pairs_per_category, MAX_DRAWN_CATEGORIES
    examples = choose_examples(errors, run.pairs, drawable, HEADLINE_ALPHA, *limits)
    drawn = draw_examples(
        examples,
        errors,
        matches,
        run.pairs,
        HEADLINE_ALPHA,
        matches_uri=run.matches_uri,
        pairs_uri=run.pairs_uri,
        image_root=image_root,
    )
    by_category: dict[tuple[str, str], list[DrawnExample]] = {}
    for one in drawn:
        by_category.setdefault((one.example.dataset, one.example.category), []).append(one)
    category = pc.fill_null(run.pairs["category"], "unknown").to_numpy()
    n_categories = pd.Series(category[drawable]).groupby(run.dataset[drawable]).nunique()
    section_of = {section.dataset: section for section in sections}
    return [
        Gallery(
            number=number,
            section=section_of[dataset],
            n_categories=int(n_categories[dataset]),
            categories=[(category, group) for (other, category), group in by_category.items() if other == dataset],
        )
        for number, dataset in enumerate(n_categories.index)
    ]


def _render(run: _Run, sections: list[Section], galleries: list[Gallery]) -> str:
    return template("page.html").render(
        matcher=", ".join(pc.unique(run.matches["matcher"]).to_pylist()),
        calibration=run.calibration,
        fingerprint=run.fingerprint,
        matches_uri=run.matches_uri,
        pairs_uri=run.pairs_uri,
        n_pairs=run.pairs.num_rows,
        n_without_keypoints=count_without_keypoints(run.pairs),
        coverage=run_summary.coverage(run.matches, run.pairs.num_rows),
        failed_count=run.failed,
        sections=sections,
        averages=AVERAGES,
        failures=run_summary.failures(run.matches),
        timing=run_summary.timing(run.matches),
        galleries=galleries,
        gallery_of={gallery.section.dataset: gallery for gallery in galleries},
        wheel=_wheel_uri() if any(gallery.has_flow for gallery in galleries) else None,
        alpha=HEADLINE_ALPHA,
        max_drawn_categories=MAX_DRAWN_CATEGORIES,
    )


def _wheel_uri() -> str:
    buffer = io.BytesIO()
    draw_wheel().save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
