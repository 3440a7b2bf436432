"""Qualitative examples of a run, per category: the best, the worst and random pairs, or flow without a truth."""

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
from jaxtyping import Bool, Float, Float32, Int64
from PIL import Image

from nemf.flow_map import folded_share
from nemf.matcher import RGB
from pipeline.evaluation.keypoint_errors import KeypointErrors
from pipeline.io import storage
from pipeline.io.manifest import Manifest
from pipeline.matching.decode import DecodedImage, decode_rows
from pipeline.runs.flow_codec import decode_flow
from pipeline.runs.parts import list_parts
from pipeline.visualization.flow import colour_flow, warp_onto_query
from pipeline.visualization.matches import draw_match
from schemas.matches import sides_of
from schemas.pairs import PAIRS

GALLERY_COLUMNS = ("pair_id", "direction", "status", "query_xy_px", "reference_xy_px", "flow_hw")
"""The columns of MATCHES that are read for drawing."""
DRAWN_WIDTH_PX = 720
_THUMBNAIL_PX = 240
_FLOW_GRID_HW = (4, 6)


@dataclass(frozen=True, kw_only=True)
class QualitativeExample:
    """A pair to draw."""

    dataset: str
    category: str
    kind: str
    """Why the pair is drawn: best, worst, random or no truth."""
    row: int
    """Index of the pair in PAIRS."""


@dataclass(frozen=True, kw_only=True)
class DrawnFlow:
    """A dense flow as two images, data URIs."""

    colours_uri: str
    """Image of the flow's directions and lengths as colours of the wheel."""
    longest_px: float
    """Length with full colour, in pixels."""
    folded_percent: float
    """Percent of the pixels at which the flow folds."""
    warped_uri: str
    """The reference image warped onto the query by the flow."""


@dataclass(frozen=True, kw_only=True)
class DrawnExample:
    """One drawn pair; without an image if it could not be drawn, which the caption then explains."""

    example: QualitativeExample
    pair_id: str
    caption: str
    data_uri: str | None
    flow: DrawnFlow | None


def has_visible_match(matches: pa.Table, pairs: pa.Table) -> Bool[np.ndarray, " p"]:
    """Whether a pair has a match with keypoints or flow; matches: MATCHES rows of one direction."""
    has_points = pc.greater(pc.fill_null(pc.list_value_length(matches["query_xy_px"]), 0), 0)
    visible = pc.and_(pc.equal(matches["status"], "ok"), pc.or_(has_points, pc.is_valid(matches["flow_hw"])))
    return pc.is_in(pairs["pair_id"], matches.filter(visible)["pair_id"].combine_chunks()).to_numpy()


def choose_examples(
    errors: KeypointErrors,
    pairs: pa.Table,
    drawable: Bool[np.ndarray, " p"],
    alpha: float,
    per_category: int,
    max_categories: int,
) -> list[QualitativeExample]:
    """Up to `per_category` best, worst and random pairs of each category, none twice; the same every time.

    drawable: the pairs to choose from; of those, pairs without a known truth are drawn at random.
    max_categories: of all data sets together, which have equal shares of it; what one does not use the next ones do.
    Best and worst go by the share of keypoints correct at `alpha`, then by their number, the most first.
    """
    rng = np.random.default_rng(0)
    share = errors.n_correct(alpha) / np.maximum(errors.n_points, 1)
    best_first, worst_first = (np.lexsort((-errors.n_points, sign * share)) for sign in (-1, 1))
    dataset, category = (pc.fill_null(pairs[name], "unknown").to_numpy() for name in ("dataset", "category"))
    examples: list[QualitativeExample] = []
    categories = sorted(set(zip(dataset[drawable], category[drawable], strict=True)))
    for dataset_name, category_name in _share_equally(categories, max_categories):
        in_category = drawable & (dataset == dataset_name) & (category == category_name)
        scored = in_category & (errors.n_points > 0)
        without_truth = np.flatnonzero(in_category & (errors.n_points == 0))
        best = best_first[scored[best_first]][:per_category]
        scored[best] = False
        worst = worst_first[scored[worst_first]][:per_category]
        scored[worst] = False
        kinds = {
            "best": best,
            "worst": worst,
            "random": _sample(np.flatnonzero(scored), per_category, rng),
            "no truth": _sample(without_truth, per_category, rng),
        }
        examples += [
            QualitativeExample(dataset=dataset_name, category=category_name, kind=kind, row=int(row))
            for kind, rows in kinds.items()
            for row in rows
        ]
    return examples


