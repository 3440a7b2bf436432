"""What is held of every pair of a run while its labels are made: some 50 bytes, 100 while they are read: 100 MB for a
million pairs.

Pairs are known by their place in the manifest, found by a 64-bit hash of their id.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from jaxtyping import Bool, Float32, Int32, Int64, UInt64

from pipeline.io import storage
from pipeline.io.listing import Listing
from pipeline.io.manifest import Manifest
from pipeline.pseudo_labels.signals import box_sides_px
from pipeline.runs.parts import KEY_COLUMNS, read_parts, reasons_of
from schemas.matches import DIRECTIONS

_WINDOW_ROWS = 65_536
_NONE = -1
_URIS = ("source_uri", "target_uri")


@dataclass(frozen=True, kw_only=True)
class PairIndex:
    """The first P pairs of a manifest, in its order."""

    hashes: UInt64[np.ndarray, " p"]
    """Hashes of the pairs' ids, sorted."""
    order: Int64[np.ndarray, " p"]
    """The place of the pair of each hash."""
    source_size_px: Float32[np.ndarray, " p"]
    target_size_px: Float32[np.ndarray, " p"]
    """Longest side of the pairs' boxes, by place; NaN where there is none."""
    lacks_image: Bool[np.ndarray, " p"]
    """Whether an image of the pair was looked for and is not there, by place."""

    def places(self, pair_id: pa.ChunkedArray) -> Int64[np.ndarray, " n"]:
        """The place of each pair in the manifest; -1 for a pair it does not have."""
        wanted = _hashes(pair_id)
        found = np.minimum(np.searchsorted(self.hashes, wanted), len(self.hashes) - 1)
        return np.where(self.hashes[found] == wanted, self.order[found], _NONE)


def index_pairs(
    manifest: Manifest, limit: int | None, *, check_images: bool = False, image_root: str | None = None
) -> PairIndex:
    """The index of the first `limit` pairs of a manifest, of all for None. Raises ValueError for an id that repeats.

    check_images: look for the images, by a listing of each folder; image_root: folder of relative URIs.
    """
    hashes, sizes, lacks = [], [], []
    n_left, listing = manifest.n_pairs if limit is None else limit, Listing()
    columns = ["pair_id", "source_box_xyxy", "target_box_xyxy", *(_URIS if check_images else ())]
    for window in manifest.windows(columns, _WINDOW_ROWS):
        rows = window.rows.slice(0, n_left)
        n_left -= rows.num_rows
        hashes.append(_hashes(rows["pair_id"]))
        sizes.append(np.stack([box_sides_px(rows[f"{side}_box_xyxy"]) for side in ("source", "target")]))
        lacks.append(np.zeros(rows.num_rows, bool))
        for name in _URIS if check_images else ():
            uris = rows[name].to_pylist()
            lacks[-1] |= [uri is not None and not listing.has(storage.resolve(uri, image_root)) for uri in uris]
        if not n_left:
            break
    if not hashes:
        raise ValueError(f"{manifest.uri}: the manifest has no rows")
    of_pair = np.concatenate(hashes)
    order = np.argsort(of_pair, kind="stable")
    if (np.diff(of_pair[order]) == 0).any():
        raise ValueError(f"{manifest.uri}: a pair_id occurs more than once")
    source, target = np.concatenate(sizes, axis=1).astype(np.float32)
    return PairIndex(
        hashes=of_pair[order],
        order=order,
        source_size_px=source,
        target_size_px=target,
        lacks_image=np.concatenate(lacks),
    )


@dataclass(frozen=True, kw_only=True)
class ChosenRows:
    """Which of a run's rows counts for each pair and direction, by the rule of pipeline.runs.parts.chosen_rows."""

    part: Int32[np.ndarray, "2 p"]
    """By direction, in the order of DIRECTIONS, and place: the number of the part that holds the row; -1 for none."""
    row: Int32[np.ndarray, "2 p"]
    """Its place in the part."""
    reasons: Mapping[str, int]
    """The number of these rows by reason: 'ok', 'stage: kind' of an error, or 'an image is not there any more'."""

    def of_part(
        self, number: int, direction: Int64[np.ndarray, " n"], place: Int64[np.ndarray, " n"], first_row: int
    ) -> Bool[np.ndarray, " n"]:
        """Mask of consecutive rows of a part, from `first_row` on, that count."""
        row = np.arange(first_row, first_row + len(place))
        is_chosen = (self.part[direction, place] == number) & (self.row[direction, place] == row)
        return is_chosen & (place >= 0)


def choose_rows(sizes: Mapping[str, int], index: PairIndex, fingerprint: str) -> ChosenRows:
    """The rows that count, of the parts that `sizes` names in order. Reads the key columns of all parts.

    Raises ValueError for a row of another run or of a pair that is not in the index.
    """
    shape = (len(DIRECTIONS), len(index.order))
    part, row, attempt = (np.full(shape, _NONE, np.int32) for _ in range(3))
    is_ok, reason = np.zeros(shape, bool), np.zeros(shape, np.int16)
    names: list[str] = []
    columns = (*KEY_COLUMNS, "error_stage", "error_kind", "fingerprint")
    for number, (uri, rows) in enumerate(zip(sizes, read_parts(sizes, columns), strict=True)):
        place, direction = index.places(rows["pair_id"]), direction_numbers(rows)
        foreign = (place < 0) | (rows["fingerprint"].to_numpy() != fingerprint)
        if foreign.any():
            pair_id = rows["pair_id"][int(np.flatnonzero(foreign)[0])].as_py()
            raise ValueError(f"{uri}: pair {pair_id} is of another run or another manifest; nemf verify names all")
        texts = reasons_of(rows).to_pylist()
        names += [text for text in dict.fromkeys(texts) if text not in names]
        number_of = {text: names.index(text) for text in dict.fromkeys(texts)}
        reasons = np.array([number_of[text] for text in texts], np.int16)
        attempts, ok = rows["attempt"].to_numpy(), np.array([text == "ok" for text in texts], bool)
        # the last of equal places stays in an assignment: the best row of a pair comes last
        by_worth = np.lexsort((-np.arange(len(place)), attempts, ok))
        to, at = direction[by_worth], place[by_worth]
        ok, attempts, reasons = ok[by_worth], attempts[by_worth], reasons[by_worth]
        now_ok, now_attempt = is_ok[to, at], attempt[to, at]
        better = (part[to, at] < 0) | (ok & ~now_ok) | ((ok == now_ok) & (attempts > now_attempt))
        to, at = to[better], at[better]
        part[to, at], row[to, at] = number, by_worth[better]
        is_ok[to, at], attempt[to, at], reason[to, at] = ok[better], attempts[better], reasons[better]
    names.append("an image is not there any more")
    reason[:, index.lacks_image] = len(names) - 1
    counted = Counter(reason[part >= 0].tolist())
    part[:, index.lacks_image] = _NONE
    return ChosenRows(part=part, row=row, reasons=dict(sorted((names[k], n) for k, n in counted.items())))


def direction_numbers(rows: pa.Table) -> Int64[np.ndarray, " n"]:
    """The place of each row's direction in DIRECTIONS."""
    return (rows["direction"].to_numpy() == DIRECTIONS[1]).astype(np.int64)


def _hashes(pair_id: pa.ChunkedArray) -> UInt64[np.ndarray, " n"]:
    return pd.util.hash_array(pair_id.to_numpy().astype(object), categorize=False)
