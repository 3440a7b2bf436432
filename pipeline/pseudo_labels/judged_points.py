"""The signals of annotated points together with whether their matches are right: what a calibration is made of, and how
probable it finds them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int64, UInt64

from pipeline.evaluation.bootstrap import image_keys
from pipeline.evaluation.keypoint_errors import MATCH_COLUMNS as ERROR_COLUMNS
from pipeline.evaluation.keypoint_errors import KeypointErrors, directions_to_score, keypoint_errors
from pipeline.evaluation.protocols import Protocol
from pipeline.evaluation.refuse import refuse
from pipeline.pseudo_labels.calibration import PROBABILITY_STEPS, Calibration
from pipeline.pseudo_labels.signals import MATCH_COLUMNS as SIGNAL_COLUMNS
from pipeline.pseudo_labels.signals import SIGNALS, SignalValues, box_sides_px, signals
from schemas.matches import sides_of

MATCH_COLUMNS = tuple(dict.fromkeys([*ERROR_COLUMNS, *SIGNAL_COLUMNS]))
"""The columns of MATCHES that are read."""


@dataclass(frozen=True, kw_only=True)
class JudgedPoints:
    """The N annotated points of P answered pairs and directions, pair after pair."""

    values: SignalValues
    correct: Bool[np.ndarray, " n"]
    counts: Int64[np.ndarray, " p"]
    source: UInt64[np.ndarray, " p"]
    target: UInt64[np.ndarray, " p"]
    """Keys of the pairs' images."""


def judged_points(
    matches: pa.Table, pairs: pa.Table, protocol: Protocol, alpha: float, others: pa.Table | None = None
) -> JudgedPoints:
    """The points of the pairs that were answered, in the directions that the protocol scores.

    matches, others: MATCHES rows, at most one per pair and direction, with MATCH_COLUMNS; others: of a second run.
    Raises ValueError as keypoint_errors and signals do, and for a protocol that scores flow or leaves keypoints out.
    """
    if protocol.of != "keypoints":
        raise ValueError(f"protocol {protocol.name} scores {protocol.of}; a calibration is about keypoints")
    pieces = []
    for direction in directions_to_score(pc.unique(matches["direction"]).to_pylist(), [protocol])[protocol]:
        errors = keypoint_errors(matches, pairs, protocol, direction)
        answered = ~errors.failed & (errors.n_points > 0)
        chosen = pairs.filter(pa.array(answered))
        values, n_points = _signals_of(matches, chosen, direction, others)
        refuse(
            n_points != errors.n_points[answered],
            chosen["pair_id"],
            f"has keypoints that protocol {protocol.name} leaves out; calibrate under one that scores all: spair",
        )
        source, target = image_keys(chosen)
        correct = errors.select(answered).is_correct(alpha)
        pieces.append(JudgedPoints(values=values, correct=correct, counts=n_points, source=source, target=target))
    return _concatenated(pieces)


def calibrated_probability(
    calibration: Calibration, matches: pa.Table, pairs: pa.Table, errors: KeypointErrors, direction: str
) -> Float64[np.ndarray, " n"]:
    """The probability, by a calibration, that each keypoint of `errors` is matched rightly; NaN where its pair failed.

    errors: of all annotated keypoints of `pairs`, in their order. matches: MATCHES rows with MATCH_COLUMNS.
    Raises ValueError where they lack a signal that it judges by.
    """
    answered = ~errors.failed & (errors.n_points > 0)
    probability = np.full(errors.n_points.sum(), np.nan)
    if answered.any():
        values, _ = _signals_of(matches, pairs.filter(pa.array(answered)), direction)
        calibration.check_signals(values, "the run")
        steps = calibration.probability_steps(values)
        probability[np.repeat(answered, errors.n_points)] = steps / PROBABILITY_STEPS
    return probability


def _signals_of(
    matches: pa.Table, pairs: pa.Table, direction: str, others: pa.Table | None = None
) -> tuple[SignalValues, Int64[np.ndarray, " p"]]:
    """The signals of all points of answered pairs, and the number of each pair's."""
    rows = _of_pairs(matches, pairs, direction)
    query, reference = sides_of(direction)
    values = signals(
        rows,
        box_sides_px(pairs[f"{query}_box_xyxy"]),
        box_sides_px(pairs[f"{reference}_box_xyxy"]),
        None if others is None else _of_pairs(others, pairs, direction),
    )
    return values, pc.list_value_length(rows["query_xy_px"]).to_numpy().astype(np.int64)


def _of_pairs(matches: pa.Table, pairs: pa.Table, direction: str) -> pa.Table:
    """The row of each pair in a direction, null where there is none."""
    rows = matches.filter(pc.equal(matches["direction"], direction))
    return rows.take(pc.index_in(pairs["pair_id"], rows["pair_id"]))


def _concatenated(pieces: Sequence[JudgedPoints]) -> JudgedPoints:
    names = [name for name in SIGNALS if any(name in piece.values for piece in pieces)]
    values = {
        name: np.concatenate([p.values.get(name, np.full(len(p.correct), np.nan)) for p in pieces]) for name in names
    }
    arrays = {
        name: np.concatenate([getattr(piece, name) for piece in pieces])
        for name in ("correct", "counts", "source", "target")
    }
    return JudgedPoints(values=values, **arrays)
