"""Downloading files at URIs from untrusted input: bounded in size and in time, by one request where possible.

Object stores and web servers get one GET. On other file systems the type of what a path leads to is checked
first, since reading a device or a pipe may never end and cannot be interrupted.
"""

import time
from typing import Any

from fsspec.asyn import AsyncFileSystem, sync

from nemf.io.retry import retry
from nemf.io.store_errors import is_beyond_the_end
from nemf.io.uri import open_uri
from schemas.failures import FailureError

_BLOCK_BYTES = 2**16


class DownloadError(FailureError):
    """A file that is not read, of kind too_large, not_allowed or unreadable."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__("fetch", kind, message)


def download(uri: str, *, max_bytes: int, seconds: float, redirects: bool = True) -> bytes:
    """All bytes at `uri`, within `seconds` including retries.

    redirects: whether redirections of a web server are followed; where not, they are DownloadErrors (not_allowed).
    Raises DownloadError, or whatever the file system does, which nemf.io.store_errors.reason classifies. A body that
    ends too early is an error, too.
    """
    fs, path = open_uri(uri, retries=False)
    end = time.monotonic() + seconds

    def read() -> bytes:
        if not isinstance(fs, AsyncFileSystem):
            return _read_entry(fs, path, max_bytes)
        get = _get_http(fs, path, max_bytes, redirects) if "http" in fs.protocol else _get_object(fs, path, max_bytes)
        return sync(fs.loop, lambda: get, timeout=max(end - time.monotonic(), 0.001))

    return retry(uri, read, until=end)


def _read_entry(fs: Any, path: str, max_bytes: int) -> bytes:
    info = fs.info(path)
    if info["type"] != "file":
        raise DownloadError("unreadable", f"not a file, but of type {info['type']}")
    if (info["size"] or 0) > max_bytes:
        raise DownloadError("too_large", f"{info['size']} bytes, at most {max_bytes} are read")
    return fs.cat_file(path)


async def _get_object(fs: Any, path: str, max_bytes: int) -> bytes:
    try:
        data = await fs._cat_file(path, start=0, end=max_bytes + 1)
    except Exception as error:
        if is_beyond_the_end(error):
            return b""
        raise
    if len(data) > max_bytes:
        raise DownloadError("too_large", f"more than the {max_bytes} bytes that are read at most")
    return data


async def _get_http(fs: Any, url: str, max_bytes: int, redirects: bool) -> bytes:
    """One GET by aiohttp: fsspec's own holds a body of any size in memory and follows every redirection."""
    session = await fs.set_session()
    options = fs.kwargs if redirects else {**fs.kwargs, "allow_redirects": False}
    async with session.get(fs.encode_url(url), **options) as response:
        status = f"the server said {response.status} {response.reason}"
        if 300 <= response.status < 400:
            raise DownloadError("not_allowed", f"{status}, and no redirection is followed")
        if response.status in (
            401,
            403,
        ):  # unrelated to this process's credentials for stores
            raise PermissionError(status)
        if response.status == 404:
            raise FileNotFoundError(status)
        response.raise_for_status()
        if (response.content_length or 0) > max_bytes:
            raise DownloadError("too_large", f"{response.content_length} bytes, at most {max_bytes} are read")
        blocks, size = [], 0
        async for block in response.content.iter_chunked(_BLOCK_BYTES):
            size += len(block)
            if size > max_bytes:
                raise DownloadError("too_large", f"more than the {max_bytes} bytes that are read at most")
            blocks.append(block)
        return b"".join(blocks)