def draw_examples(
    examples: Sequence[QualitativeExample],
    errors: KeypointErrors,
    matches: pa.Table,
    pairs: pa.Table,
    alpha: float,
    *,
    matches_uri: str,
    pairs_uri: str,
    image_root: str | None,
) -> list[DrawnExample]:
    """The examples as small JPEGs, in order; only their own images and flows are read.

    errors: of all annotated keypoints, which are those of the matches.
    matches: rows of the evaluated direction, with pair_id, direction, query_xy_px, reference_xy_px and flow_hw.
    """
    if not examples:
        return []
    ids = pairs["pair_id"].take(pa.array([example.row for example in examples])).to_pylist()
    example_of = dict(zip(ids, examples, strict=True))
    match_of = {row["pair_id"]: row for row in _rows_of(matches, ids).to_pylist()}
    with_flow = [pair_id for pair_id in ids if match_of[pair_id]["flow_hw"]]
    flows = _encoded_flows(matches_uri, with_flow, matches["direction"][0].as_py()) if with_flow else {}
    is_correct, ends = errors.is_correct(alpha), np.cumsum(errors.n_points)
    drawn = {}
    for chunk in decode_rows(_manifest_rows(pairs_uri, ids), image_root):
        for pair in chunk.pairs:
            pair_id = pair["pair_id"]
            row = example_of[pair_id].row
            correct = is_correct[ends[row] - errors.n_points[row] : ends[row]] if errors.n_points[row] else None
            flow_px = decode_flow(flows[pair_id]) if pair_id in flows else None
            drawn[pair_id] = _draw_pair(example_of[pair_id], pair, chunk.images, match_of[pair_id], flow_px, correct)
    return [drawn[pair_id] for pair_id in ids]


def _draw_pair(
    example: QualitativeExample,
    pair: dict[str, Any],
    images: dict[str, DecodedImage],
    match: dict[str, Any],
    flow_px: Float[np.ndarray, "h w 2"] | None,
    correct: Bool[np.ndarray, " k"] | None,
) -> DrawnExample:
    """pair: a row of Chunk.pairs. match: a MATCHES row. correct: of its keypoints; None where no truth is known."""
    shows_flow = flow_px is not None and not match["query_xy_px"]
    if flow_px is not None and shows_flow:
        points = _flow_points(flow_px)
    else:
        points = np.array(match["query_xy_px"], np.float32), np.array(match["reference_xy_px"], np.float32)
    sides = sides_of(match["direction"])
    query, reference = (images[pair[f"{side}_key"]] for side in sides)
    truth_xy_px, caption = None, f"{len(points[0])} points{' of the flow' * shows_flow}, no truth to compare with"
    if correct is not None:
        truth_xy_px = np.array(pair[f"{sides[1]}_xy_px"], np.float32)
        caption = f"{correct.sum()} of {len(correct)} correct, PCK {100 * correct.mean():.1f}"
    data_uri = drawn_flow = None
    if query.rgb is not None and reference.rgb is not None:
        picture = draw_match(query.rgb, reference.rgb, *points, correct=correct, truth_xy_px=truth_xy_px)
        data_uri = jpeg_data_uri(picture, DRAWN_WIDTH_PX)
        drawn_flow = None if flow_px is None else _draw_flow(flow_px, reference.rgb)
    elif failure := query.failure or reference.failure:
        caption = f"{caption}; cannot be drawn: {failure.message}"
    return DrawnExample(example=example, pair_id=pair["pair_id"], caption=caption, data_uri=data_uri, flow=drawn_flow)


