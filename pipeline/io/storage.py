"""Files anywhere fsspec reaches: whole-file reads, and atomic writes.

Transient errors of a store are retried (nemf.io.uri.with_retries); all others are OSErrors that name the URI.
"""

import json
import math
import os
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from nemf.io.store_errors import is_beyond_the_end
from nemf.io.uri import open_uri as open_uri
from nemf.io.uri import with_retries


def absolute(uri: str) -> str:
    """`uri` with a path made absolute, so that it is valid in every process. Raises ValueError if it is empty."""
    if not uri:
        raise ValueError("expected a path or URI, got nothing")
    return uri.rstrip("/") if "://" in uri else str(Path(uri).expanduser().absolute())


def refuse_overwrite(out: str, *inputs: str, flag: str = "--out") -> None:
    """Raises ValueError if `out`, which is about to be written, is one of the inputs it is made from; flag: its own."""
    if absolute(out) in map(absolute, inputs):
        raise ValueError(f"{flag} {out} is also an input and would be overwritten; give {flag} another name")


def join(root: str, *names: str) -> str:
    """`root` (path or URI) with path segments added."""
    return "/".join([str(root).rstrip("/") if str(root) != "/" else "", *names])


def resolve(uri: str, root: str | None) -> str:
    """`uri` itself if it is absolute (a scheme or a leading slash), else below `root`."""
    if root is None or "://" in uri or uri.startswith("/"):
        return uri
    return join(root, uri)


def read_bytes(uri: str) -> bytes:
    """All bytes of one file. Raises FileNotFoundError."""

    def read(fs: Any, path: str) -> bytes:
        try:
            return fs.cat_file(path, start=0)  # without a start, s3fs requests the size first
        except Exception as error:
            if is_beyond_the_end(error):
                return b""
            raise

    return with_retries(uri, read)


def read_json(uri: str) -> Any:
    """The content of a JSON file. Raises FileNotFoundError, or ValueError naming the file if it is damaged."""
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        raise ValueError(f"{uri} is damaged, expected JSON: {error}") from error


def write_bytes(uri: str, data: bytes) -> None:
    """Write one file atomically: readers see the old file or the new one, even if a writer is killed.

    On a file system: temporary name beginning with '.', fsync, rename. On object storage one PUT does it.
    """
    fs, _ = open_uri(uri)
    if not isinstance(fs, LocalFileSystem):
        with_retries(uri, lambda fs, path: fs.pipe_file(path, data))
        return
    with atomic_writer(uri) as temporary:
        temporary.write_bytes(data)


@contextmanager
def atomic_writer(uri: str) -> Iterator[Path]:
    """A local path to write a large file to; it becomes `uri`, atomically, when the block ends without an error."""
    fs, path = open_uri(uri)
    if isinstance(fs, LocalFileSystem):
        with _temporary(Path(path)) as temporary:
            yield temporary
            _sync(temporary)
            temporary.replace(path)
        _sync(Path(path).parent)
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, PurePosixPath(path).name)
        yield file
        with_retries(uri, lambda fs, path: fs.put_file(str(file), path), seconds=math.inf)


def write_if_absent(uri: str, data: bytes) -> bool:
    """Write one file atomically unless it exists; True if this call created it."""
    fs, path = open_uri(uri)
    if not isinstance(fs, LocalFileSystem):
        return _create_object(uri, data)
    with _temporary(Path(path)) as temporary:
        temporary.write_bytes(data)
        _sync(temporary)
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without hard links
            return _create_in_place(Path(path), data)
    _sync(Path(path).parent)
    return True


def delete_file(uri: str) -> None:
    """Remove a file; nothing happens if there is none."""
    with suppress(FileNotFoundError):
        with_retries(uri, lambda fs, path: fs.rm_file(path))


def delete(uri: str) -> None:
    """Remove a folder with its content, or a file; nothing happens if there is none.

    Object stores remove many files by one request, and s3fs does not check its result: use delete_file for a file that
    must be gone afterwards.
    """
    with suppress(FileNotFoundError):
        with_retries(uri, lambda fs, path: fs.rm(path, recursive=True), seconds=math.inf)


def remove_temporary_files(uri: str) -> None:
    """Remove temporary files of killed writers directly below folder `uri`. On object storage there are none."""
    fs, path = open_uri(uri)
    if isinstance(fs, LocalFileSystem):
        for file in Path(path).glob(".*.tmp"):
            file.unlink(missing_ok=True)


def list_files(uri: str, suffix: str) -> list[str]:
    """Sorted URIs of the files directly below folder `uri` that end in `suffix`; none if there is no such folder.

    Names beginning with '.' are temporary files and left out.
    """
    return sorted(join(uri, name) for name in file_names(uri) if name.endswith(suffix) and not name.startswith("."))


def file_names(uri: str) -> set[str]:
    """The names of the files directly below folder `uri`, not of its folders; none if there is no such folder."""
    # fsspec does not give the type of a link's target.
    return _names(uri, lambda fs, entry: entry["type"] == "file" or _links_to_file(fs, entry))


def folder_names(uri: str) -> set[str]:
    """The names of the folders directly below folder `uri`; none if there is no such folder."""
    return _names(uri, lambda fs, entry: entry["type"] == "directory")


def _names(uri: str, is_wanted: Callable[[Any, dict[str, Any]], bool]) -> set[str]:
    def names(fs: Any, path: str) -> set[str]:
        entries = (entry for entry in fs.ls(path, detail=True) if is_wanted(fs, entry))
        return {PurePosixPath(entry["name"].rstrip("/")).name for entry in entries}

    try:
        return with_retries(uri, names)
    except (FileNotFoundError, NotADirectoryError):
        return set()


def is_file(uri: str) -> bool:
    """Whether `uri` is a file (and not a folder, and not absent)."""
    return _type(uri) == "file"


def exists(uri: str) -> bool:
    """Whether there is a file or folder at `uri`."""
    return _type(uri) is not None


def _type(uri: str) -> str | None:
    """fsspec's type of `uri`, None if it does not exist. Its isfile and exists are False where a store is down."""
    try:
        return with_retries(uri, lambda fs, path: fs.info(path)["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None


def _links_to_file(fs: Any, entry: dict[str, Any]) -> bool:
    return entry.get("islink", False) and fs.isfile(entry["name"])


def _create_object(uri: str, data: bytes) -> bool:
    if exists(uri):  # some stores with the S3 API ignore the condition of the PUT below
        return False
    try:
        with_retries(uri, lambda fs, path: fs.pipe_file(path, data, mode="create"))
    except OSError:  # FileExistsError from S3 itself, another OSError from other stores
        if not exists(uri):
            raise
        return read_bytes(uri) == data  # a PUT repeated because its reply was lost is refused because of itself
    return True


def _create_in_place(path: Path, data: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return False
    _sync(path)
    return True


@contextmanager
def _temporary(final: Path) -> Iterator[Path]:
    """A temporary file in the folder of `final`; removed when the block ends."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Flush a file's content, or a folder's names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
