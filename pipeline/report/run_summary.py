"""The outcome of a run: pairs answered, failed and missing, reasons of failures, and time."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

RUN_COLUMNS = ("direction", "status", "error_stage", "error_kind", "error_message", "milliseconds")
"""The columns of MATCHES that the summary needs in addition to pair_id."""


def coverage(matches: pa.Table, n_pairs: int) -> list[dict[str, Any]]:
    """The number of pairs answered, failed and missing, per direction."""
    rows = matches.select(["direction", "status"]).to_pandas()
    counts = []
    for direction, status in rows.groupby("direction")["status"]:
        n_ok = int((status == "ok").sum())
        failed, missing = len(status) - n_ok, n_pairs - len(status)
        counts.append({"direction": direction, "ok": n_ok, "failed": failed, "missing": missing})
    return counts


def failures(matches: pa.Table) -> list[dict[str, Any]]:
    """Reasons with their number and one example, the most frequent first."""
    columns = ["pair_id", "error_stage", "error_kind", "error_message"]
    errors = matches.filter(pc.not_equal(matches["status"], "ok")).select(columns).to_pandas().fillna("not given")
    reasons = errors.groupby(["error_stage", "error_kind"], sort=True)
    table = reasons.first().assign(count=reasons.size()).reset_index()
    return table.sort_values("count", ascending=False, kind="stable").to_dict("records")


def timing(matches: pa.Table) -> list[dict[str, Any]]:
    """Milliseconds per pair of each stage that was timed."""
    stages = []
    for stage in matches.schema.field("milliseconds").type.names:
        values = pc.struct_field(matches["milliseconds"], stage).drop_null().to_numpy()
        if len(values):
            median, slow = np.percentile(values, [50, 95])
            stages.append(
                {"stage": stage, "n": len(values), "median": median, "slow": slow, "total_s": values.sum() / 1000}
            )
    return stages
