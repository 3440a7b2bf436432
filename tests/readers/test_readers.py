"""Other readers of Parquet see what was written, each in an environment of its own. Not part of `make test`: run
`make test-readers`, which installs them from PyPI below .venv/readers.
"""

import json
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from environments import python_with
from read_tables import plain

from pipeline.evaluation.metrics import write_metrics
from pipeline.runs.flow_codec import encode_flow
from pipeline.runs.parts import write_part
from schemas.matches import MATCHES
from schemas.metrics import METRICS
from schemas.pairs import PAIRS
from schemas.types import LIST_SIZES

READ_TABLES = Path(__file__).parent / "read_tables.py"
LISTS = {field.name for schema in (PAIRS, MATCHES) for field in schema if pa.types.is_list(field.type)}

READERS = [
    ("pandas", "pandas==2.2.2", "pyarrow==15.0.2", "numpy<2"),
    ("pandas", "pandas==2.2.3", "pyarrow==20.0.0"),
    ("pandas", "pandas==2.2.3", "pyarrow==25.0.1"),
    ("pandas", "pandas", "pyarrow==25.0.1"),
    ("pandas", "pandas", "pyarrow==26.0.1"),
    ("pyarrow", "pyarrow==15.0.2", "numpy<2"),
    ("duckdb", "duckdb"),
    ("polars", "polars"),
    ("datasets", "datasets"),
    ("datasets", "datasets", "pyarrow==25.0.1"),
    ("daft", "daft"),
]

_POINTS = [[1.5, 2.0], [3.0, 4.25]]
PAIR_ROWS = [
    {
        "pair_id": "a",
        "source_uri": "a.jpg",
        "target_uri": "b.jpg",
        "category": "cat",
        "source_xy_px": _POINTS,
        "target_xy_px": _POINTS[::-1],
        "keypoint_id": ["left eye", "caf\u00e9"],
        "source_box_xyxy": [0.0, 1.0, 30.5, 40.0],
        "occlusion": 3,
        "seen_in_training": True,
    },
    {"pair_id": "b", "source_image": b"\xff\xd8\x00", "source_xy_px": [], "target_xy_px": [], "keypoint_id": []},
    {"pair_id": "c", "source_uri": "c.jpg", "target_xy_px": _POINTS[:1], "target_box_xyxy": [1.0, 2.0, 3.0, 4.0]},
]
FLOW_PX = np.stack(np.meshgrid(np.arange(4.0), np.arange(3.0)), axis=-1)
_SAME = {"direction": "source_to_target", "matcher": "m", "fingerprint": "f"}
MATCH_ROWS = [
    {
        **_SAME,
        "pair_id": "a",
        "attempt": 1,
        "status": "ok",
        "query_hw": [3, 4],
        "reference_hw": [3, 4],
        "query_xy_px": _POINTS,
        "reference_xy_px": _POINTS[::-1],
        "point_confidence": [0.5, 1.0],
        **encode_flow(FLOW_PX),
        "milliseconds": {"decode": 1.5, "match": 2.0},
    },
    {**_SAME, "pair_id": "b", "attempt": 1, "status": "error", "error_stage": "fetch", "error_kind": "not_found"},
    {**_SAME, "pair_id": "b", "attempt": 2, "status": "ok", "query_hw": [3, 4], "query_xy_px": [], "worker": "w"},
]
METRIC_ROWS = [
    {
        **dict.fromkeys(("dataset", "protocol", "direction", "subset", "group_kind", "group"), "all"),
        **{"alpha": 0.1, "n_pairs": 2, "n_points": 4, "n_failed": 0, "pck_image": 50.0, "pck_point": 62.5},
    }
]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of PAIRS, MATCHES (two parts, one without any flow) and METRICS."""
    folder = tmp_path_factory.mktemp("tables")
    for table in ("PAIRS", "METRICS"):
        (folder / table).mkdir()
    pq.write_table(pa.Table.from_pylist(PAIR_ROWS, PAIRS), folder / "PAIRS" / "pairs.parquet", compression="zstd")
    for attempt in (1, 2):
        rows = [row for row in MATCH_ROWS if row["attempt"] == attempt]
        write_part(str(folder / "run"), pa.Table.from_pylist(rows, MATCHES))
    (folder / "run" / "parts").rename(folder / "MATCHES")
    write_metrics(str(folder / "METRICS" / "metrics.parquet"), pa.Table.from_pylist(METRIC_ROWS, METRICS))
    return folder


def _expected(rows: list[dict[str, Any]], schema: pa.Schema) -> list[dict[str, Any]]:
    return sorted(({name: plain(row.get(name)) for name in schema.names} for row in rows), key=json.dumps)


EXPECTED = {
    "PAIRS": _expected(PAIR_ROWS, PAIRS),
    "MATCHES": _expected(MATCH_ROWS, MATCHES),
    "METRICS": _expected(METRIC_ROWS, METRICS),
}


def _read(reader: str, packages: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """The output of a reader, see read_tables.py, with rows in the order of EXPECTED."""
    output = subprocess.run(
        [python_with(*packages), READ_TABLES, reader, folder], check=True, capture_output=True, text=True, cwd=folder
    ).stdout
    answer = json.loads(output.rpartition("ANSWER")[2])
    names = {"PAIRS": PAIRS.names, "MATCHES": MATCHES.names, "METRICS": METRICS.names}
    for table, columns in names.items():
        if isinstance(answer[table], list):
            rows = [{name: row.get(name) for name in columns} for row in answer[table]]
            answer[table] = sorted(rows, key=lambda row: (row.get("pair_id"), row.get("attempt")))
    versions = ", ".join(f"{name} {version}" for name, version in answer["versions"].items() if version)
    print(f"{reader}: {versions}")
    return answer


@pytest.mark.parametrize("reader", READERS, ids=" ".join)
def test_every_value_is_what_was_written(written: Path, reader: tuple[str, ...]) -> None:
    answer = _read(reader[0], reader[1:], written)

    assert {table: answer[table] for table in EXPECTED} == EXPECTED
    if reader[0] == "pandas":
        assert np.abs(np.array(answer["flow"]) - FLOW_PX).max() <= 0.01


def test_fastparquet_has_no_points(written: Path) -> None:
    """docs/tables.md says so: points are None, and there are columns milliseconds.decode and milliseconds.match."""
    answer = _read("fastparquet", ("fastparquet",), written)

    absent = {name for name in LIST_SIZES if name.endswith("_xy_px")} | {"milliseconds"}
    expected = {
        table: [{name: None if name in absent else value for name, value in row.items()} for row in rows]
        for table, rows in EXPECTED.items()
    }
    assert {table: answer[table] for table in EXPECTED} == expected


def test_chdb_has_empty_lists_for_null(written: Path) -> None:
    """docs/tables.md says so: null lists are empty ones, and the parts of a null struct are null."""
    answer = _read("chdb", ("chdb",), written)

    of_null: dict[str, Any] = {**{name: [] for name in LISTS}, "milliseconds": {"decode": None, "match": None}}
    expected = {
        table: [{name: of_null.get(name) if value is None else value for name, value in row.items()} for row in rows]
        for table, rows in EXPECTED.items()
    }
    assert {table: answer[table] for table in EXPECTED} == expected
