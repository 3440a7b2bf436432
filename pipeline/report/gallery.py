"""Drawn pairs of a run, per category: the best, the worst and some drawn at random, or flow where there is no truth."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from nemf.matcher import RGB
from pipeline.evaluation.keypoint_errors import KeypointErrors
from pipeline.io import storage
from pipeline.io.manifest import iter_rows, manifest_files
from pipeline.matching.decode import DecodedImage, decode_rows
from pipeline.runs.flow_codec import decode_flow
from pipeline.runs.parts import list_parts
from pipeline.visualization.flow import colour_flow, warp_onto_query
from pipeline.visualization.matches import draw_match
from schemas.pairs import PAIRS

_WIDTH_PX = 720
_THUMBNAIL_PX = 240
_FLOW_GRID_HW = (4, 6)
_POINTS = ("query_xy_px", "reference_xy_px")


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A pair to draw, and why this one: best, worst, random or no truth."""

    dataset: str
    category: str
    kind: str
    row: int
    """Which row of the manifest."""


@dataclass(frozen=True, kw_only=True)
class FlowPictures:
    """A dense flow, drawn."""

    colours_uri: str
    """Its directions and lengths as colours of the wheel."""
    longest_px: float
    """The length with full colour."""
    warped_uri: str
    """The reference image as the flow warps it onto the query."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """One drawn pair, or why it could not be drawn."""

    choice: Choice
    pair_id: str
    caption: str
    data_uri: str | None
    flow: FlowPictures | None


def choose(
    errors: KeypointErrors, pairs: pa.Table, drawable: np.ndarray, alpha: float, per_category: int, max_categories: int
) -> list[Choice]:
    """Up to `per_category` best, worst and random pairs of each category, none twice; the same every time.

    drawable: (P,) bool, the pairs to choose from; of those, pairs without a known truth are drawn at random.
    max_categories: of all data sets together, which have equal shares of it; one with fewer leaves room for the next.
    Best and worst go by the share of keypoints correct at `alpha`, then by their number: more shows more.
    """
    rng = np.random.default_rng(0)
    share = errors.n_correct(alpha) / np.maximum(errors.n_points, 1)
    best_first, worst_first = (np.lexsort((-errors.n_points, sign * share)) for sign in (-1, 1))
    dataset, category = (pc.fill_null(pairs[name], "unknown").to_numpy() for name in ("dataset", "category"))
    choices: list[Choice] = []
    categories = sorted(set(zip(dataset[drawable], category[drawable], strict=True)))
    for dataset_name, name in _shared_out(categories, max_categories):
        here = drawable & (dataset == dataset_name) & (category == name)
        scored, without_truth = here & (errors.n_points > 0), np.flatnonzero(here & (errors.n_points == 0))
        best = best_first[scored[best_first]][:per_category]
        scored[best] = False
        worst = worst_first[scored[worst_first]][:per_category]
        scored[worst] = False
        groups = {
            "best": best,
            "worst": worst,
            "random": _sample(np.flatnonzero(scored), per_category, rng),
            "no truth": _sample(without_truth, per_category, rng),
        }
        choices += [
            Choice(dataset=dataset_name, category=name, kind=kind, row=int(row))
            for kind, rows in groups.items()
            for row in rows
        ]
    return choices


def draw(
    choices: Sequence[Choice],
    errors: KeypointErrors,
    matches: pa.Table,
    pairs: pa.Table,
    alpha: float,
    *,
    matches_uri: str,
    pairs_uri: str,
    image_root: str | None,
) -> list[Picture]:
    """The chosen pairs as small JPEGs, in order; only their own images and flows are read.

    errors: of all annotated keypoints, those that answers have points for.
    matches: rows of the scored direction, with pair_id, direction, query_xy_px, reference_xy_px and flow_hw.
    """
    if not choices:
        return []
    ids = pairs["pair_id"].take(pa.array([choice.row for choice in choices])).to_pylist()
    chosen = dict(zip(ids, choices, strict=True))
    answers = {row["pair_id"]: row for row in _rows_of(matches, ids).to_pylist()}
    with_flow = [pair_id for pair_id in ids if answers[pair_id]["flow_hw"]]
    flows = _encoded_flows(matches_uri, with_flow, matches["direction"][0].as_py()) if with_flow else {}
    correct, ends = errors.is_correct(alpha), np.cumsum(errors.n_points)
    pictures = {}
    for chunk in decode_rows(_manifest_rows(pairs_uri, ids), image_root):
        for pair in chunk.pairs:
            pair_id = pair["pair_id"]
            row = chosen[pair_id].row
            marks = correct[ends[row] - errors.n_points[row] : ends[row]] if errors.n_points[row] else None
            flow_px = decode_flow(flows[pair_id]) if pair_id in flows else None
            pictures[pair_id] = _draw_pair(chosen[pair_id], pair, chunk.images, answers[pair_id], flow_px, marks)
    return [pictures[pair_id] for pair_id in ids]


def _draw_pair(
    choice: Choice,
    pair: dict[str, Any],
    images: dict[str, DecodedImage],
    answer: dict[str, Any],
    flow_px: np.ndarray | None,
    marks: np.ndarray | None,
) -> Picture:
    """marks: (K,) bool, which keypoints are correct; None where the truth is not known."""
    on_flow = flow_px is not None and not answer["query_xy_px"]
    if flow_px is not None and on_flow:
        points = _flow_lines(flow_px)
    else:
        query_xy_px, reference_xy_px = (np.array(answer[name], np.float32) for name in _POINTS)
        points = query_xy_px, reference_xy_px
    sides = ("source", "target") if answer["direction"] == "source_to_target" else ("target", "source")
    query, reference = (images[pair[f"{side}_key"]] for side in sides)
    truth_xy_px, caption = None, f"{len(points[0])} points{' of the flow' * on_flow}, no truth to compare with"
    if marks is not None:
        truth_xy_px = np.array(pair[f"{sides[1]}_xy_px"], np.float32)
        caption = f"{marks.sum()} of {len(marks)} correct, PCK {100 * marks.mean():.1f}"
    data_uri = drawn_flow = None
    if query.rgb is not None and reference.rgb is not None:
        drawn = draw_match(query.rgb, reference.rgb, *points, correct=marks, truth_xy_px=truth_xy_px)
        data_uri = _jpeg_data_uri(drawn, _WIDTH_PX)
        drawn_flow = None if flow_px is None else _draw_flow(flow_px, reference.rgb)
    elif failure := query.failure or reference.failure:
        caption = f"{caption}; cannot be drawn: {failure.message}"
    return Picture(choice=choice, pair_id=pair["pair_id"], caption=caption, data_uri=data_uri, flow=drawn_flow)


def _shared_out(categories: Sequence[tuple[str, str]], most: int) -> list[tuple[str, str]]:
    """At most so many of the sorted (dataset, category), of each data set its first ones."""
    by_dataset = [list(group) for _, group in groupby(categories, lambda category: category[0])]
    chosen: list[tuple[str, str]] = []
    for index, group in enumerate(by_dataset):
        share = math.ceil((most - len(chosen)) / (len(by_dataset) - index))
        chosen += group[:share]
    return chosen


def _rows_of(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    return table.filter(pc.is_in(table["pair_id"], pa.array(ids, pa.string())))


def _manifest_rows(pairs_uri: str, ids: Sequence[str]) -> pa.Table:
    """The PAIRS rows of these pairs, with inline images."""
    return pa.concat_tables(
        _rows_of(rows, ids) for file in manifest_files(pairs_uri) for _, _, rows in iter_rows(file, PAIRS.names, 1024)
    )


def _encoded_flows(matches_uri: str, ids: Sequence[str], direction: str) -> dict[str, dict[str, Any]]:
    """The flow columns of those of the pairs that have a flow; part after part, as flows are large.

    Attempts that answered a pair agree, so any row of it will do.
    """
    columns = ["pair_id", "flow", "flow_hw", "flow_dtype", "flow_scale"]
    wanted = (pc.field("pair_id").isin(ids)) & (pc.field("direction") == direction) & pc.field("flow").is_valid()
    found: dict[str, dict[str, Any]] = {}
    for part in list_parts(matches_uri):
        fs, path = storage.open_uri(part)
        if not _rows_of(pq.read_table(path, filesystem=fs, columns=["pair_id"], partitioning=None), ids).num_rows:
            continue
        rows = pq.read_table(path, filesystem=fs, columns=columns, filters=wanted, partitioning=None)
        found |= {row["pair_id"]: row for row in rows.to_pylist()}
    return found


def _flow_lines(flow_px: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points (K, 2) on a grid and where the flow takes them, in pixels."""
    y, x = (
        np.linspace(0, size - 1, 2 * count + 1).astype(int)[1::2]
        for size, count in zip(flow_px.shape[:2], _FLOW_GRID_HW, strict=True)
    )
    grid_xy = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return grid_xy.astype(np.float32), (grid_xy + flow_px[grid_xy[:, 1], grid_xy[:, 0]]).astype(np.float32)


def _draw_flow(flow_px: np.ndarray, reference_rgb: RGB) -> FlowPictures:
    every = math.ceil(max(flow_px.shape[:2]) / (2 * _THUMBNAIL_PX))  # twice as fine as it is shown
    shown_px = flow_px[::every, ::every]
    longest_px = float(np.hypot(shown_px[..., 0], shown_px[..., 1]).max())
    colours, warped = colour_flow(shown_px, longest_px), warp_onto_query(reference_rgb, flow_px, every)
    return FlowPictures(
        colours_uri=_jpeg_data_uri(Image.fromarray(colours), _THUMBNAIL_PX),
        longest_px=longest_px,
        warped_uri=_jpeg_data_uri(Image.fromarray(warped), _THUMBNAIL_PX),
    )


def _sample(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    return rng.choice(rows, min(count, len(rows)), replace=False) if len(rows) else rows


def _jpeg_data_uri(picture: Image.Image, longest_px: int) -> str:
    picture.thumbnail((longest_px, longest_px))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
