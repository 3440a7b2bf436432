"""The second stage: a chunk of decoded pairs to MATCHES rows. Every pair gets its rows, answered or with a reason."""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from nemf.matcher import ImagePair, Match, Matcher, Points, as_points
from pipeline.decode import Chunk
from pipeline.flow_encoding import encode_confidence, encode_flow
from pipeline.options import MatchOptions
from schemas.matches import MATCHES

_SIDES = {"source_to_target": ("source", "target"), "target_to_source": ("target", "source")}


@dataclass(kw_only=True, eq=False)
class _Question:
    """One pair in one direction, its row under construction and, unless that failed already, what to ask."""

    row: dict[str, Any]
    ask: ImagePair | None = None


def match_chunk(matcher: Matcher, chunk: Chunk, options: MatchOptions, *, fingerprint: str, attempt: int) -> pa.Table:
    """MATCHES rows of a chunk: pairs in order, within a pair the directions in order.

    A matcher that raises on a batch is asked again pair by pair, so that only the pairs it fails on end as errors.
    """
    common = {
        "attempt": attempt,
        "matcher": matcher.name,
        "fingerprint": fingerprint,
        "worker": f"{socket.gethostname()}:{os.getpid()}",
    }
    questions = [_question(chunk, pair, way, options, common) for pair in chunk.pairs for way in options.directions]
    asked = [question for question in questions if question.ask is not None]
    for start in range(0, len(asked), options.batch_pairs):
        _answer(matcher, asked[start : start + options.batch_pairs], options)
    return pa.Table.from_pylist([question.row for question in questions], MATCHES)


def _question(
    chunk: Chunk, pair: dict[str, Any], direction: str, options: MatchOptions, common: dict[str, Any]
) -> _Question:
    query_side, reference_side = _SIDES[direction]
    query, reference = chunk.images[pair[f"{query_side}_key"]], chunk.images[pair[f"{reference_side}_key"]]
    row = {
        "pair_id": pair["pair_id"],
        "direction": direction,
        **common,
        "milliseconds": {"decode": query.milliseconds + reference.milliseconds, "match": None},
    }
    for image, name in ((query, "query_hw"), (reference, "reference_hw")):
        if image.rgb is not None:
            row[name] = list(image.rgb.shape[:2])
    if pair["pair_id"] in chunk.refused:
        return _Question(row=row | _error("match", "worker_died", chunk.refused[pair["pair_id"]]))
    for image in (query, reference):
        if image.error is not None:
            return _Question(row=row | _error(image.error.stage, image.error.kind, image.error.message))
    assert query.rgb is not None
    assert reference.rgb is not None
    points = None
    if "keypoints" in options.outputs:
        try:
            points = _keypoints(pair)[query_side]
        except ValueError as error:
            return _Question(row=row | _error("manifest", "bad_keypoints", str(error)))
        row["query_xy_px"] = points.tolist()
    ask = ImagePair(
        query_rgb=query.rgb,
        reference_rgb=reference.rgb,
        query_xy_px=points,
        dense="flow" in options.outputs,
        pair_id=pair["pair_id"],
    )
    return _Question(row=row, ask=ask)


def _keypoints(pair: dict[str, Any]) -> dict[str, Points]:
    """The points of each side, none where they are null. Raises ValueError if they cannot be keypoints of a pair."""
    points = {}
    for side in ("source", "target"):
        try:
            points[side] = as_points(np.array(pair[f"{side}_xy_px"] or [], np.float32))  # null becomes NaN
        except ValueError as error:
            raise ValueError(f"{side}_xy_px: {error}") from error
    n_source, n_target = len(points["source"]), len(points["target"])
    if n_source and n_target and n_source != n_target:
        raise ValueError(f"source_xy_px has {n_source} points and target_xy_px {n_target}: they must correspond")
    return points


def _answer(matcher: Matcher, questions: Sequence[_Question], options: MatchOptions) -> None:
    start = time.perf_counter()
    try:
        answers = _match(matcher, [q.ask for q in questions if q.ask is not None], options)
    except Exception as error:  # a matcher may raise anything; the pair it raised on is told apart below
        if len(questions) == 1:
            questions[0].row |= _error("match", type(error).__name__, " ".join(str(error).split())[:500])
            return
        for question in questions:
            _answer(matcher, [question], options)
        return
    milliseconds = (time.perf_counter() - start) * 1000 / len(questions)
    for question, (match, cycle_error_px) in zip(questions, answers, strict=True):
        question.row["milliseconds"]["match"] = milliseconds
        question.row |= _result(match, cycle_error_px, options)


def _match(
    matcher: Matcher, pairs: Sequence[ImagePair], options: MatchOptions
) -> list[tuple[Match, np.ndarray | None]]:
    """The matcher's answers, with the cycle error (K,) in query pixels where it was asked for."""
    matches = matcher.match_batch(pairs)
    assert len(matches) == len(pairs), f"{matcher.name} answered {len(matches)} of {len(pairs)} pairs"
    if "cycle" not in options.outputs:
        return [(match, None) for match in matches]
    back = matcher.match_batch(
        [
            ImagePair(
                query_rgb=pair.reference_rgb,
                reference_rgb=pair.query_rgb,
                query_xy_px=match.reference_xy_px,
                pair_id=pair.pair_id,
            )
            for pair, match in zip(pairs, matches, strict=True)
        ]
    )
    errors = [
        np.linalg.norm(there_and_back.reference_xy_px - pair.query_xy_px, axis=1)
        for there_and_back, pair in zip(back, pairs, strict=True)
    ]
    return list(zip(matches, errors, strict=True))


def _result(match: Match, cycle_error_px: np.ndarray | None, options: MatchOptions) -> dict[str, Any]:
    """The answer's columns; an error row if the matcher answered something that is no number."""
    result: dict[str, Any] = {"status": "ok"}
    arrays = [match.reference_xy_px, match.point_confidence, match.flow_px, match.flow_confidence]
    if not all(np.isfinite(array).all() for array in arrays if array is not None):
        return _error("match", "not_finite", "the matcher answered NaN or infinity")
    if "keypoints" in options.outputs:
        result["reference_xy_px"] = match.reference_xy_px.tolist()
        if "confidence" in options.outputs:
            result["point_confidence"] = match.point_confidence.tolist()
        if cycle_error_px is not None:
            result["point_cycle_error_px"] = cycle_error_px.tolist()
    if match.flow_px is not None:
        result |= encode_flow(match.flow_px)
        if "confidence" in options.outputs and match.flow_confidence is not None:
            result["flow_confidence"] = encode_confidence(match.flow_confidence)
    return result


def _error(stage: str, kind: str, message: str) -> dict[str, Any]:
    return {"status": "error", "error_stage": stage, "error_kind": kind, "error_message": message}
