"""KAP: the average precision of a matcher's scores, over keypoints with and without a true match.

Every labelled keypoint of the query image is asked for. Where the reference has it, the best score within alpha T of
the truth is a positive, and the best score anywhere else a negative. Where the reference lacks it, the best score of
all is a negative. PCK asks only for keypoints that both images have, and never whether a matcher knows that one is
absent.

From Mariotti et al., Improving Semantic Correspondence with Viewpoint-Guided Spherical Maps (CVPR 2024). As there, the
scores of a pair are scaled so that its lowest is 0 and its highest 1, and pooled. Here they are rounded to 1 / 65,535,
so that counts by score say everything, and the counts of parts of a run can be added. The published code also pads
images to squares of 840 pixels, has 60 x 60 places on them, and asks for a distance below alpha T; here the places are
the matcher's own, and a distance of alpha T is within.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float64, Int64

from pipeline.evaluation.groups import KINDS, Group
from pipeline.evaluation.keypoint_errors import Failed, count_points
from pipeline.evaluation.refuse import STALE, refuse
from schemas.matches import SCORE_ALPHAS, sides_of

SCORE_COLUMNS = ("scored_keypoint_id", "score_inside", "score_outside", "score_lowest")
"""The columns of MATCHES that KAP is made from."""

ScoreCounts = Float64[np.ndarray, "_ 4"]
"""Rows (number of the alpha, score, positives, negatives); each alpha and score once, ascending. The score is in steps
of 1 / 65,535; -1 is that of positives without an answer."""

_STEPS = 65_535
_UNANSWERED = -1


@dataclass(frozen=True, kw_only=True, eq=False)
class PairScores:
    """The positives and negatives of P pairs; each array holds one number for each of them."""

    of_pair: Int64[np.ndarray, " n"]
    alpha: Int64[np.ndarray, " n"]
    """Its number among the alphas that were asked for."""
    score: Float64[np.ndarray, " n"]
    """As in ScoreCounts."""
    is_positive: Bool[np.ndarray, " n"]

    def counts_by_group(self, pairs: pd.DataFrame, chosen: Bool[np.ndarray, " p"]) -> dict[Group, ScoreCounts]:
        """The counts of group 'all' and of every category and level that has any.

        pairs: the group_columns of the P pairs. chosen: those to count.
        """
        of_chosen = chosen[self.of_pair]
        counts = pd.DataFrame(
            {
                "alpha": self.alpha,
                "score": self.score,
                "positives": self.is_positive,
                "negatives": ~self.is_positive,
            }
        )[of_chosen]
        groups = {("all", "all"): _summed(counts)}
        for kind in KINDS:
            names = pairs[kind].to_numpy()[self.of_pair[of_chosen]]
            groups |= {(kind, str(name)): _summed(rows) for name, rows in counts.groupby(names)}
        return groups


def pair_scores(
    matches: pa.Table, pairs: pa.Table, direction: str, alphas: Sequence[float], failed: Failed
) -> PairScores:
    """The positives and negatives of PAIRS rows, from MATCHES rows with at most one per pair and direction.

    There are none for an alpha that is not in SCORE_ALPHAS. A pair that failed or is missing has its positives, without
    an answer, or is excluded.
    Raises ValueError for a pair with keypoints that does not know all keypoints of both images, and for matches without
    scores or of other keypoints.
    """
    query, reference = sides_of(direction)
    matches = matches.filter(pc.equal(matches["direction"], direction))
    rows = matches.take(pc.index_in(pairs["pair_id"], matches["pair_id"]))
    for side in (query, reference):
        need = f"has no {side}_all_keypoint_id, which KAP needs: it is about keypoints that the other image lacks, too"
        unknown = pc.is_null(pairs[f"{side}_all_keypoint_id"]).to_numpy()
        refuse(unknown & (count_points(pairs, query, reference) > 0), pairs["pair_id"], need)
    query_ids = _labelled_ids(pairs, query)
    has_match = _is_labelled(query_ids, _labelled_ids(pairs, reference))
    counts = np.array([len(ids) for ids in query_ids], np.int64)
    of_pair = np.repeat(np.arange(len(counts)), counts)
    answered = pc.fill_null(pc.equal(rows["status"], "ok"), False).to_numpy() & (counts > 0)
    is_answered = answered[of_pair]

    scores = np.full((2, len(of_pair), len(SCORE_ALPHAS)), np.nan)  # of positives, of negatives
    if answered.any():
        rows = rows.filter(pa.array(answered))
        expected_ids = [ids for ids, is_ok in zip(query_ids, answered, strict=True) if is_ok]
        scores[:, is_answered] = _scaled_scores(rows, expected_ids, counts[answered])
    has_positive = ~np.isnan(scores[0]).any(axis=1)
    differs = is_answered & (has_positive != has_match)
    refuse(np.bincount(of_pair[differs], minlength=len(counts)) > 0, pairs["pair_id"], STALE)
    if failed == "wrong":
        scores[0, has_match & ~is_answered] = _UNANSWERED

    number_of = {alpha: number for number, alpha in enumerate(alphas)}
    known = [alpha for alpha in SCORE_ALPHAS if alpha in number_of]
    scores = scores[:, :, [SCORE_ALPHAS.index(alpha) for alpha in known]]
    is_negative, point, column = np.nonzero(~np.isnan(scores))
    return PairScores(
        of_pair=of_pair[point],
        alpha=np.array([number_of[alpha] for alpha in known], np.int64)[column],
        score=scores[is_negative, point, column],
        is_positive=is_negative == 0,
    )


def average_precision(counts: ScoreCounts, n_alphas: int) -> Float64[np.ndarray, " alphas"]:
    """The area under the steps of precision over recall, percent, for each alpha; NaN where there is no positive.

    Equal scores are found together.
    """
    percent = np.full(n_alphas, np.nan)
    for number in range(n_alphas):
        _, score, positives, negatives = counts[counts[:, 0] == number][::-1].T
        if positives.any():
            found = score != _UNANSWERED
            precision = np.cumsum(positives) / np.maximum(np.cumsum(positives + negatives), 1)
            percent[number] = 100 * (precision * positives)[found].sum() / positives.sum()
    return percent


def kap(counts_by_group: Mapping[Group, ScoreCounts], n_alphas: int) -> dict[Group, Float64[np.ndarray, " alphas"]]:
    """KAP of each group, percent, NaN where there is no positive; that of group 'all' is the mean of the categories."""
    percents = {group: average_precision(counts, n_alphas) for group, counts in counts_by_group.items()}
    of_category = np.array([percent for (kind, _), percent in percents.items() if kind == "category"])
    known = np.isfinite(of_category)
    if known.any():
        total, count = np.where(known, of_category, 0).sum(axis=0), known.sum(axis=0)
        percents["all", "all"] = np.divide(total, count, out=np.full(n_alphas, np.nan), where=count > 0)
    return percents


def add_counts(parts: Sequence[ScoreCounts]) -> ScoreCounts:
    """The counts of all parts together."""
    return _summed(pd.DataFrame(np.concatenate(parts), columns=["alpha", "score", "positives", "negatives"]))


def _summed(counts: pd.DataFrame) -> ScoreCounts:
    return counts.groupby(["alpha", "score"]).sum().reset_index().to_numpy(np.float64)


def _labelled_ids(pairs: pa.Table, side: str) -> list[list[str]]:
    """The ids of all labelled keypoints of a side; [] for none."""
    return [ids or [] for ids in pairs[f"{side}_all_keypoint_id"].to_pylist()]


def _is_labelled(query_ids: Sequence[list[str]], reference_ids: Sequence[list[str]]) -> Bool[np.ndarray, " n"]:
    """Whether the reference has the keypoint, for each of the query's."""
    per_pair = zip(query_ids, map(set, reference_ids), strict=True)
    return np.array([keypoint_id in of_reference for ids, of_reference in per_pair for keypoint_id in ids], bool)


