"""The second stage: a chunk of decoded pairs to MATCHES rows. Every pair gets its rows, with a match or a failure."""

import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import numpy as np
import pyarrow as pa

from nemf.io.redact import redacted
from nemf.matcher import ImagePair, Match, Matcher, Points, as_points, salience_of
from pipeline.matching.boxes import IN_BOXES, Crops, box_crops
from pipeline.matching.decode import Chunk
from pipeline.matching.isolation import MatchResult, match_isolated
from pipeline.matching.margins import point_margins
from pipeline.matching.options import MatchOptions
from pipeline.matching.points import Salience, place_points
from pipeline.matching.predictions import prediction_columns
from pipeline.matching.reduced import Reductions
from pipeline.matching.scores import ScoredKeypoints, score_columns, scored_keypoints
from schemas.failures import Failure, FailureError
from schemas.matches import MATCHES, sides_of

DENSE_PIXELS_AT_ONCE = 2**24
"""Query pixels whose flow is in memory at once (12 bytes each), unless one image has more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class MatchRequest:
    """One row to make: a pair in one direction, to be matched or already failed."""

    columns: dict[str, Any] = field(default_factory=dict)
    """Columns of MATCHES that are known before matching."""
    image_pair: ImagePair | None = None
    """The images and points to match; None after a failure."""
    frames: Crops | Reductions | None = None
    """What the images of image_pair were made of; None for whole images."""
    scored: ScoredKeypoints | None = None
    """The keypoints whose scores to ask for, with the truth, which the matcher does not see; None for none."""
    failure: Failure | None = None
    decode_milliseconds: float | None = None
    """Time to fetch and decode the images; None if they were not decoded."""
    points_milliseconds: float = 0.0
    """Time to choose the points."""


def match_chunk(
    matcher: Matcher,
    chunk: Chunk,
    options: MatchOptions,
    *,
    fingerprint: str,
    attempt: int,
    known_failures: Mapping[str, Failure] | None = None,
    on_prediction: Callable[[], None] = lambda: None,
) -> pa.Table:
    """MATCHES rows of a chunk: pairs in order, within a pair the directions in order.

    known_failures: by pair_id, of pairs that must not be matched, in addition to those in the chunk.
    on_prediction: called with every match that the matcher gave.
    """

    @cache
    def salience(key: str) -> Salience:
        rgb = chunk.images[key].rgb
        assert rgb is not None
        return _salience(matcher, rgb, on_prediction)

    requests = [
        _request(
            chunk,
            pair,
            direction,
            options,
            pair["failure"] or (known_failures or {}).get(pair["pair_id"]),
            salience,
        )
        for pair in chunk.pairs
        for direction in options.directions
    ]
    image_pairs = [request.image_pair for request in requests if request.image_pair]
    results: Iterator[MatchResult] = (
        result for batch in _batches(image_pairs, options) for result in _match(matcher, batch, options, on_prediction)
    )
    if "scores" in options.outputs:
        scored = [request for request in requests if request.image_pair]
        results = _with_scores(matcher, scored, results, options, on_prediction)
    common = {
        "attempt": attempt,
        "matcher": redacted(matcher.name) + (IN_BOXES if options.crop == "boxes" else ""),
        "fingerprint": fingerprint,
        "worker": f"{socket.gethostname()}:{os.getpid()}",
    }
    rows = [common | _row(request, next(results) if request.image_pair else None) for request in requests]
    return pa.Table.from_pylist(rows, MATCHES)


def _request(
    chunk: Chunk,
    pair: dict[str, Any],
    direction: str,
    options: MatchOptions,
    failure: Failure | None,
    salience: Callable[[str], Salience],
) -> MatchRequest:
    """failure: of the pair, where it is known before its images are looked at. salience: of an image by its key."""
    columns = {"pair_id": pair["pair_id"], "direction": direction}
    if failure:
        return MatchRequest(columns=columns, failure=failure)
    query_side, reference_side = sides_of(direction)
    query, reference = chunk.images[pair[f"{query_side}_key"]], chunk.images[pair[f"{reference_side}_key"]]
    for image, name in ((query, "query_hw"), (reference, "reference_hw")):
        if image.whole_hw is not None:
            columns[name] = list(image.whole_hw)
    request = partial(MatchRequest, columns=columns, decode_milliseconds=query.milliseconds + reference.milliseconds)
    if failure := query.failure or reference.failure:
        return request(failure=failure)
    assert query.rgb is not None
    assert query.whole_hw is not None
    assert reference.rgb is not None
    assert reference.whole_hw is not None
    points, scored = None, None
    start = time.perf_counter()
    try:
        if "keypoints" in options.outputs and options.points.kind == "keypoints":
            points = _keypoints(pair)[query_side]
        elif "keypoints" in options.outputs:
            box_xyxy = pair[f"{query_side}_box_xyxy"]
            points = place_points(
                options.points, query.whole_hw, box_xyxy, partial(salience, pair[f"{query_side}_key"])
            )
        if "scores" in options.outputs:
            scored = scored_keypoints(pair, query_side, reference_side)
    except FailureError as error:
        return request(failure=error.failure)
    except ValueError as error:
        return request(failure=Failure("manifest", "bad_keypoints", str(error)))
    if points is not None:
        columns["query_xy_px"] = points.tolist()
    image_pair = ImagePair(
        query_rgb=query.rgb,
        reference_rgb=reference.rgb,
        query_xy_px=points,
        dense="flow" in options.outputs,
        score_maps="margin" in options.outputs,
        pair_id=pair["pair_id"],
    )
    request = partial(request, points_milliseconds=(time.perf_counter() - start) * 1000)
    reductions = Reductions(
        query_hw=query.whole_hw,
        reference_hw=reference.whole_hw,
        read_query_hw=image_pair.query_hw,
        read_reference_hw=image_pair.reference_hw,
    )
    if reductions.is_reduced:
        return request(frames=reductions, image_pair=reductions.pair_as_read(image_pair))
    if options.crop == "none":
        return request(scored=scored, image_pair=image_pair)
    try:
        crops = box_crops(pair, query_side, reference_side, image_pair)
    except FailureError as error:
        return request(failure=error.failure)
    return request(
        frames=crops, scored=scored and crops.scored_in_crops(scored), image_pair=crops.pair_in_crops(image_pair)
    )


def _row(request: MatchRequest, result: MatchResult | None) -> dict[str, Any]:
    """The columns of MATCHES that differ from row to row; result: of the request's image pair, if it has one."""
    row = dict(request.columns)
    if request.decode_milliseconds is not None:
        match_milliseconds = result and request.points_milliseconds + result.milliseconds
        row["milliseconds"] = {"decode": request.decode_milliseconds, "match": match_milliseconds}
    failure = result.failure if result else request.failure
    if failure:
        message = redacted(failure.message)
        return row | {
            "status": "error",
            "error_stage": failure.stage,
            "error_kind": failure.kind,
            "error_message": message,
        }
    assert result is not None
    columns = request.frames.columns_in_images(result.columns) if request.frames else result.columns
    return row | {"status": "ok", **columns}


