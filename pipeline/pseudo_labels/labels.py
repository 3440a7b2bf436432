"""Writing the labels of a run: a PAIRS manifest, in the order of the manifest that was matched.

A pair with labels keeps its columns; its points are the labels: the query's points and the answers, with their
probability. What people have annotated of its keypoints beside their ids is left out. Rows of a run of both directions
are two pairs, the one from target to source with `:target_to_source` behind its id.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.io import storage
from pipeline.io.manifest import Manifest, open_parquet
from pipeline.pseudo_labels.calibration import PROBABILITY_STEPS
from pipeline.pseudo_labels.scored_parts import SCORED, lists
from pipeline.pseudo_labels.selection import Counts, keys
from schemas.matches import DIRECTIONS, sides_of
from schemas.pairs import PAIRS

PROVENANCE_KEY = b"pseudo_labels"
"""Key of the Parquet schema's metadata whose value is the provenance as JSON."""
WINDOW_ROWS = 4096
_ANNOTATED = (
    *("source_visibility", "target_visibility", "target_valid_xy_px"),
    *("source_all_xy_px", "target_all_xy_px", "source_all_keypoint_id", "target_all_keypoint_id"),
)
"""Columns of annotated keypoints, which labels do not have."""


@dataclass
class Written:
    """Counts of the labels that were written."""

    n_pairs: int = 0
    n_labels: int = 0
    n_expected_right: float = 0.0
    dropped: dict[str, int] = field(default_factory=dict)
    """Number of pairs (in a run of both directions, rows) without labels, by reason."""


class ScoredRows:
    """The SCORED rows of all parts, merged by place of the pair in the manifest.

    Row groups are read when the window that begins with their first place is, and kept until it has passed their last.
    """

    def __init__(self, files: Sequence[str]) -> None:
        self._groups: list[tuple[int, str, int]] = []  # first place, file and number of each row group
        self._waiting: list[pa.Table] = []
        self._files = files
        self.n_rows = 0

    def count(self, min_points: int) -> Counts:
        """The labels by key; reads the probabilities of all. Call it before `before`."""
        counts = Counts.of(np.zeros(0, np.int64), np.zeros(0, np.int64))
        self._groups, self._waiting, self.n_rows = [], [], 0
        for file in self._files:
            with open_parquet(file) as parquet:
                for group in range(parquet.num_row_groups):
                    rows = parquet.read_row_group(group, columns=["place", "steps"])
                    if rows.num_rows:
                        self._groups.append((rows["place"][0].as_py(), file, group))
                        self.n_rows += rows.num_rows
                        steps, n_points = _steps(rows)
                        counts += Counts.of(steps, keys(steps, n_points, min_points))
        self._groups.sort(reverse=True)
        return counts

    def before(self, place: int) -> pa.Table:
        """The rows of pairs before a place that no earlier call gave, by place and direction."""
        while self._groups and self._groups[-1][0] < place:
            _, file, group = self._groups.pop()
            with open_parquet(file) as parquet:
                self._waiting.append(parquet.read_row_group(group))
        given, waiting = [SCORED.empty_table()], []
        for rows in self._waiting:
            n_given = int(np.searchsorted(rows["place"].to_numpy(), place))
            given.append(rows.slice(0, n_given))
            if n_given < rows.num_rows:
                waiting.append(rows.slice(n_given))
        self._waiting = waiting
        return pa.concat_tables(given).sort_by([("place", "ascending"), ("direction", "ascending")])


def write_labels(
    out: str,
    manifest: Manifest,
    scored: ScoredRows,
    *,
    threshold: int,
    min_points: int,
    both_directions: bool,
    provenance: Mapping[str, Any],
) -> Written:
    """Write the labels whose key reaches the threshold, atomically; the counts of what was written."""
    written = Written()
    schema = PAIRS.with_metadata({**PAIRS.metadata, PROVENANCE_KEY: json.dumps(provenance).encode()})
    first_place = 0
    with storage.atomic_writer(out) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for window in manifest.windows(PAIRS.names, WINDOW_ROWS):
            rows = scored.before(first_place + window.rows.num_rows)
            table = _labels(window.rows, rows, first_place, threshold, min_points, both_directions, written)
            first_place += window.rows.num_rows
            if table.num_rows:
                writer.write_table(table.replace_schema_metadata(schema.metadata))
    return written


def labelled_tables(labels_uri: str) -> Iterator[pa.Table]:
    """The rows of a labelled manifest, PAIRS, a row group at a time, with the provenance in the schema's metadata.

    Raises ValueError if it was not written by nemf pseudo-label.
    """
    with open_parquet(labels_uri) as parquet:
        read_provenance(labels_uri, parquet.schema_arrow)
        for group in range(parquet.num_row_groups):
            yield parquet.read_row_group(group)


