from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.datasets.common.overlap import image_hashes, training_hashes


def test_files_folders_and_tables_are_one_set(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "one.JPG").write_bytes(b"1")
    (tmp_path / "two.png").write_bytes(b"2")
    (tmp_path / "a" / "notes.txt").write_bytes(b"3")
    pq.write_table(pa.table({"jpeg": [b"4", None], "key": ["x", "y"]}), tmp_path / "a" / "t.parquet")
    found = image_hashes(str(tmp_path / name) for name in ("a/b/one.JPG", "two.png", "a/notes.txt", "absent.jpg"))
    (tmp_path / "four").write_bytes(b"4")
    four = image_hashes([str(tmp_path / "four")])[str(tmp_path / "four")]

    one, two, notes, absent = (
        found[str(tmp_path / name)] for name in ("a/b/one.JPG", "two.png", "a/notes.txt", "absent.jpg")
    )
    assert absent is None
    assert training_hashes([str(tmp_path / "a"), str(tmp_path / "two.png")]) == {one, two, four}
    assert notes not in training_hashes([str(tmp_path / "a")])


def test_a_source_without_an_image_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"--training-images: .* has no image"):
        training_hashes([str(tmp_path)])
