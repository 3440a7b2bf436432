import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import broken_storage  # noqa: F401
import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from pipeline.io import storage


def test_create_writes_once(tmp_path: Path) -> None:
    file = str(tmp_path / "new" / "run.json")

    assert storage.write_if_absent(file, b"first")
    assert not storage.write_if_absent(file, b"second")

    assert storage.read_bytes(file) == b"first"
    assert [f.name for f in (tmp_path / "new").iterdir()] == ["run.json"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = str(tmp_path / "a")
    storage.write_bytes(file, b"old")
    monkeypatch.setattr("os.fsync", _disk_full)

    with pytest.raises(OSError, match="disk full"):
        storage.write_bytes(file, b"new")

    assert storage.read_bytes(file) == b"old"
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


def _disk_full(_descriptor: int) -> None:
    raise OSError("disk full")


@pytest.fixture(params=["local", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    yield str(tmp_path) if request.param == "local" else "memory://test_storage"
    if request.param == "memory":
        fsspec.filesystem("memory").rm("/test_storage", recursive=True)


def test_a_whole_file_is_there_when_it_is_finished(folder: str) -> None:
    file = storage.join(folder, "new", "pairs.parquet")

    with storage.atomic_writer(file) as path, path.open("wb") as unfinished:
        unfinished.write(b"first")
        assert not storage.exists(file)
        assert storage.list_files(storage.join(folder, "new"), "") == []

    assert storage.read_bytes(file) == b"first"
    assert storage.list_files(storage.join(folder, "new"), "") == [file]


def test_a_whole_file_that_fails_leaves_the_old_one(folder: str) -> None:
    file = storage.join(folder, "pairs.parquet")
    storage.write_bytes(file, b"old")

    with pytest.raises(OSError, match="disk full"), storage.atomic_writer(file) as path:
        _write_half(path)

    assert storage.read_bytes(file) == b"old"
    assert storage.list_files(folder, "") == [file]


def _write_half(path: Path) -> None:
    path.write_bytes(b"ne")
    raise OSError("disk full")


@pytest.fixture
def bucket() -> Iterator[str]:
    memory = fsspec.filesystem("memory")
    memory.mkdir("/test_create")
    yield "memory://test_create"
    memory.rm("/test_create", recursive=True)


def test_create_sees_what_is_there_where_a_store_knows_no_condition(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    overwrite = MemoryFileSystem.pipe_file
    monkeypatch.setattr(MemoryFileSystem, "pipe_file", lambda fs, path, data, mode: overwrite(fs, path, data))
    file = f"{bucket}/run.json"

    assert storage.write_if_absent(file, b"first")
    assert not storage.write_if_absent(file, b"second")
    assert not storage.write_if_absent(file, b"first")

    assert storage.read_bytes(file) == b"first"


def test_create_believes_what_is_there_where_a_store_refuses_in_other_words(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stores that speak S3 answer a failed condition with errors of several kinds."""

    pipe_file = MemoryFileSystem.pipe_file

    def another_was_faster(fs: MemoryFileSystem, path: str, _data: bytes, mode: str) -> None:
        if path.endswith("run.json"):
            pipe_file(fs, path, b"first")
        raise OSError(errno.EINVAL, "At least one of the preconditions did not hold")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", another_was_faster)

    assert not storage.write_if_absent(f"{bucket}/run.json", b"second")
    with pytest.raises(OSError, match="preconditions did not hold"):
        storage.write_if_absent(f"{bucket}/other.json", b"")

    assert storage.read_bytes(f"{bucket}/run.json") == b"first"


@pytest.mark.parametrize(
    "ask",
    [
        storage.read_bytes,
        lambda uri: storage.write_bytes(uri, b""),
        lambda uri: storage.write_if_absent(uri, b""),
        lambda uri: storage.list_files(uri, ""),
        storage.is_file,
        storage.exists,
        storage.delete,
        storage.delete_file,
    ],
)
def test_whatever_a_file_system_raises_is_an_os_error(ask: Callable[[str], object]) -> None:
    with pytest.raises(OSError, match=r"^broken://a: LookupError: the server is on fire$"):
        ask("broken://a")


def test_a_scheme_there_is_nothing_for_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="Protocol not known: nonsense"):
        storage.exists("nonsense://a")
    fsspec.register_implementation("uninstalled", "nowhere.FileSystem", clobber=True, errtxt="Please install nowhere")
    with pytest.raises(ValueError, match="Please install nowhere"):
        storage.exists("uninstalled://a")


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
