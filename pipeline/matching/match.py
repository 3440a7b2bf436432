"""The second stage: a chunk of decoded pairs to MATCHES rows. Every pair gets its rows, answered or with a reason."""

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from nemf.io.redact import redacted
from nemf.matcher import ImagePair, Match, Matcher, Points, as_points
from pipeline.matching.decode import Chunk
from pipeline.matching.isolation import MatchRequest, match_isolated
from pipeline.matching.options import MatchOptions
from pipeline.matching.predictions import prediction_columns
from pipeline.runs.quarantine import Refusal
from schemas.matches import MATCHES

DENSE_PIXELS_AT_ONCE = 2**24
"""Query pixels whose flow is in memory at once (12 bytes each), unless one image has more."""

_SIDES = {"source_to_target": ("source", "target"), "target_to_source": ("target", "source")}
"""Which side of the pair is the query and which the reference."""


def match_chunk(
    matcher: Matcher,
    chunk: Chunk,
    options: MatchOptions,
    *,
    fingerprint: str,
    attempt: int,
    refused: Mapping[str, Refusal] | None = None,
    on_answer: Callable[[], None] = lambda: None,
) -> pa.Table:
    """MATCHES rows of a chunk: pairs in order, within a pair the directions in order.

    refused: why, by pair_id, pairs must not be matched, beside those the chunk has.
    on_answer: called with every answer of the matcher.
    """
    common = {
        "attempt": attempt,
        "matcher": redacted(matcher.name),
        "fingerprint": fingerprint,
        "worker": f"{socket.gethostname()}:{os.getpid()}",
    }
    rows: list[dict[str, Any]] = []
    asked: list[tuple[dict[str, Any], MatchRequest]] = []
    for pair in chunk.pairs:
        refusal = pair["refused"] or (refused or {}).get(pair["pair_id"])
        for direction in options.directions:
            row = {"pair_id": pair["pair_id"], "direction": direction, **common}
            rows.append(row)
            if refusal:
                kind, reason, stage = refusal
                row |= _error(stage, kind, reason)
            elif image_pair := _image_pair(chunk, pair, row, options):
                asked.append((row, MatchRequest(pair=image_pair)))
    columns = partial(_columns, outputs=options.outputs)
    for batch in _batches([request for _, request in asked], options):
        match_isolated(matcher, batch, columns, on_answer)
        if "cycle" in options.outputs:
            _add_cycle_errors(matcher, [request for request in batch if not request.error], on_answer)
    for row, request in asked:
        row["milliseconds"]["match"] = request.milliseconds
        row |= _error("match", *request.error) if request.error else {"status": "ok", **request.columns}
    return pa.Table.from_pylist(rows, MATCHES)


def _image_pair(chunk: Chunk, pair: dict[str, Any], row: dict[str, Any], options: MatchOptions) -> ImagePair | None:
    """What to ask the matcher; None where that is clear to be in vain, the row then says why."""
    query_side, reference_side = _SIDES[row["direction"]]
    query, reference = chunk.images[pair[f"{query_side}_key"]], chunk.images[pair[f"{reference_side}_key"]]
    row["milliseconds"] = {"decode": query.milliseconds + reference.milliseconds, "match": None}
    for image, name in ((query, "query_hw"), (reference, "reference_hw")):
        if image.rgb is not None:
            row[name] = list(image.rgb.shape[:2])
    for image in (query, reference):
        if image.error is not None:
            row |= _error(image.error.stage, image.error.kind, image.error.message)
            return None
    assert query.rgb is not None
    assert reference.rgb is not None
    points = None
    if "keypoints" in options.outputs:
        try:
            points = _keypoints(pair)[query_side]
        except ValueError as error:
            row |= _error("manifest", "bad_keypoints", str(error))
            return None
        row["query_xy_px"] = points.tolist()
    return ImagePair(
        query_rgb=query.rgb,
        reference_rgb=reference.rgb,
        query_xy_px=points,
        dense="flow" in options.outputs,
        pair_id=pair["pair_id"],
    )


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


def _batches(requests: Sequence[MatchRequest], options: MatchOptions) -> Iterator[list[MatchRequest]]:
    """Questions to be asked together, in order."""
    batch: list[MatchRequest] = []
    dense_pixels = 0
    for request in requests:
        height, width = request.pair.query_rgb.shape[:2]
        pixels = height * width if request.pair.dense else 0
        if batch and (len(batch) == options.batch_pairs or dense_pixels + pixels > DENSE_PIXELS_AT_ONCE):
            yield batch
            batch, dense_pixels = [], 0
        batch.append(request)
        dense_pixels += pixels
    if batch:
        yield batch


def _add_cycle_errors(matcher: Matcher, requests: Sequence[MatchRequest], on_answer: Callable[[], None]) -> None:
    """Where do the answered points come from? How far from that they were asked for is the cycle error."""
    back = [MatchRequest(pair=_reversed(request)) for request in requests]
    match_isolated(matcher, back, partial(_columns, outputs=("keypoints",)), on_answer)
    for request, returned in zip(requests, back, strict=True):
        request.milliseconds += returned.milliseconds
        request.error = returned.error
        if not returned.error:
            home_xy_px = np.array(returned.columns["reference_xy_px"], np.float32).reshape(-1, 2)
            assert request.pair.query_xy_px is not None
            error_px = np.linalg.norm(home_xy_px - request.pair.query_xy_px, axis=1)
            request.columns["point_cycle_error_px"] = error_px.tolist()


def _reversed(request: MatchRequest) -> ImagePair:
    return ImagePair(
        query_rgb=request.pair.reference_rgb,
        reference_rgb=request.pair.query_rgb,
        query_xy_px=np.array(request.columns["reference_xy_px"], np.float32).reshape(-1, 2),
        pair_id=request.pair.pair_id,
    )


def _columns(request: MatchRequest, match: Match, outputs: Sequence[str]) -> dict[str, Any]:
    return prediction_columns(match, request.pair, outputs)


def _error(stage: str, kind: str, message: str) -> dict[str, Any]:
    return {"status": "error", "error_stage": stage, "error_kind": kind, "error_message": redacted(message)}
