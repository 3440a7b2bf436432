"""Files anywhere fsspec reaches: opening URIs, retrying operations on them, and errors that name the URI."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import fsspec

from nemf.io.redact import redacted
from nemf.io.retry import retry
from nemf.io.store_errors import CREDENTIALS, CredentialsError, reason

RETRY_SECONDS = 60.0
"""Default seconds for all tries of one operation: enough for all of nemf.io.retry when each fails at once. Libraries of
some stores spend a minute on each try by themselves."""

_WELL_FORMED = re.compile(r"(?:[\w.~:/?#\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*", re.ASCII)
"""Pattern of URLs that need no percent-encoding."""
_UNCHAINED = ("file", "local", "http", "https", "s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")
"""Schemes whose names may contain '::'; with others it chains file systems, as in zip://a.png::s3://bucket/b.zip."""

Result = TypeVar("Result")


def open_uri(uri: str, *, retries: bool = True) -> tuple[Any, str]:
    """The fsspec file system of `uri` and the path in it. A plain path is local.

    Listings are not cached, since other processes write too. Raises ValueError for a scheme that fsspec does not know
    or whose library is not installed.

    retries: whether S3's libraries retry by themselves, as they must for files that are read piece by piece.
    """
    uri = str(uri)
    protocol = unchained_protocol(uri)
    once = not retries and protocol in ("s3", "s3a")
    options: dict[str, Any] = {"use_listings_cache": False}
    if once:
        options["config_kwargs"] = _botocore_once()
    if protocol in ("http", "https") and _WELL_FORMED.fullmatch(uri):
        options["encoded"] = True  # signatures hold for a URL as it was given
    try:
        if protocol is not None and "::" in uri:
            options |= fsspec.get_filesystem_class(protocol)._get_kwargs_from_urls(uri)
            fs = fsspec.filesystem(protocol, **options)
            path = fs._strip_protocol(uri)
        else:
            fs, path = fsspec.core.url_to_fs(uri, **options)
    except ImportError as error:
        raise ValueError(str(error)) from error
    if once:
        fs.retries = 1
    return fs, path


def unchained_protocol(uri: str) -> str | None:
    """The scheme of a URI, file for a path; None where fsspec is to open it by its own rules, such as chained URIs."""
    first = re.split("://|::", uri, maxsplit=1)[0]
    if first == uri or first not in fsspec.available_protocols():
        return "file"
    return first if uri.startswith(f"{first}://") and first in _UNCHAINED else None


def with_retries(uri: str, operation: Callable[[Any, str], Result], *, seconds: float = RETRY_SECONDS) -> Result:
    """The result of `operation(file system, path)`, retried after transient errors (nemf.io.retry).

    seconds: no try begins later than this after the first; infinite for operations on large files or folders.
    Raises as os_errors and open_uri do.
    """
    fs, path = open_uri(uri, retries=False)
    with os_errors(uri):
        return retry(uri, lambda: operation(fs, path), until=time.monotonic() + seconds)


@contextmanager
def os_errors(uri: str) -> Iterator[None]:
    """Turn any exception of a file system in the block into an OSError that names the URI, without secrets.

    It is a CredentialsError where a store rejects the credentials of this process.
    """
    try:
        yield
    except Exception as error:
        os_error = _as_os_error(uri, error)
        if os_error is error:
            raise
        raise os_error from (error if redacted(str(error)) == str(error) else None)


def _botocore_once() -> dict[str, Any]:
    configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    return {"retries": {"total_max_attempts": 1}, **configured}


def _as_os_error(uri: str, error: Exception) -> OSError:
    message = " ".join(str(error).split())
    if reason(error) == CREDENTIALS:
        return credentials_error(uri, error)
    if not isinstance(error, OSError):
        return OSError(redacted(f"{uri}: {type(error).__name__}: {message}"))
    if error.filename or uri in message:
        return error
    kind = type(error) if type(error).__module__ == "builtins" else OSError
    detail = "there is no such file" if kind is FileNotFoundError else error.strerror or message or type(error).__name__
    os_error = kind(redacted(f"{uri}: {detail}"))
    os_error.errno = error.errno
    return os_error


def credentials_error(uri: str, error: Exception) -> CredentialsError:
    """The error to raise if a store rejected the credentials with `error`; its text gives the remedy."""
    message = " ".join(str(error.__cause__ or error).split())
    return CredentialsError(
        redacted(
            f"{uri}: {message}: the credentials are missing, wrong or expired; renew them and run the command again"
        )
    )
