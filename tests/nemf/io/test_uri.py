import itertools
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from nemf.io import uri


def test_a_store_whose_library_waits_by_itself_is_not_asked_seven_times(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = itertools.count(start=0.0, step=uri.RETRY_SECONDS / 2)  # what a try takes
    clock = SimpleNamespace(monotonic=lambda: next(ticks), sleep=lambda _seconds: None)
    monkeypatch.setattr(uri, "time", clock)
    monkeypatch.setattr("nemf.io.retry.time", clock)
    calls = []

    def operation(_fs: object, path: str) -> None:
        calls.append(path)
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError, match="memory://there"):
        uri.with_retries("memory://there", operation)

    assert len(calls) == 2


@pytest.mark.parametrize("name", ["scan::0.png", "a::b::c.png", "zip::0.png", "::.png", "s3::x"])
def test_a_file_name_may_contain_two_colons(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"content")

    for location in (str(tmp_path / name), f"file://{tmp_path}/{name}"):
        fs, path = uri.open_uri(location)
        assert fs.cat_file(path) == b"content"


def test_a_relative_file_name_may_contain_two_colons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("scan::0.png", "img/scan::0.png"):
        _, path = uri.open_uri(name)
        assert path == f"{tmp_path}/{name}"


def test_file_systems_are_chained_as_before(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a.png", b"content")

    for location in (f"zip://a.png::{tmp_path}/a.zip", f"zip://a.png::file://{tmp_path}/a.zip"):
        fs, path = uri.open_uri(location)
        assert fs.cat_file(path) == b"content"
    fs, path = uri.open_uri(f"simplecache::file://{tmp_path}/a.zip")
    assert fs.cat_file(path).startswith(b"PK")
