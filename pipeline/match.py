"""The second stage: a chunk of decoded pairs to MATCHES rows. Every pair gets its rows, answered or with a reason."""

import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from nemf.matcher import ImagePair, Match, Matcher, Points, as_points
from pipeline.answers import BadAnswerError, answer_columns
from pipeline.decode import Chunk
from pipeline.options import MatchOptions
from schemas.matches import MATCHES

DENSE_PIXELS_AT_ONCE = 2**24
"""Query pixels whose flow is in memory at once (12 bytes each), unless one image has more."""

_SIDES = {"source_to_target": ("source", "target"), "target_to_source": ("target", "source")}
"""Which side of the pair is the query and which the reference."""


@dataclass(kw_only=True, eq=False)
class _Question:
    """One pair in one direction, its row under construction and, unless that failed already, what to ask."""

    row: dict[str, Any]
    ask: ImagePair | None = None


def match_chunk(
    matcher: Matcher,
    chunk: Chunk,
    options: MatchOptions,
    *,
    fingerprint: str,
    attempt: int,
    refused: Mapping[str, str] | None = None,
) -> pa.Table:
    """MATCHES rows of a chunk: pairs in order, within a pair the directions in order.

    refused: reasons, by pair_id, for pairs that must not be matched, beside those the chunk has.
    A matcher that raises on a batch is asked again pair by pair, so that only the pairs it fails on end as errors.
    """
    common = {
        "attempt": attempt,
        "matcher": matcher.name,
        "fingerprint": fingerprint,
        "worker": f"{socket.gethostname()}:{os.getpid()}",
    }
    questions = []
    for pair in chunk.pairs:
        reason = pair["refused"] or (refused or {}).get(pair["pair_id"])
        for direction in options.directions:
            row = {"pair_id": pair["pair_id"], "direction": direction, **common}
            if reason:
                questions.append(_Question(row=row | _error("worker", "died", reason)))
            else:
                questions.append(_question(chunk, pair, row, options))
    for batch in _batches([question for question in questions if question.ask is not None], options):
        _answer(matcher, batch, options)
    return pa.Table.from_pylist([question.row for question in questions], MATCHES)


def _question(chunk: Chunk, pair: dict[str, Any], row: dict[str, Any], options: MatchOptions) -> _Question:
    query_side, reference_side = _SIDES[row["direction"]]
    query, reference = chunk.images[pair[f"{query_side}_key"]], chunk.images[pair[f"{reference_side}_key"]]
    row["milliseconds"] = {"decode": query.milliseconds + reference.milliseconds, "match": None}
    for image, name in ((query, "query_hw"), (reference, "reference_hw")):
        if image.rgb is not None:
            row[name] = list(image.rgb.shape[:2])
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
            known = [point or (None, None) for point in pair[f"{side}_xy_px"] or []]
            points[side] = as_points(np.array(known, np.float32))  # null becomes NaN
        except ValueError as error:
            raise ValueError(f"{side}_xy_px: {error}") from error
    n_source, n_target = len(points["source"]), len(points["target"])
    if n_source and n_target and n_source != n_target:
        raise ValueError(f"source_xy_px has {n_source} points and target_xy_px {n_target}: they must correspond")
    return points


def _batches(questions: Sequence[_Question], options: MatchOptions) -> Iterator[list[_Question]]:
    """Questions to be asked together, in order."""
    batch: list[_Question] = []
    dense_pixels = 0
    for question in questions:
        assert question.ask is not None
        height, width = question.ask.query_rgb.shape[:2]
        pixels = height * width if question.ask.dense else 0
        if batch and (len(batch) == options.batch_pairs or dense_pixels + pixels > DENSE_PIXELS_AT_ONCE):
            yield batch
            batch, dense_pixels = [], 0
        batch.append(question)
        dense_pixels += pixels
    if batch:
        yield batch


def _answer(matcher: Matcher, questions: Sequence[_Question], options: MatchOptions) -> None:
    start = time.perf_counter()
    try:
        answers = _ask(matcher, [question.ask for question in questions if question.ask], options)
    except Exception as error:  # a matcher may raise anything; the pair it raised on is told apart below
        if len(questions) == 1:
            kind = error.kind if isinstance(error, BadAnswerError) else type(error).__name__
            questions[0].row |= _error("match", kind, " ".join(str(error).split())[:500])
            return
        for question in questions:
            _answer(matcher, [question], options)
        return
    milliseconds = (time.perf_counter() - start) * 1000 / len(questions)
    for question, answer in zip(questions, answers, strict=True):
        question.row["milliseconds"]["match"] = milliseconds
        question.row |= {"status": "ok", **answer}


def _ask(matcher: Matcher, pairs: Sequence[ImagePair], options: MatchOptions) -> list[dict[str, Any]]:
    """The columns of the matcher's answers. Raises BadAnswerError if one of them is none."""
    matches = _one_each(matcher, pairs)
    cycle_errors_px: list[np.ndarray | None] = [None] * len(pairs)
    if "cycle" in options.outputs:
        back = _one_each(matcher, [_reversed(pair, match) for pair, match in zip(pairs, matches, strict=True)])
        cycle_errors_px = [
            np.linalg.norm(match.reference_xy_px - pair.query_xy_px, axis=1)
            for match, pair in zip(back, pairs, strict=True)
        ]
    return [
        answer_columns(match, pair, cycle_error_px, options.outputs)
        for match, pair, cycle_error_px in zip(matches, pairs, cycle_errors_px, strict=True)
    ]


def _one_each(matcher: Matcher, pairs: Sequence[ImagePair]) -> list[Match]:
    matches = list(matcher.match_batch(pairs))
    if len(matches) != len(pairs):
        raise BadAnswerError("bad_answer", f"match_batch answered {len(matches)} of {len(pairs)} pairs")
    return matches


def _reversed(pair: ImagePair, match: Match) -> ImagePair:
    """Where do the answered points come from?"""
    return ImagePair(
        query_rgb=pair.reference_rgb,
        reference_rgb=pair.query_rgb,
        query_xy_px=match.reference_xy_px,
        pair_id=pair.pair_id,
    )


def _error(stage: str, kind: str, message: str) -> dict[str, Any]:
    return {"status": "error", "error_stage": stage, "error_kind": kind, "error_message": message}
