from pathlib import Path

import pytest

from pipeline import storage


def test_create_writes_once(tmp_path: Path) -> None:
    file = str(tmp_path / "new" / "run.json")

    assert storage.create_bytes(file, b"first")
    assert not storage.create_bytes(file, b"second")

    assert storage.read_bytes(file) == b"first"
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["run.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(tmp_path / "a")
    storage.write_bytes(file, b"old")
    monkeypatch.setattr("os.fsync", _disk_full)

    with pytest.raises(OSError, match="disk full"):
        storage.write_bytes(file, b"new")

    assert storage.read_bytes(file) == b"old"


def _disk_full(_descriptor: int) -> None:
    raise OSError("disk full")


def test_list_files_leaves_out_unfinished_ones(tmp_path: Path) -> None:
    for name in ("b.json", "a.json", ".c.json", "d.tmp"):
        (tmp_path / name).touch()

    assert storage.list_files(str(tmp_path), ".json") == [str(tmp_path / "a.json"), str(tmp_path / "b.json")]
    assert storage.list_files(str(tmp_path / "absent"), ".json") == []


@pytest.mark.parametrize(
    ("uri", "root", "resolved"),
    [
        ("cat/1.jpg", "/data", "/data/cat/1.jpg"),
        ("cat/1.jpg", "s3://bucket/data/", "s3://bucket/data/cat/1.jpg"),
        ("/abs/1.jpg", "/data", "/abs/1.jpg"),
        ("s3://b/1.jpg", "/data", "s3://b/1.jpg"),
        ("cat/1.jpg", None, "cat/1.jpg"),
    ],
)
def test_resolve(uri: str, root: str | None, resolved: str) -> None:
    assert storage.resolve(uri, root) == resolved
