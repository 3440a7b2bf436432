"""Pseudo-labels as one self-contained HTML page: counts, expected precision, probabilities, and drawn pairs."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.matching.decode import DecodedImage, decode_rows
from pipeline.pseudo_labels.data_card import HOW_PRECISE, LICENCE, MAX_CATEGORIES, flat
from pipeline.pseudo_labels.label_counts import HISTOGRAM_BINS, LabelCounts
from pipeline.pseudo_labels.labels import labelled_tables, read_provenance
from pipeline.report.gallery import DRAWN_WIDTH_PX, jpeg_data_uri
from pipeline.report.rendering import template
from pipeline.report.svg import Axis, Bar, Plot, round_ticks
from pipeline.visualization.matches import draw_match

_BANDS = (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0)
"""Ends of the ranges of probability that are drawn."""
_PAIRS_OF_BAND = 6
_SALT = 0x9E3779B97F4A7C15
_BINS_OF_BAR = 2


@dataclass(frozen=True, kw_only=True)
class DrawnLabels:
    """The labels of one pair whose probability is in one range; without an image if they could not be drawn."""

    pair_id: str
    caption: str
    data_uri: str | None


@dataclass(kw_only=True)
class _Band:
    """The labels with a probability from `low` to `high`, and the pairs to draw: those whose id has the lowest hash."""

    low: float
    high: float
    n_labels: int = 0
    chosen: list[tuple[int, pa.Table]] = field(default_factory=list)
    """(hash, PAIRS row), the lowest hash first."""

    def add(self, pairs: pa.Table, hashes: np.ndarray, probability: np.ndarray, row: np.ndarray) -> None:
        """Consider these rows; probability, row: of each of their labels the probability and the index of the row."""
        inside = self.contains(probability)
        self.n_labels += int(inside.sum())
        rows = np.unique(row[inside])
        lowest = rows[np.argsort(hashes[rows], kind="stable")][:_PAIRS_OF_BAND]
        found = [(int(hashes[index]), pairs.take(pa.array([index]))) for index in lowest]
        self.chosen = sorted([*self.chosen, *found], key=lambda one: one[0])[:_PAIRS_OF_BAND]

    def contains(self, probability: np.ndarray) -> np.ndarray:
        """Which probabilities are in the range; it has its lower end, and the last range has both."""
        return (probability >= self.low) & ((probability < self.high) | (self.high == _BANDS[-1]))


def render_labels(labels_uri: str, *, image_root: str | None = None) -> str:
    """The HTML of a manifest that nemf pseudo-label wrote; the same manifest and images give the same page.

    image_root: the folder or URI that relative image URIs of the manifest are below.
    Raises ValueError for another manifest.
    """
    provenance = read_provenance(labels_uri)
    labels = LabelCounts()
    bands = [_Band(low=low, high=high) for low, high in pairwise(_BANDS)]
    for table in labelled_tables(labels_uri):
        labels.add(table)
        hashes = pd.util.hash_array(table["pair_id"].to_numpy().astype(object), categorize=False)
        column = table["keypoint_probability"].combine_chunks()
        probability = pc.list_flatten(column).to_numpy(zero_copy_only=False).astype(np.float64)
        row = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
        for number, band in enumerate(bands):
            salt = np.uint64(number * _SALT % 2**64)  # other pairs in every range
            band.add(table, hashes ^ salt, probability, row)
    names = sorted(labels.by_category)
    return template("labels.html").render(
        labels_uri=labels_uri,
        total=labels.total,
        matcher=provenance.get("matcher", "a matcher"),
        n_judged=provenance.get("n_judged"),
        made_of=list(flat(provenance)),
        categories=[(name, labels.by_category[name]) for name in names[:MAX_CATEGORIES]],
        n_more=max(0, len(names) - MAX_CATEGORIES),
        histogram=_histogram(labels),
        bands=[(band, _draw(band, image_root)) for band in reversed(bands) if band.chosen],
        how_precise=HOW_PRECISE,
        licence=LICENCE,
    )


def _histogram(labels: LabelCounts) -> Plot:
    """The share of the labels by probability, from the lowest that occurs."""
    counts = labels.histogram.reshape(-1, _BINS_OF_BAR).sum(axis=1)
    total = max(1, int(counts.sum()))
    edges = np.arange(len(counts) + 1) * _BINS_OF_BAR / HISTOGRAM_BINS
    first = np.floor(10 * edges[np.flatnonzero(counts)[0]]) / 10 if counts.any() else 0.0
    bars = [
        Bar(low=low, high=high, y=100 * n / total, style="correct", title=f"{low:.2f} to {high:.2f}: {n:,} labels")
        for low, high, n in zip(edges[:-1], edges[1:], counts, strict=True)
        if n
    ]
    heights = round_ticks(100 * counts.max() / total)
    return Plot(
        title="Labels by probability, percent",
        x=Axis(label="probability", low=first, high=1.0, ticks=[round(x, 1) for x in np.arange(first, 1.01, 0.1)]),
        y=Axis(label="", low=0, high=heights[-1], ticks=heights),
        bars=bars,
    )


def _draw(band: _Band, image_root: str | None) -> list[DrawnLabels]:
    rows = pa.concat_tables(row for _, row in band.chosen)
    labels_of = {row["pair_id"]: row for row in rows.drop_columns(["source_image", "target_image"]).to_pylist()}
    drawn = []
    for chunk in decode_rows(rows, image_root):
        for pair in chunk.pairs:
            images = [chunk.images[pair[f"{side}_key"]] for side in ("source", "target")] if not pair["failure"] else []
            drawn.append(_draw_pair(band, labels_of[pair["pair_id"]], images))
    return drawn


def _draw_pair(band: _Band, row: dict[str, Any], images: Sequence[DecodedImage]) -> DrawnLabels:
    """The labels of a PAIRS row that are in the range. images: of source and target; none where they are not read."""
    probability = np.array([np.nan if p is None else p for p in row["keypoint_probability"]])
    shown = band.contains(probability)
    low, high = probability[shown].min(), probability[shown].max()
    count = f"{shown.sum()} of {len(shown)} labels" if len(shown) > 1 else "1 label"
    caption = f"{row['category'] or 'unknown'}, {count}, probability {low:.3f}" + (
        f" to {high:.3f}" if high > low else ""
    )
    failure = next((image.failure for image in images if image.failure), None)
    if not images or failure:
        why = failure.message if failure else "too many keypoints"
        return DrawnLabels(pair_id=row["pair_id"], caption=f"{caption}; cannot be drawn: {why}", data_uri=None)
    points = (np.array(row[f"{side}_xy_px"], np.float32)[shown] for side in ("source", "target"))
    source_rgb, target_rgb = (image.rgb for image in images)
    assert source_rgb is not None
    assert target_rgb is not None
    picture = draw_match(source_rgb, target_rgb, *points)
    return DrawnLabels(pair_id=row["pair_id"], caption=caption, data_uri=jpeg_data_uri(picture, DRAWN_WIDTH_PX))
