"""Prints what one reader of Parquet sees in PAIRS, MATCHES and METRICS, as JSON. Runs without this project's packages.

usage: read_tables.py READER FOLDER
"""

import importlib
import importlib.metadata
import json
import sys
from pathlib import Path


def with_pandas(files):
    import pandas as pd

    return pd.read_parquet(files[0].parent).to_dict("records")


def with_pyarrow(files):
    import pyarrow.parquet as pq

    return pq.read_table(files[0].parent).to_pylist()


def with_duckdb(files):
    import duckdb

    rows = duckdb.sql(f"SELECT * FROM read_parquet({list(map(str, files))})")
    return [dict(zip(rows.columns, row, strict=True)) for row in rows.fetchall()]


def with_polars(files):
    import polars as pl

    return pl.read_parquet(files).to_dicts()


def with_datasets(files):
    import datasets

    cache = str(files[0].parent.parent / "cache")
    rows = datasets.load_dataset("parquet", data_files=list(map(str, files)), split="train", cache_dir=cache)
    return list(rows)


def with_daft(files):
    import daft

    return daft.read_parquet(list(map(str, files))).to_pylist()


def with_fastparquet(files):
    import fastparquet

    return fastparquet.ParquetFile(list(map(str, files))).to_pandas().to_dict("records")


def with_chdb(files):
    import chdb

    query = f"SELECT * FROM file('{files[0].parent}/*.parquet', Parquet)"
    lines = chdb.query(query, "JSONEachRow").bytes().decode(errors="surrogateescape").splitlines()
    rows = [json.loads(line) for line in lines]
    for row in rows:
        for name in {"source_image", "target_image", "flow", "flow_confidence"}.intersection(row):
            row[name] = row[name] and row[name].encode(errors="surrogateescape")
    return rows


def plain(value):
    """A value as JSON has it: bytes in hexadecimal, NaN as null."""
    if isinstance(value, dict):
        return {name: plain(part) for name, part in value.items()}
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    return None if value is None or value != value else value


def flow_of(folder):
    """The flow by the recipe of docs/tables.md."""
    import numpy
    import pandas as pd
    import pyarrow

    rows = pd.read_parquet(folder).sort_values(["status", "attempt"], ascending=False)
    rows = rows.drop_duplicates(["pair_id", "direction"])
    row = rows[(rows["status"] == "ok") & rows["flow"].notna()].iloc[0]
    shape = (*row.flow_hw, 2)
    raw = pyarrow.decompress(row.flow, int(numpy.prod(shape)) * 2, codec="zstd")
    rises = numpy.frombuffer(raw, row.flow_dtype).reshape(shape)
    return (rises.cumsum(axis=0, dtype=row.flow_dtype) * row.flow_scale).tolist()


def version_of(name):
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def main(reader, folder):
    read = globals()[f"with_{reader}"]
    answer = {"versions": {name: version_of(name) for name in (reader, "pyarrow", "pandas", "numpy")}}
    for table in ("PAIRS", "MATCHES", "METRICS"):
        try:
            answer[table] = plain(read(sorted(Path(folder, table).glob("*.parquet"))))
        except Exception as error:  # what a reader cannot read is an answer too
            answer[table] = f"{type(error).__name__}: {error}"[:300]
    if reader == "pandas":
        answer["flow"] = flow_of(Path(folder, "MATCHES"))
    print("ANSWER" + json.dumps(answer))


if __name__ == "__main__":
    main(*sys.argv[1:])
