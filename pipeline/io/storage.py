"""Files anywhere fsspec reaches: whole-file reads and writes that are there entirely or not at all.

Faults of a store that may pass are waited out (nemf.io.uri.with_retries); all others are OSErrors that name the URI.
"""

import json
import math
import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from fsspec.implementations.local import LocalFileSystem

from nemf.io.store_errors import is_beyond_the_end
from nemf.io.uri import open_uri as open_uri
from nemf.io.uri import with_retries


def absolute(uri: str) -> str:
    """`uri` so that it means the same in every process: a path becomes absolute. Raises ValueError if it is empty."""
    if not uri:
        raise ValueError("expected a path or URI, got nothing")
    return uri.rstrip("/") if "://" in uri else str(Path(uri).expanduser().absolute())


def refuse_overwrite(out: str, *inputs: str) -> None:
    """Raises ValueError if `out`, which is about to be written, is one of the inputs it is made from."""
    if absolute(out) in map(absolute, inputs):
        raise ValueError(f"--out {out} is also an input and would be overwritten; give --out another name")


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

    def read(fs: Any, path: str) -> bytes:
        try:
            return fs.cat_file(path, start=0)  # without a start, s3fs asks for the size first
        except Exception as error:
            if is_beyond_the_end(error):
                return b""
            raise

    return with_retries(uri, read)


def read_json(uri: str) -> Any:
    """What a JSON file says. Raises FileNotFoundError, or ValueError naming the file if it is damaged."""
    try:
        return json.loads(read_bytes(uri))
    except ValueError as error:
        raise ValueError(f"{uri} is damaged, expected JSON: {error}") from error


def write_bytes(uri: str, data: bytes) -> None:
    """Write one file atomically: readers see the old file or the new one, whatever is killed when.

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
    """Write one file atomically unless it exists already; whether it was this call that created it."""
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
    """Remove a folder with all it holds, or a file; nothing happens if there is none.

    Object stores remove many files by one request, and s3fs does not look whether it did: what must be known to be gone
    is removed by delete_file.
    """
    with suppress(FileNotFoundError):
        with_retries(uri, lambda fs, path: fs.rm(path, recursive=True), seconds=math.inf)


def remove_temporary_files(uri: str) -> None:
    """Remove what killed writers left directly below folder `uri`. On object storage nothing is there unfinished."""
    fs, path = open_uri(uri)
    if isinstance(fs, LocalFileSystem):
        for file in Path(path).glob(".*.tmp"):
            file.unlink(missing_ok=True)


def list_files(uri: str, suffix: str) -> list[str]:
    """Sorted URIs of the files directly below folder `uri` that end in `suffix`; none if there is no such folder.

    Names beginning with '.' are unfinished and left out.
    """
    return sorted(join(uri, name) for name in file_names(uri) if name.endswith(suffix) and not name.startswith("."))


def file_names(uri: str) -> set[str]:
    """The names of the files directly below folder `uri`, not of its folders; none if there is no such folder."""

    def names(fs: Any, path: str) -> set[str]:
        found = fs.ls(path, detail=True)
        # fsspec does not say what a link leads to.
        files = (entry for entry in found if entry["type"] == "file" or _links_to_file(fs, entry))
        return {PurePosixPath(entry["name"]).name for entry in files}

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
    """What fsspec says there is at `uri`, None for nothing. Its own isfile and exists say no when the store is down."""
    try:
        return with_retries(uri, lambda fs, path: fs.info(path)["type"])
    except (FileNotFoundError, NotADirectoryError):
        return None


def _links_to_file(fs: Any, entry: dict[str, Any]) -> bool:
    return entry.get("islink", False) and fs.isfile(entry["name"])


def _create_object(uri: str, data: bytes) -> bool:
    if exists(uri):  # some stores that speak S3 pass over the condition of the PUT below
        return False
    try:
        with_retries(uri, lambda fs, path: fs.pipe_file(path, data, mode="create"))
    except OSError:  # FileExistsError from S3 itself; other stores say it in other words
        if not exists(uri):
            raise
        return read_bytes(uri) == data  # a PUT that was repeated since its reply got lost is refused by itself
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
    """A name beside `final` for a file that is not finished; gone when the block ends."""
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f".{final.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Have the disk hold a file's content, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
