#!/usr/bin/env bash
# Seen 2026-11-29 with pyarrow 24.0.0, 25.0.1 and 26.0.1.
# Expected: a column of lists of a fixed size, one of them null, is read from Parquet by the pyarrow that wrote it, and by
# those before it or not written at all.
# What happens: 24 refuses to write such a column (ArrowNotImplementedError). 25.0.1 writes it and then cannot read its own
# file (ArrowInvalid: "... index 2 had size=0"), and neither can 24. 26.0.1 reads all of them. The data are sound: a file
# written without the Arrow schema (store_schema=False), whose lists are then plain ones, is read by every version.
# Why it matters: boxes (4 numbers) and points (2 numbers) are lists of a fixed size, and an image without a box has null.
# One row like that makes the whole table unreadable for whoever has pyarrow 25 or older; plain lists are safe.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
for version in 24.0.0 25.0.1 26.0.1; do
    python3 -m venv "$folder/$version"
    "$folder/$version/bin/python" -m pip install -q pyarrow=="$version" || { echo "could not install"; exit 2; }
done

cat > "$folder/write.py" <<'PYTHON'
import sys

import pyarrow as pa
import pyarrow.parquet as pq

boxes = pa.array([[1, 2, 3, 4], None, [5, 6, 7, 8]], pa.list_(pa.float32(), 4))
try:
    pq.write_table(pa.table({"box": boxes}), sys.argv[1], store_schema=sys.argv[2] == "fixed")
    print("written")
except pa.ArrowNotImplementedError:
    print("refused")
PYTHON
cat > "$folder/read.py" <<'PYTHON'
import sys

import pyarrow as pa
import pyarrow.parquet as pq

try:
    values = pq.read_table(sys.argv[1])["box"].to_pylist()
    print("right" if values == [[1, 2, 3, 4], None, [5, 6, 7, 8]] else f"wrong: {values}")
except pa.ArrowInvalid as error:
    print(f"ArrowInvalid: {error}", file=sys.stderr)
    print("unreadable")
PYTHON

changed=0
check() { # WHAT SEEN STATED
    echo "$1: $2"
    [ "$2" = "$3" ] || { echo "  CHANGED, it was: $3"; changed=1; }
}
write() { "$folder/$1/bin/python" "$folder/write.py" "$folder/$2.parquet" "$3"; }
read_() { "$folder/$1/bin/python" "$folder/read.py" "$folder/$2.parquet"; }

check "24.0.0 writes a null among lists of a fixed size" "$(write 24.0.0 by24 fixed)" refused
for writer in 25 26; do
    version=$([ $writer = 25 ] && echo 25.0.1 || echo 26.0.1)
    check "$version writes it" "$(write "$version" by$writer fixed)" written
    check "24.0.0 reads what $version wrote" "$(read_ 24.0.0 by$writer)" unreadable
    check "25.0.1 reads what $version wrote" "$(read_ 25.0.1 by$writer)" unreadable
    check "26.0.1 reads what $version wrote" "$(read_ 26.0.1 by$writer)" right
done
check "26.0.1 writes it without the Arrow schema" "$(write 26.0.1 plain plain)" written
for version in 24.0.0 25.0.1 26.0.1; do
    check "$version reads that" "$(read_ $version plain)" right
done
exit $changed
