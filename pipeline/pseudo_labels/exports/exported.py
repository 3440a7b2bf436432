"""What every export has in common: the rows it takes, and what it counts."""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.io.images import ImageError
from pipeline.pseudo_labels.label_counts import LabelCounts

NO_LABELS = "no_labels"


@dataclass(kw_only=True)
class Exported:
    """Counts of an export."""

    labels: LabelCounts = field(default_factory=LabelCounts)
    """Of the pairs that were exported."""
    n_images: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    """Number of pairs by the reason why they were left out: no_labels, or that of an image (schemas.failures)."""
    examples: dict[str, str] = field(default_factory=dict)
    """Pair and message of the first pair of each reason."""
    notes: list[str] = field(default_factory=list)
    """What a reader of the export must know, sentences."""


def export_rows(tables: Iterable[pa.Table], exported: Exported, write: Callable[[dict[str, Any]], None]) -> None:
    """Call `write` for every PAIRS row that has labels; count it, or the reason if it raises an ImageError.

    Raises ValueError if no pair was written.
    """
    for table in tables:
        kept = []
        for index, row in enumerate(table.to_pylist()):
            try:
                if not row["source_xy_px"] or not row["target_xy_px"]:
                    raise ImageError("manifest", NO_LABELS, "the pair has no points")
                write(row)
                kept.append(index)
            except ImageError as error:
                exported.left_out[error.failure.kind] += 1
                exported.examples.setdefault(error.failure.kind, f"{row['pair_id']}: {error.failure.message}")
        exported.labels.add(table.take(pa.array(kept, pa.int64())))
    if not exported.labels.total.n_pairs:
        reasons = ", ".join(
            f"{count} x {kind} ({exported.examples[kind]})" for kind, count in exported.left_out.items()
        )
        raise ValueError(f"no pair to export; left out: {reasons}" if reasons else "no pair to export: there are none")
