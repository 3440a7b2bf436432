from pathlib import Path

from pipeline.io import storage
from pipeline.runs.lease import acquire
from pipeline.runs.leftovers import sweep


def test_what_the_dead_left_is_gone_and_nothing_else(tmp_path: Path) -> None:
    out = str(tmp_path / "run")
    for _ in range(2):
        lease = acquire(out)
        storage.write_bytes(storage.join(lease.begun_folder, "match-1"), b"{}")
        lease.release()
        storage.write_bytes(storage.join(lease.begun_folder, "match-2"), b"{}")  # by a worker that outlived its driver
    for name in ("parts/.part-1.parquet.0f.tmp", "attempts/.00001.json.0f.tmp", "parts/part-2.parquet", "parts/.keep"):
        storage.write_bytes(storage.join(out, name), b"")

    sweep(out)

    left = {str(file.relative_to(out)) for file in Path(out).rglob("*") if file.is_file()}
    assert {name for name in left if ".events" not in name} == {
        "attempts/00001.json",
        "attempts/00002.json",
        "parts/part-2.parquet",
        "parts/.keep",
    }