def _share_equally(categories: Sequence[tuple[str, str]], limit: int) -> list[tuple[str, str]]:
    """At most `limit` of the sorted (dataset, category): of each data set its first ones."""
    by_dataset = [list(group) for _, group in groupby(categories, lambda category: category[0])]
    shared: list[tuple[str, str]] = []
    for index, group in enumerate(by_dataset):
        share = math.ceil((limit - len(shared)) / (len(by_dataset) - index))
        shared += group[:share]
    return shared


def _rows_of(table: pa.Table, ids: Sequence[str]) -> pa.Table:
    return table.filter(pc.is_in(table["pair_id"], pa.array(ids, pa.string())))


def _manifest_rows(pairs_uri: str, ids: Sequence[str]) -> pa.Table:
    """The PAIRS rows of these pairs, with inline images."""
    with Manifest(pairs_uri) as manifest:
        return pa.concat_tables(_rows_of(window.rows, ids) for window in manifest.windows(PAIRS.names, 1024))


def _encoded_flows(matches_uri: str, ids: Sequence[str], direction: str) -> dict[str, dict[str, Any]]:
    """The flow columns of the pairs that have a flow, by pair_id; read part after part, as flows are large.

    Attempts that matched a pair agree, so any of its rows is taken.
    """
    columns = ["pair_id", "flow", "flow_hw", "flow_dtype", "flow_scale"]
    has_flow = (pc.field("pair_id").isin(ids)) & (pc.field("direction") == direction) & pc.field("flow").is_valid()
    flows: dict[str, dict[str, Any]] = {}
    for part in list_parts(matches_uri):
        fs, path = storage.open_uri(part)
        if not _rows_of(pq.read_table(path, filesystem=fs, columns=["pair_id"], partitioning=None), ids).num_rows:
            continue
        rows = pq.read_table(path, filesystem=fs, columns=columns, filters=has_flow, partitioning=None)
        flows |= {row["pair_id"]: row for row in rows.to_pylist()}
    return flows


def _flow_points(flow_px: Float[np.ndarray, "h w 2"]) -> tuple[Float32[np.ndarray, "k 2"], Float32[np.ndarray, "k 2"]]:
    """Query points on a grid and the reference points that the flow maps them to, in pixels."""
    y, x = (
        np.linspace(0, size - 1, 2 * count + 1).astype(int)[1::2]
        for size, count in zip(flow_px.shape[:2], _FLOW_GRID_HW, strict=True)
    )
    grid_xy = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    return grid_xy.astype(np.float32), (grid_xy + flow_px[grid_xy[:, 1], grid_xy[:, 0]]).astype(np.float32)


def _draw_flow(flow_px: Float[np.ndarray, "h w 2"], reference_rgb: RGB) -> DrawnFlow:
    every = math.ceil(max(flow_px.shape[:2]) / (2 * _THUMBNAIL_PX))  # twice the resolution shown
    shown_px = flow_px[::every, ::every]
    longest_px = float(np.hypot(shown_px[..., 0], shown_px[..., 1]).max())
    colours, warped = colour_flow(shown_px, longest_px), warp_onto_query(reference_rgb, flow_px, every)
    return DrawnFlow(
        colours_uri=jpeg_data_uri(Image.fromarray(colours), _THUMBNAIL_PX),
        longest_px=longest_px,
        folded_percent=100 * folded_share(flow_px),
        warped_uri=jpeg_data_uri(Image.fromarray(warped), _THUMBNAIL_PX),
    )


def _sample(rows: Int64[np.ndarray, " n"], count: int, rng: np.random.Generator) -> Int64[np.ndarray, " m"]:
    return rng.choice(rows, min(count, len(rows)), replace=False) if len(rows) else rows


def jpeg_data_uri(picture: Image.Image, longest_px: int) -> str:
    """The picture, made smaller if a side is longer than longest_px, as the URI of a JPEG."""
    picture.thumbnail((longest_px, longest_px))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
