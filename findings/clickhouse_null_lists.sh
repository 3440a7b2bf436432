#!/usr/bin/env bash
# Seen 2026-11-29 with chdb 4.4.0 (ClickHouse 26.9.2.1), on a file of pyarrow 26.0.1.
# Expected: ClickHouse has no null arrays, so a null list in Parquet is [] by default; but with
# input_format_null_as_default=0, documented as raising for a null that the type cannot hold, it is an error, as it is for
# a number.
# What happens: with that setting a null number raises and a null list is still [], without an error. "box IS NULL" is
# true for no row, so a query cannot find the nulls, and a type that could hold them, Nullable(Array), is refused.
# Why it matters: null says that nobody annotated a pair, [] that somebody looked and found no keypoint. In ClickHouse the two
# are one, and no setting that we tried tells that a table has such rows.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install -q chdb==4.4.0 pyarrow==26.0.1 || { echo "could not install"; exit 2; }
cd "$folder"
venv/bin/python - <<'PYTHON'
import json
import re
import sys

import chdb
import pyarrow as pa
import pyarrow.parquet as pq

changed = False


def check(what, seen, stated):
    global changed
    print(f"{what}: {seen}")
    if seen != stated:
        changed = True
        print(f"  CHANGED, it was: {stated}")


def ask(what, structure, null_as_default):
    """The rows, or the name of ClickHouse's error."""
    settings = f"input_format_null_as_default={null_as_default}"
    query = f"SELECT {what} FROM file('table.parquet', Parquet{structure}) SETTINGS {settings} FORMAT JSONCompactEachRow"
    try:
        return [json.loads(line) for line in str(chdb.query(query)).splitlines()]
    except RuntimeError as error:
        return re.search(r"Code: (\d+)", str(error)).group(0)


table = {
    "number": pa.array([1, None, 3]),
    "box": pa.array([[1, 2], None, []], pa.list_(pa.float32())),
    "keypoints": pa.array([[[1, 2]], None, []], pa.list_(pa.list_(pa.float32()))),
}
pq.write_table(pa.table(table), "table.parquet")
print("ClickHouse", str(chdb.query("SELECT version()")).strip())
nulls = "code 349 is 'cannot convert NULL'"
check(f"a null number, as an error ({nulls})", ask("number", ", 'number Int64'", 0), "Code: 349")
check("a null list, as an error", ask("box", ", 'box Array(Float32)'", 0), [[[1, 2]], [[]], [[]]])
check("the same of inferred types", ask("box, keypoints", "", 0), [[[1, 2], [[1, 2]]], [[], []], [[], []]])
check("number IS NULL, box IS NULL", ask("number IS NULL, box IS NULL", "", 1), [[0, 0], [1, 0], [0, 0]])
check("Nullable(Array), code 43 is 'illegal type'", ask("box", ", 'box Nullable(Array(Float32))'", 1), "Code: 43")
sys.exit(changed)
PYTHON