def _salience(matcher: Matcher, rgb: np.ndarray, on_answer: Callable[[], None]) -> Salience:
    """The matcher's salience of an image, checked. Raises FailureError where there is none."""
    try:
        cells = salience_of(matcher, rgb)
    except Exception as error:  # a matcher may raise anything
        raise FailureError("match", type(error).__name__, " ".join(str(error).split())[:500]) from error
    on_answer()
    array = np.asarray(cells)
    if array.ndim != 2 or 0 in array.shape or not np.issubdtype(array.dtype, np.floating):
        message = f"salience must be float of shape (h, w); got {array.dtype} of {array.shape}"
        raise FailureError("match", "bad_answer", message)
    if not np.isfinite(array).all():
        raise FailureError("match", "not_finite", "salience has NaN or infinity")
    return array.astype(np.float32)


def _keypoints(pair: dict[str, Any]) -> dict[str, Points]:
    """The points of each side, none where they are null. Raises ValueError if they cannot be keypoints of a pair."""
    points = {}
    for side in ("source", "target"):
        try:
            known = [point or (None, None) for point in pair[f"{side}_xy_px"] or []]
            points[side] = as_points(np.array(known, np.float32))  # null becomes NaN
        except ValueError as error:
            raise ValueError(f"{side}_xy_px: {error}") from error
    n_source, n_target = len(points["source"]), len(points["target"])
    if n_source and n_target and n_source != n_target:
        raise ValueError(f"source_xy_px has {n_source} points and target_xy_px {n_target}: they must correspond")
    return points


