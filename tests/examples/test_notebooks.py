"""The notebooks run, cell after cell, on files written by the jobs."""

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pyarrow as pa
import pytest

from pipeline.evaluation.metrics import write_metrics
from schemas.metrics import METRICS

NOTEBOOK = Path(__file__).parents[2] / "examples" / "metrics.ipynb"


def _row(kind: str, group: str, pck: float) -> dict[str, Any]:
    row = {"dataset": "toy", "protocol": "spair", "direction": "source_to_target", "subset": "all", "alpha": 0.1}
    counts = {"n_pairs": 2, "n_points": 4, "n_failed": 0}
    ends = {} if kind == "pair" else {"pck_image_low": pck - 5, "pck_image_high": pck + 5}
    return {**row, **counts, "group_kind": kind, "group": group, "pck_image": pck, "pck_point": pck, **ends}


def test_the_metrics_notebook_runs_and_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [_row("category", "cat", 40.0), _row("category", "dog", 60.0), _row("all", "all", 50.0)]
    rows += [_row("pair", f"p{number}", 10.0 * number) for number in range(12)] + [_row("occlusion", "unknown", 50.0)]
    write_metrics(str(tmp_path / "metrics.parquet"), pa.Table.from_pylist(rows, METRICS))
    monkeypatch.chdir(tmp_path)
    mpl.use("agg")
    cells = [cell for cell in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] for cell in cells)
    names: dict[str, Any] = {}
    shown = []
    for cell in cells:
        *lines, last = "".join(cell["source"]).splitlines()
        block = "\n".join([*lines, last])
        try:
            compile(last, "cell", "eval")
        except SyntaxError:
            exec(block, names)
        else:
            exec("\n".join(lines), names)
            shown.append(eval(last, names))
    tables = [value for value in shown if isinstance(value, pd.DataFrame)]
    (table,) = (found for found in tables if "PCK@0.1" in found)
    (worst,) = (found for found in tables if "group" in found)
    assert table.loc[["cat", "dog", "all"], "PCK@0.1"].tolist() == [40, 60, 50]
    assert worst["group"].tolist() == [f"p{number}" for number in range(10)]
    assert [bar.get_width() for bar in names["axes"].patches] == [40, 60]
    plt.close("all")
