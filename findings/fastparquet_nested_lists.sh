#!/usr/bin/env bash
# Seen 2026-11-29 with fastparquet 2026.9.0 and pandas 3.1.1, on files of pyarrow 26.0.1.
# Expected: a list of lists in Parquet is read, or refused with an error. A list that is written is a list.
# What happens: every value of a list of lists, or of a list of structs, is read as None, without an error or a warning, and
# is not told from a real null. (With data pages of version 2 an UnboundLocalError is raised.) A list of numbers is read right,
# but written as text: other readers get '[1.0,2.0]'.
# Why it matters: keypoints are lists of (x, y). pandas reads with fastparquet where pyarrow is missing, and a table of
# correspondences then looks as if no pair had been annotated; filtered and saved again, its boxes are text.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q fastparquet==2026.9.0 pandas==3.1.1 pyarrow==26.0.1 ||
    { echo "could not install"; exit 2; }
cd "$folder"
venv/bin/python -W ignore - <<'PYTHON'
import sys
import warnings

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

changed = False


def check(what, seen, stated):
    global changed
    print(f"{what}: {seen}")
    if seen != stated:
        changed = True
        print(f"  CHANGED, it was: {stated}")


def rows(column):
    return [None if value is None else [float(number) for number in value] for value in column]


boxes = [[1.0, 2.0], None, []]
table = pa.table(
    {
        "box": pa.array(boxes, pa.list_(pa.float32())),
        "keypoints": pa.array([[[1, 2], [3, 4]], [[5, 6]], None], pa.list_(pa.list_(pa.float32()))),
        "named": pa.array([[{"x": 1, "y": 2}], [], None], pa.list_(pa.struct({"x": pa.float32(), "y": pa.float32()}))),
    }
)
pq.write_table(table, "table.parquet")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    frame = pd.read_parquet("table.parquet", engine="fastparquet")
check("a list of numbers", rows(frame["box"]), boxes)
check("a list of lists", list(frame["keypoints"]), [None, None, None])
check("a list of structs", list(frame["named"]), [None, None, None])
about_data = [str(w.message) for w in caught if not issubclass(w.category, (DeprecationWarning, ResourceWarning))]
check("warnings, but for those of deprecation", about_data, [])
check("pyarrow on the same file", pq.read_table("table.parquet")["keypoints"].to_pylist()[0], [[1, 2], [3, 4]])

pd.DataFrame({"box": [[1.0, 2.0], [3.0, 4.0]]}).to_parquet("written.parquet", engine="fastparquet")
check("lists it wrote, in pyarrow", pq.read_table("written.parquet")["box"].to_pylist(), ["[1.0,2.0]", "[3.0,4.0]"])
sys.exit(changed)
PYTHON
