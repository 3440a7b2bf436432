"""Writing a PAIRS manifest, atomically: every pair is checked, those that cannot be used are counted and listed."""

import csv
import io
import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.datasets.common.image_frames import fit_to_images
from pipeline.datasets.common.interface import Note, PairRow, Rejected
from pipeline.io import storage
from pipeline.io.listing import Listing
from pipeline.io.uri_field import on_the_web
from schemas.pairs import PAIRS

ROW_GROUP_ROWS = 4096

_COLUMNS = [name for name in PAIRS.names if name not in ("source_image", "target_image")]


@dataclass
class Summary:
    """Counts of a manifest, and the items left out of it."""

    pairs: int = 0
    keypoints: int = 0
    """Number of pairs of corresponding points."""
    categories: set[str] = field(default_factory=set)
    images: set[str] = field(default_factory=set)
    unchecked_images: int = 0
    """Number of images on web servers, whose existence is not checked since servers have no listings."""
    rejected: list[Rejected] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    """Number of notes by their text."""
    noted_at: dict[str, str] = field(default_factory=dict)
    """File and row of the first note of each text in `notes`."""

    def reasons(self) -> dict[str, int]:
        """Number of items left out by reason, most frequent first."""
        return dict(Counter(rejected.reason for rejected in self.rejected).most_common())


def write_manifest(
    items: Iterable[PairRow | Rejected | Note],
    out: str,
    *,
    dataset: str,
    skip_errors: bool = False,
    check_sizes: bool = True,
    written_uri: Callable[[str], str] = str,
) -> Summary:
    """Write the pairs among `items` to `out`, and those left out, if any, to `<out>.skipped.csv`.

    dataset: the data set's name for pairs without one of their own.
    skip_errors: leave out pairs that cannot be used instead of raising ValueError at the first of them.
    check_sizes: whether annotations are compared with the sizes of their images (image_frames).
    written_uri: maps an image's absolute URI to the URI written in the manifest.
    Raises ValueError also when no pair is left.
    """
    summary = Summary()
    fitted = fit_to_images(items) if check_sizes else items
    records = (_record(row, dataset, written_uri) for row in _usable(fitted, summary, skip_errors))
    with storage.atomic_writer(out) as path:
        with pq.ParquetWriter(path, PAIRS, compression="zstd") as writer:
            while group := list(itertools.islice(records, ROW_GROUP_ROWS)):
                writer.write_table(pa.Table.from_pylist(group, schema=PAIRS))
        _write_rejected(summary.rejected, f"{out}.skipped.csv")
        if not summary.pairs:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in summary.reasons().items())
            raise ValueError(
                f"no pairs to write to {out}; " + (f"left out: {reasons}" if reasons else f"{dataset} names none here")
            )
    return summary


def _usable(items: Iterable[PairRow | Rejected | Note], summary: Summary, skip_errors: bool) -> Iterator[PairRow]:
    pair_ids: set[str] = set()
    listing = Listing()
    for item in items:
        if isinstance(item, Note):
            summary.notes[item.what] += item.count
            summary.noted_at.setdefault(item.what, item.where)
            continue
        row = item if isinstance(item, Rejected) else _checked(item, pair_ids, listing)
        if isinstance(row, Rejected):
            if not (skip_errors or row.by_design):
                raise ValueError(
                    f"{row.where}: {row.reason}: {row.detail} (--on-error skip leaves out and lists what is wrong)"
                )
            summary.rejected.append(row)
            continue
        pair_ids.add(row.pair_id)
        summary.pairs += 1
        if row.source_xy_px and row.target_xy_px:
            summary.keypoints += len(row.source_xy_px)
        summary.images |= {row.source_uri, row.target_uri}
        if row.category is not None:
            summary.categories.add(row.category)
        yield row
    summary.unchecked_images = sum(map(on_the_web, summary.images))


def _checked(row: PairRow, pair_ids: set[str], listing: Listing) -> PairRow | Rejected:
    """The row, or a Rejected one if its id occurred before or an image is missing."""
    if row.pair_id in pair_ids:
        reason, detail = "duplicate pair id", f"pair_id {row.pair_id} was there before"
    elif not listing.has(row.source_uri):
        reason, detail = "missing image", f"the source image {row.source_uri} is not there"
    elif not listing.has(row.target_uri):
        reason, detail = "missing image", f"the target image {row.target_uri} is not there"
    else:
        return row
    return Rejected(pair=row.pair_id, where=row.where, reason=reason, detail=detail)


def _record(row: PairRow, dataset: str, written_uri: Callable[[str], str]) -> dict[str, Any]:
    record = {name: getattr(row, name) for name in _COLUMNS}
    return record | {
        "dataset": row.dataset or dataset,
        "source_uri": written_uri(row.source_uri),
        "target_uri": written_uri(row.target_uri),
    }


def _write_rejected(rejected: Sequence[Rejected], uri: str) -> None:
    """Write a CSV file of the items left out; if there are none, remove the file of an earlier call."""
    if not rejected:
        storage.delete_file(uri)
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("pair", "file", "reason", "detail"))
    writer.writerows((item.pair, item.where, item.reason, item.detail) for item in rejected)
    storage.write_bytes(uri, text.getvalue().encode())