def _scaled_scores(
    rows: pa.Table, query_ids: Sequence[list[str]], counts: Int64[np.ndarray, " p"]
) -> Float64[np.ndarray, "2 n alphas"]:
    """score_inside and score_outside of answered pairs, in steps of the pair's range; NaN for null.

    query_ids, counts: the ids of the query's keypoints and their number, above 0.
    """
    absent = "has no scores in the matches, which KAP needs; match again with --outputs keypoints,scores"
    is_null = np.any([pc.is_null(rows[name]).to_numpy() for name in SCORE_COLUMNS], axis=0)
    refuse(is_null, rows["pair_id"], f"{absent}, a manifest with ids and boxes")
    ids = rows["scored_keypoint_id"].to_pylist()
    refuse(np.array([a != b for a, b in zip(ids, query_ids, strict=True)], bool), rows["pair_id"], STALE)
    scores = np.stack([_per_alpha(rows, name, counts) for name in SCORE_COLUMNS[1:3]])
    low = rows["score_lowest"].to_numpy().astype(np.float64)
    high = np.fmax.reduceat(np.fmax.reduce(scores, axis=(0, 2)), np.cumsum(counts) - counts)
    extent = np.where(high > low, high - low, 1)
    share = (scores - np.repeat(low, counts)[:, None]) / np.repeat(extent, counts)[:, None]
    steps: Float64[np.ndarray, "2 n alphas"] = np.rint(share * _STEPS)
    return steps


def _per_alpha(rows: pa.Table, name: str, counts: Int64[np.ndarray, " p"]) -> Float64[np.ndarray, "n alphas"]:
    """A column of a number per keypoint and alpha; NaN for null."""
    per_point = pc.list_flatten(rows[name])
    n_points = pc.list_value_length(rows[name]).to_numpy()
    malformed = n_points != counts
    if not malformed.any():
        wrong = pc.fill_null(pc.list_value_length(per_point), 0).to_numpy() != len(SCORE_ALPHAS)
        malformed = np.add.reduceat(wrong, np.cumsum(counts) - counts) > 0
    refuse(malformed, rows["pair_id"], f"has not {len(SCORE_ALPHAS)} numbers for each keypoint in {name}")
    values: Float64[np.ndarray, "n alphas"] = pc.list_flatten(per_point).to_numpy().astype(np.float64)
    return values.reshape(-1, len(SCORE_ALPHAS))
