import fcntl
from pathlib import Path

import pytest

from pipeline.pseudo_labels.exports.folder import check_new_folder, new_folder


def test_the_folder_is_there_when_it_is_complete(tmp_path):
    out = tmp_path / "a" / "out"
    with new_folder(str(out)) as folder:
        (folder / "file").write_text("content")
        assert not out.exists()
    assert [file.name for file in out.iterdir()] == ["file"]
    assert [file.name for file in out.parent.iterdir()] == ["out"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "out").mkdir()
    with new_folder(str(tmp_path / "out")) as folder:
        (folder / "file").touch()
    assert (tmp_path / "out" / "file").exists()


def test_an_interrupted_export_is_not_there_and_can_be_run_again(tmp_path):
    out = tmp_path / "out"

    def interrupted() -> None:
        with new_folder(str(out)) as folder:
            (folder / "part").mkdir()
            (folder / "part" / "left").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not out.exists()

    with new_folder(str(out)) as folder:
        assert [file.name for file in folder.iterdir()] == [".lock"]
    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "out", "message"),
    [
        (lambda path: (path / "out").mkdir() or (path / "out" / "x").touch(), "out", "the folder .*out is not empty"),
        (lambda path: (path / "out").touch(), "out", "is a file: give the export a folder that is new or empty"),
    ],
)
def test_what_is_there_is_not_touched(tmp_path: Path, make, out, message):
    make(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message), new_folder(str(tmp_path / out)):
        pass
    assert sorted(tmp_path.rglob("*")) == before


def test_a_uri_is_refused():
    with pytest.raises(ValueError, match="exports are written to a folder of this machine"):
        check_new_folder("s3://bucket/out")


def test_two_exports_at_once_are_refused(tmp_path):
    unfinished = tmp_path / ".out.unfinished"
    unfinished.mkdir()
    (unfinished / "of the other").touch()
    with (unfinished / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is writing"), new_folder(str(tmp_path / "out")):
            pass
    assert (unfinished / "of the other").exists()
