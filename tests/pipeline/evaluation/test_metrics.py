from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.evaluation import evaluate
from pipeline.evaluation.metrics import load_metrics, per_category, read_metrics, write_metrics
from schemas.check import SchemaError
from schemas.metrics import METRICS
from schemas.pairs import PAIRS

CHOSEN = {"dataset": "toy", "protocol": "spair", "direction": "source_to_target"}


def _row(kind: str, group: str, n_pairs: int, pck: tuple[float, float], alpha: float, **more: Any) -> dict[str, Any]:
    counts = {"n_pairs": n_pairs, "n_points": 4 * n_pairs, "n_failed": 0}
    row = {**CHOSEN, "subset": "all", "alpha": alpha, "group_kind": kind, "group": group, **counts}
    return {**row, "pck_image": pck[0], "pck_point": pck[1], **more}


def test_what_is_no_metrics_file_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=f"^there is no METRICS file {tmp_path}/metrics.parquet$"):
        read_metrics(f"{tmp_path}/metrics.parquet")
    pq.write_table(PAIRS.empty_table(), tmp_path / "pairs.parquet")
    with pytest.raises(SchemaError, match=r"pairs\.parquet is a PAIRS table, expected METRICS$"):
        read_metrics(f"{tmp_path}/pairs.parquet")


def _metrics() -> pa.Table:
    rows = [
        _row(kind, group, n_pairs, (image + 100 * alpha, point + 100 * alpha), alpha)
        for alpha in (0.1, 0.05)
        for kind, group, n_pairs, image, point in (
            ("category", "cat", 2, 30, 50),
            ("category", "wolf", 0, 0, 0),
            ("pair", "p1", 1, 99, 99),
            ("all", "all", 2, 35, 55),
        )
    ]
    rows += [
        _row("all", "all", 7, (1, 2), 0.1, **other)
        for other in (
            {"dataset": "x"},
            {"protocol": "nemf"},
            {"direction": "target_to_source"},
            {"subset": "leak_free"},
        )
    ]
    return pa.Table.from_pylist(rows, METRICS).replace_schema_metadata({**METRICS.metadata, b"fingerprint": b"f"})


def test_metrics_are_written_and_read_back_with_what_they_are_of(tmp_path: Path):
    file = str(tmp_path / "metrics.parquet")
    write_metrics(file, _metrics())
    assert read_metrics(file).equals(_metrics())
    assert read_metrics(file).schema.metadata[b"fingerprint"] == b"f"
    assert load_metrics(file).equals(pd.read_parquet(file))


def test_another_table_is_refused(tmp_path: Path):
    write_metrics(str(tmp_path / "m.parquet"), _metrics().drop_columns(["n_pairs"]))
    with pytest.raises(SchemaError, match=r"m\.parquet is not a METRICS table: column n_pairs is missing"):
        read_metrics(str(tmp_path / "m.parquet"))


def test_the_per_category_table_has_a_row_per_category_and_one_for_all():
    table = per_category(_metrics().to_pandas(), **CHOSEN)
    assert list(table.columns) == ["pairs", "keypoints", "failed", "PCK@0.05", "PCK@0.1"]
    assert list(table.index) == ["cat", "wolf", "all"]
    assert table.loc["cat"].tolist() == [2, 8, 0, 35.0, 40.0]
    assert table.loc["all"].tolist() == [2, 8, 0, 40.0, 45.0]
    assert table.loc["wolf", ["PCK@0.05", "PCK@0.1"]].isna().all()  # nothing to average over
    by_point = per_category(_metrics().to_pandas(), **CHOSEN, average="point")
    assert by_point.loc["cat", ["PCK@0.05", "PCK@0.1"]].tolist() == [55.0, 60.0]


def test_both_views_are_found_in_evaluate_too():
    assert evaluate.load_metrics is load_metrics
    assert evaluate.per_category is per_category
