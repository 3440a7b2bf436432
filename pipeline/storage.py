"""Files anywhere fsspec reaches: whole-file reads and writes that are there entirely or not at all."""

import contextlib
import os
import uuid
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem


def open_uri(uri: str) -> tuple[Any, str]:
    """The fsspec file system of `uri` and the path in it. A plain path is local."""
    fs, path = fsspec.core.url_to_fs(str(uri))
    return fs, path


def join(root: str, *names: str) -> str:
    """`root` (path or URI) with path segments added."""
    return "/".join([str(root).rstrip("/") if str(root) != "/" else "", *names])


def resolve(uri: str, root: str | None) -> str:
    """`uri` itself if it is absolute (a scheme or a leading slash), else below `root`."""
    if root is None or "://" in uri or uri.startswith("/"):
        return uri
    return join(root, uri)


def read_bytes(uri: str) -> bytes:
    """All bytes of one file. FileNotFoundError if it is not there."""
    fs, path = open_uri(uri)
    return fs.cat_file(path)


def write_bytes(uri: str, data: bytes) -> None:
    """Write one file atomically: readers see the old file or the new one, whatever is killed when.

    On a file system: temporary name beginning with '.', fsync, rename. On object storage one PUT does it.
    """
    fs, path = open_uri(uri)
    if not isinstance(fs, LocalFileSystem):
        fs.pipe_file(path, data)
        return
    temporary = _write_temporary(Path(path), data)
    temporary.replace(path)
    _sync_folder(Path(path).parent)


def create_bytes(uri: str, data: bytes) -> bool:
    """Write one file atomically unless it exists already; whether it was this call that created it."""
    fs, path = open_uri(uri)
    if not isinstance(fs, LocalFileSystem):
        try:
            fs.pipe_file(path, data, mode="create")
        except FileExistsError:
            return False
        return True
    temporary = _write_temporary(Path(path), data)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        temporary.unlink()
    _sync_folder(Path(path).parent)
    return True


def delete(uri: str) -> None:
    """Remove a file, or a folder with all it holds; nothing happens if there is none."""
    fs, path = open_uri(uri)
    fs.invalidate_cache()
    with contextlib.suppress(FileNotFoundError):
        fs.rm(path, recursive=True)


def list_files(uri: str, suffix: str) -> list[str]:
    """Sorted URIs of the files directly below folder `uri` that end in `suffix`; none if there is no such folder.

    Names beginning with '.' are unfinished and left out.
    """
    fs, path = open_uri(uri)
    fs.invalidate_cache(path)
    try:
        found = fs.ls(path, detail=False)
    except FileNotFoundError:
        return []
    names = (PurePosixPath(name).name for name in found)
    return sorted(join(uri, name) for name in names if name.endswith(suffix) and not name.startswith("."))


def is_file(uri: str) -> bool:
    """Whether `uri` is a file (and not a folder, and not absent)."""
    fs, path = open_uri(uri)
    return bool(fs.isfile(path))


def exists(uri: str) -> bool:
    """Whether there is a file or folder at `uri`, asked afresh."""
    fs, path = open_uri(uri)
    fs.invalidate_cache(str(PurePosixPath(path).parent))
    return bool(fs.exists(path))


def _write_temporary(final: Path, data: bytes) -> Path:
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
