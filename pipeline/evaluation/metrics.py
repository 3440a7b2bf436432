"""Reading and writing METRICS files, and the table of one row per category."""

from typing import Literal

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.io import storage
from pipeline.io.manifest import open_parquet
from schemas.check import conform
from schemas.metrics import METRICS

SUMMARY = "summary.parquet"
"""Name of the file, in a folder of METRICS of a large run, that has all rows but those of single pairs."""


def read_metrics(uri: str) -> pa.Table:
    """A METRICS file, or the summary of a folder of them.

    Raises FileNotFoundError, or ValueError if it is another table or no Parquet file.
    """
    file = uri if storage.is_file(uri) else storage.join(uri, SUMMARY)
    if file != uri and not storage.is_file(file):
        raise FileNotFoundError(f"there is no METRICS file {uri}")
    with open_parquet(file) as parquet:
        table = parquet.read()
    return conform(table, METRICS, uri).replace_schema_metadata(table.schema.metadata)


def load_metrics(uri: str) -> pd.DataFrame:
    """A METRICS file as a pandas table."""
    return read_metrics(uri).to_pandas()


def write_metrics(uri: str, metrics: pa.Table) -> None:
    """Write METRICS as one Parquet file, atomically."""
    buffer = pa.BufferOutputStream()
    pq.write_table(metrics, buffer, compression="zstd")
    storage.write_bytes(uri, buffer.getvalue().to_pybytes())


def per_category(
    metrics: pd.DataFrame,
    *,
    dataset: str,
    protocol: str,
    direction: str,
    subset: str = "all",
    average: Literal["image", "point"] = "image",
) -> pd.DataFrame:
    """One row per category and a last row 'all': pairs, keypoints, failed, and a column of percent per alpha.

    PCK is missing (NA) where there was nothing to average over.
    """
    selected = metrics[
        (metrics["dataset"] == dataset)
        & (metrics["protocol"] == protocol)
        & (metrics["direction"] == direction)
        & (metrics["subset"] == subset)
    ]
    tables = []
    for kind in ("category", "all"):
        rows = selected[selected["group_kind"] == kind]
        percent = rows[f"pck_{average}"].where(rows["n_pairs"] > 0)
        table = rows.assign(percent=percent).pivot(index="group", columns="alpha", values="percent")
        table.columns = [f"PCK@{alpha:g}" for alpha in table.columns]
        counts = rows.drop_duplicates("group").set_index("group")[["n_pairs", "n_points", "n_failed"]]
        tables.append(counts.set_axis(["pairs", "keypoints", "failed"], axis=1).join(table))
    return pd.concat(tables)