def _batches(pairs: Sequence[ImagePair], options: MatchOptions) -> Iterator[list[ImagePair]]:
    """Pairs to be given to the matcher together, in order."""
    batch: list[ImagePair] = []
    dense_pixels = 0
    for pair in pairs:
        height, width = pair.query_rgb.shape[:2]
        pixels = height * width if pair.dense else 0
        if batch and (len(batch) == options.batch_pairs or dense_pixels + pixels > DENSE_PIXELS_AT_ONCE):
            yield batch
            batch, dense_pixels = [], 0
        batch.append(pair)
        dense_pixels += pixels
    if batch:
        yield batch


def _match(
    matcher: Matcher, batch: Sequence[ImagePair], options: MatchOptions, on_prediction: Callable[[], None]
) -> list[MatchResult]:
    """The results of one batch, with all outputs of the options."""
    results = match_isolated(matcher, batch, partial(_columns, outputs=options.outputs), on_prediction)
    if "cycle" not in options.outputs:
        return results
    matched = [index for index, result in enumerate(results) if not result.failure]
    if not matched:
        return results
    reversed_pairs = [_reversed(batch[index], results[index]) for index in matched]
    columns = partial(prediction_columns, outputs=("keypoints",))
    returned = match_isolated(matcher, reversed_pairs, columns, on_prediction)
    for index, back in zip(matched, returned, strict=True):
        results[index] = _with_cycle_error(batch[index], results[index], back)
    return results


def _columns(pair: ImagePair, match: Match, outputs: Sequence[str]) -> dict[str, Any]:
    """The columns of MATCHES of a match, all but those that the matcher is asked for once more."""
    columns = prediction_columns(pair, match, outputs)
    return columns | {"point_margin": point_margins(pair, match)} if "margin" in outputs else columns


def _with_scores(
    matcher: Matcher,
    requests: Sequence[MatchRequest],
    results: Iterator[MatchResult],
    options: MatchOptions,
    on_prediction: Callable[[], None],
) -> Iterator[MatchResult]:
    """The results of the requests with the scores of their keypoints, which the matcher is asked for by themselves.

    requests: those with an image pair.
    """
    for first in range(0, len(requests), options.batch_pairs):
        batch = list(zip(requests[first : first + options.batch_pairs], results, strict=False))
        keypoints_of: dict[int, ScoredKeypoints] = {}
        pairs = []
        for request, result in batch:
            if request.image_pair and request.scored and not result.failure:
                pair = replace(request.image_pair, query_xy_px=request.scored.query_xy_px, dense=False, score_maps=True)
                keypoints_of[id(pair)] = request.scored
                pairs.append(pair)

        def columns(pair: ImagePair, match: Match, keypoints_of: dict[int, ScoredKeypoints] = keypoints_of) -> Any:
            return score_columns(pair, match, keypoints_of[id(pair)])

        scores = iter(match_isolated(matcher, pairs, columns, on_prediction) if pairs else [])
        for request, result in batch:
            yield _with_more(result, next(scores)) if request.scored and not result.failure else result


def _with_more(result: MatchResult, more: MatchResult) -> MatchResult:
    """One result with the columns of both, or the failure of the second."""
    milliseconds = result.milliseconds + more.milliseconds
    if more.failure:
        return MatchResult(failure=more.failure, milliseconds=milliseconds)
    return MatchResult(columns=result.columns | more.columns, milliseconds=milliseconds)


def _reversed(pair: ImagePair, result: MatchResult) -> ImagePair:
    """The pair that matches the predicted points back to the query image."""
    return ImagePair(
        query_rgb=pair.reference_rgb,
        reference_rgb=pair.query_rgb,
        query_xy_px=np.array(result.columns["reference_xy_px"], np.float32).reshape(-1, 2),
        pair_id=pair.pair_id,
    )


def _with_cycle_error(pair: ImagePair, result: MatchResult, returned: MatchResult) -> MatchResult:
    """The result with the distance, in pixels, of each point matched there and back from where it started."""
    milliseconds = result.milliseconds + returned.milliseconds
    if returned.failure:
        return MatchResult(failure=returned.failure, milliseconds=milliseconds)
    returned_xy_px = np.array(returned.columns["reference_xy_px"], np.float32).reshape(-1, 2)
    assert pair.query_xy_px is not None
    error_px = np.linalg.norm(returned_xy_px - pair.query_xy_px, axis=1)
    columns = result.columns | {"point_cycle_error_px": error_px.tolist()}
    return replace(result, columns=columns, milliseconds=milliseconds)
