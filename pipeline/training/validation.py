"""PCK of a matcher on a seeded subset of a manifest's pairs, measured repeatedly during training."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int64

from nemf.matcher import Matcher
from pipeline.evaluation.evaluate import evaluate
from pipeline.evaluation.protocols import Protocol
from pipeline.io.manifest import INLINE_COLUMNS, Manifest, read_pairs
from pipeline.matching.decode import decode_rows
from pipeline.matching.match import match_chunk
from pipeline.matching.options import MatchOptions
from schemas.pairs import PAIRS

ALPHAS = (0.05, 0.1)

_READ_ROWS = 64


class Validation:
    """A subset of a manifest's pairs that have keypoints in both images.

    n_pairs: maximum size of the subset, which is a function of the manifest and the seed.
    Raises ValueError where no pair has keypoints, and as read_pairs does.
    """

    def __init__(self, pairs_uri: str, image_root: str | None, n_pairs: int, seed: int, protocol: Protocol) -> None:
        points = read_pairs(pairs_uri, ["source_xy_px", "target_xy_px"])
        counts = [pc.fill_null(pc.list_value_length(column), 0).to_numpy() for column in points.columns]
        usable = np.flatnonzero(np.minimum(*counts))
        if not len(usable):
            raise ValueError(f"{pairs_uri}: no pair has keypoints in both images, so nothing can be validated")
        chosen = np.sort(np.random.default_rng(seed).permutation(usable)[:n_pairs])
        self._rows = _read(pairs_uri, chosen)
        self._image_root = image_root
        self._protocol = protocol

    def __call__(self, matcher: Matcher) -> dict[str, float]:
        """`pck@ALPHA` for each of ALPHAS (percent; mean over images, then over data sets), `n_pairs` and `n_failed`."""
        options = MatchOptions(directions=self._protocol.directions[:1], outputs=("keypoints",))
        matches = pa.concat_tables(
            match_chunk(matcher, chunk, options, fingerprint=matcher.fingerprint, attempt=1)
            for chunk in decode_rows(self._rows, self._image_root)
        )
        pairs = self._rows.drop_columns(list(INLINE_COLUMNS))
        metrics = evaluate(matches, pairs, [self._protocol], ALPHAS, replicates=0)
        chosen = pc.and_(pc.equal(metrics["group_kind"], "all"), pc.equal(metrics["subset"], "all"))
        rows = metrics.filter(chosen).to_pylist()
        pck: dict[str, float] = {
            f"pck@{alpha:g}": float(np.mean([row["pck_image"] for row in rows if row["alpha"] == alpha]))
            for alpha in ALPHAS
        }
        failed = sum(row["n_failed"] for row in rows if row["alpha"] == ALPHAS[0])
        return pck | {"n_pairs": self._rows.num_rows, "n_failed": failed}


def _read(pairs_uri: str, rows: Int64[np.ndarray, " k"]) -> pa.Table:
    """The rows of these k numbers, which must be sorted, with their inline images."""
    taken, position = [], 0
    with Manifest(pairs_uri) as manifest:
        for window in manifest.windows(PAIRS.names, _READ_ROWS):
            first, last = np.searchsorted(rows, [position, position + window.rows.num_rows])
            taken.append(window.rows.take(pa.array(rows[first:last] - position)))
            position += window.rows.num_rows
    return pa.concat_tables(taken)