def read_provenance(labels_uri: str, schema: pa.Schema | None = None) -> dict[str, Any]:
    """What a labelled manifest was made of: matcher, fingerprint, run, calibration, precision, expected_precision, ...

    Raises ValueError if it does not say so.
    """
    if schema is None:
        with open_parquet(labels_uri) as parquet:
            schema = parquet.schema_arrow
    text = (schema.metadata or {}).get(PROVENANCE_KEY)
    try:
        provenance = json.loads(text or b"null")
    except ValueError:
        provenance = None
    if not isinstance(provenance, dict):
        raise ValueError(f"{labels_uri} holds no pseudo-labels: it does not say what they were made of")
    return provenance


def _labels(
    pairs: pa.Table,
    scored: pa.Table,
    first_place: int,
    threshold: int,
    min_points: int,
    both_directions: bool,
    written: Written,
) -> pa.Table:
    """PAIRS rows of the SCORED rows that keep labels; adds to the counts."""
    steps, n_points = _steps(scored)
    kept = keys(steps, n_points, min_points) >= threshold
    of_row = np.repeat(np.arange(len(n_points)), n_points)
    n_kept = np.bincount(of_row[kept], minlength=len(n_points))
    has_labels = n_kept > 0
    if n_fewer := int(np.count_nonzero(~has_labels)):
        reason = "no label is probable enough" if min_points == 1 else f"fewer than {min_points} labels"
        written.dropped[reason] = written.dropped.get(reason, 0) + n_fewer
    written.n_pairs += int(np.count_nonzero(has_labels))
    written.n_labels += int(np.count_nonzero(kept))
    written.n_expected_right += float(steps[kept].sum()) / PROBABILITY_STEPS
    rows = pairs.take(pa.array(scored["place"].to_numpy()[has_labels] - first_place))
    offsets, mask = np.concatenate([[0], np.cumsum(n_kept[has_labels])]), pa.array(kept)
    new = {
        "keypoint_id": lists(offsets, _ids(scored.filter(pa.array(has_labels)), rows, kept[has_labels[of_row]])),
        "keypoint_probability": lists(offsets, pa.array((steps[kept] / PROBABILITY_STEPS).astype(np.float32))),
    }
    for side in ("source", "target"):
        points = pc.list_flatten(scored[f"{side}_xy_px"]).filter(mask)
        new[f"{side}_xy_px"] = lists(offsets, points.combine_chunks())
    new |= {name: pa.nulls(rows.num_rows, PAIRS.field(name).type) for name in _ANNOTATED}
    if both_directions:
        is_back = pc.equal(scored.filter(pa.array(has_labels))["direction"], 1)
        suffix = pc.if_else(is_back, f":{DIRECTIONS[1]}", "")
        new["pair_id"] = pc.binary_join_element_wise(rows["pair_id"], suffix, "")
    columns = [new.get(name, rows[name]) for name in PAIRS.names]
    return pa.Table.from_arrays(columns, schema=PAIRS)


def _ids(scored: pa.Table, pairs: pa.Table, kept: np.ndarray) -> pa.Array:
    """The id of each kept label: that of the pair's keypoint where its keypoints are what was asked, else its number.

    scored, pairs: row by row the same pairs. kept: mask of all labels of `scored`.
    """
    n_labels = pc.list_value_length(scored["point"]).to_numpy()
    of_row = np.repeat(np.arange(scored.num_rows), n_labels)
    point = pc.list_flatten(scored["point"]).to_numpy()
    given = pc.fill_null(pc.list_value_length(pairs["keypoint_id"]), 0).to_numpy().astype(np.int64)
    known = scored["n_asked"].to_numpy() == given
    for number, direction in enumerate(DIRECTIONS):
        query, _ = sides_of(direction)
        is_direction = scored["direction"].to_numpy() == number
        counts = pc.fill_null(pc.list_value_length(pairs[f"{query}_xy_px"]), 0).to_numpy().astype(np.int64)
        known &= ~is_direction | (counts == given)
        labels = np.flatnonzero((is_direction & known)[of_row])
        annotated = pc.list_flatten(pc.list_flatten(pairs[f"{query}_xy_px"])).to_numpy().reshape(-1, 2)
        asked = pc.list_flatten(pc.list_flatten(scored[f"{query}_xy_px"])).to_numpy().reshape(-1, 2)
        at = (np.cumsum(counts) - counts)[of_row[labels]] + point[labels]
        differs = (annotated[at] != asked[labels]).any(axis=1)
        known[of_row[labels[differs]]] = False
    labels = np.flatnonzero(kept)
    is_known = known[of_row[labels]]
    place = (np.cumsum(given) - given)[of_row[labels]] + point[labels]
    names = pc.list_flatten(pairs["keypoint_id"]).take(pa.array(np.where(is_known, place, 0), mask=~is_known))
    numbers = pa.array(point[labels]).cast(pa.string())
    return pc.coalesce(pa.chunked_array(names) if isinstance(names, pa.Array) else names, numbers).combine_chunks()


def _steps(scored: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """The probabilities of all labels of SCORED rows, in steps, and the number of labels of each row."""
    n_points = pc.list_value_length(scored["steps"]).to_numpy().astype(np.int64)
    return pc.list_flatten(scored["steps"]).to_numpy().astype(np.int64), n_points
