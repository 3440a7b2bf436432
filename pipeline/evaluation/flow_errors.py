"""Correct pixels of stored flow under a protocol of flow, pair by pair, from MATCHES and PAIRS rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Float64, Int64

from nemf import pck
from pipeline.evaluation.keypoint_errors import Failed, KeypointErrors, keypoint_errors
from pipeline.evaluation.protocols import Protocol
from pipeline.io.flo import is_known, read_flo, read_flo_hw
from pipeline.runs.flow_codec import decode_flow
from schemas.matches import sides_of

FLOW_COLUMNS = ("flow", "flow_hw", "flow_dtype", "flow_scale")

Size = tuple[int, int]
"""Height and width in pixels."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FlowErrors:
    """Counts of correct pixels of P pairs under one protocol and direction."""

    protocol: Protocol
    n_points: Int64[np.ndarray, " p"]
    """Number of pixels of each pair whose true flow is known; 0 for a pair without a true flow."""
    failed: Bool[np.ndarray, " p"]
    """True for pairs with known pixels that failed or are missing in the matches."""
    n_correct_by_alpha: Mapping[float, Int64[np.ndarray, " p"]]

    def n_correct(self, alpha: float) -> Int64[np.ndarray, " p"]:
        """The number of correct pixels of each pair; alpha: one of those that were counted."""
        return self.n_correct_by_alpha[alpha]

    def n_counted(self, failed: Failed) -> Int64[np.ndarray, " p"]:
        """The number of pixels of each pair that enter the averages."""
        return np.where(self.failed, 0, self.n_points) if failed == "exclude" else self.n_points


def errors_under(
    matches: pa.Table, pairs: pa.Table, protocol: Protocol, direction: str, alphas: Sequence[float]
) -> KeypointErrors | FlowErrors:
    """The errors that the protocol is about, of keypoints or of flow; raises as keypoint_errors and flow_errors."""
    if protocol.of == "flow":
        return flow_errors(matches, pairs, protocol, direction, alphas)
    return keypoint_errors(matches, pairs, protocol, direction)


def flow_errors(
    matches: pa.Table, pairs: pa.Table, protocol: Protocol, direction: str, alphas: Sequence[float]
) -> FlowErrors:
    """The correct pixels of PAIRS rows, from MATCHES rows with at most one per pair and direction.

    A pixel is correct where the stored and the true displacement are at most alpha T apart; T is the longest side of
    the reference image. One pair's flows are in memory at a time.
    Raises ValueError naming the pair if its file of true flow is absent or damaged, or if a match holds no flow.
    """
    query, reference = sides_of(direction)
    matches = matches.filter(pc.equal(matches["direction"], direction))
    index = pc.index_in(pairs["pair_id"], matches["pair_id"]).to_pylist()
    n_points, failed = np.zeros(pairs.num_rows, np.int64), np.zeros(pairs.num_rows, bool)
    n_correct = {alpha: np.zeros(pairs.num_rows, np.int64) for alpha in alphas}
    uris = {side: pairs[f"{side}_flow_uri"].to_pylist() for side in (query, reference)}
    for number, (uri, other_uri) in enumerate(zip(uris[query], uris[reference], strict=True)):
        if uri is None:
            continue
        pair_id = pairs["pair_id"][number].as_py()
        row = None if index[number] is None else matches.slice(index[number], 1).to_pylist()[0]
        answered = row is not None and row["status"] == "ok"
        try:
            truth_px = read_flo(uri)
            other_hw = read_flo_hw(other_uri) if answered and other_uri is not None else None
        except (FileNotFoundError, ValueError) as error:
            raise ValueError(f"pair {pair_id}: its true flow cannot be read: {error}") from error
        known = is_known(truth_px)
        n_points[number] = np.count_nonzero(known)
        failed[number] = n_points[number] > 0 and not answered
        if row is None or not answered:
            continue
        if row["flow"] is None:
            raise ValueError(f"pair {pair_id} has no flow in the matches; match with --outputs flow")
        if row["reference_hw"] is None:
            raise ValueError(f"pair {pair_id} has no reference_hw in the matches")
        reference_hw: Size = (row["reference_hw"][0], row["reference_hw"][1])
        true_reference_hw = other_hw or reference_hw
        flow_px = resize_flow(decode_flow(row), reference_hw, truth_px.shape[:2], true_reference_hw)
        error_px = np.linalg.norm(flow_px[known] - truth_px[known].astype(np.float64), axis=1)
        base_px = np.full(len(error_px), float(max(true_reference_hw)))
        for alpha in alphas:
            correct = pck.is_correct(error_px, base_px, alpha, inclusive=protocol.inclusive)
            n_correct[alpha][number] = np.count_nonzero(correct)
    return FlowErrors(protocol=protocol, n_points=n_points, failed=failed, n_correct_by_alpha=n_correct)


def resize_flow(
    flow_px: Float[np.ndarray, "h w 2"], reference_hw: Size, new_hw: Size, new_reference_hw: Size
) -> Float[np.ndarray, "new_h new_w 2"]:
    """A flow between images of other sizes, as the C++ tool of the TSS evaluation kit computes it.

    flow_px: on the grid of the query image, pointing into a reference image of size reference_hw. The displacements are
    interpolated bilinearly, pixel centres at half pixels; then the end points are scaled with pixel (0, 0) fixed.
    """
    hw = flow_px.shape[:2]
    if hw == new_hw and reference_hw == new_reference_hw:
        return flow_px
    flow_px = _interpolate_rows(flow_px, new_hw[0])
    flow_px = _interpolate_rows(flow_px.swapaxes(0, 1), new_hw[1]).swapaxes(0, 1)
    y, x = np.indices(new_hw)
    grid_px = np.stack([x, y], axis=2).astype(np.float64)
    to_old = np.array([hw[1] / new_hw[1], hw[0] / new_hw[0]])
    to_new = np.array([new_reference_hw[1] / reference_hw[1], new_reference_hw[0] / reference_hw[0]])
    return (flow_px + grid_px * to_old) * to_new - grid_px


def _interpolate_rows(values: Float[np.ndarray, "n m 2"], count: int) -> Float64[np.ndarray, "count m 2"]:
    """Linear interpolation to `count` rows of the same extent; beyond the outermost centres the values are repeated."""
    at = np.clip((np.arange(count) + 0.5) * len(values) / count - 0.5, 0, len(values) - 1)
    below = np.floor(at).astype(np.int64)
    above = np.minimum(below + 1, len(values) - 1)
    share = (at - below)[:, None, None]
    return values[below] * (1 - share) + values[above] * share
