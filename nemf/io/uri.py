"""Files anywhere fsspec reaches: what a URI leads to, patience with it, and errors that name it."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import fsspec

from nemf.io.redact import redacted
from nemf.io.retry import retried
from nemf.io.store_errors import CREDENTIALS, CredentialsError, reason

PATIENCE_SECONDS = 60.0
"""Long enough for every try that fails at once; the libraries of some stores spend a minute on each."""

Answer = TypeVar("Answer")


def open_uri(uri: str, *, retries: bool = True) -> tuple[Any, str]:
    """The fsspec file system of `uri` and the path in it. A plain path is local.

    Nothing it lists is remembered: other processes write too. Raises ValueError for a scheme there is nothing for.

    retries: whether S3's libraries ask again by themselves, as they must for files that are read piece by piece.
    """
    once = not retries and fsspec.utils.get_protocol(str(uri)) in ("s3", "s3a")
    options = {"config_kwargs": _botocore_once()} if once else {}
    try:
        fs, path = fsspec.core.url_to_fs(str(uri), use_listings_cache=False, **options)
    except ImportError as error:
        raise ValueError(str(error)) from error
    if once:
        fs.retries = 1
    return fs, path


def patiently(uri: str, ask: Callable[[Any, str], Answer], *, seconds: float = PATIENCE_SECONDS) -> Answer:
    """`ask(file system, path)`, again while what goes wrong may pass (nemf.io.retry); the one place that asks again.

    seconds: no try begins later than this after the first; infinite for what may take long and be well.
    Raises as os_errors and open_uri do.
    """
    fs, path = open_uri(uri, retries=False)
    with os_errors(uri):
        return retried(uri, lambda: ask(fs, path), until=time.monotonic() + seconds)


@contextmanager
def os_errors(uri: str) -> Iterator[None]:
    """Whatever a file system raises in the block is an OSError that names the URI, without secrets.

    It is CredentialsError where a store does not accept who this process says it is.
    """
    try:
        yield
    except Exception as error:
        told = _as_os_error(uri, error)
        if told is error:
            raise
        raise told from (error if redacted(str(error)) == str(error) else None)


def _botocore_once() -> dict[str, Any]:
    configured = fsspec.config.conf.get("s3", {}).get("config_kwargs", {})
    return {"retries": {"total_max_attempts": 1}, **configured}


def _as_os_error(uri: str, error: Exception) -> OSError:
    said = " ".join(str(error).split())
    if reason(error) == CREDENTIALS:
        return credentials_error(uri, error)
    if not isinstance(error, OSError):
        return OSError(redacted(f"{uri}: {type(error).__name__}: {said}"))
    if error.filename or uri in said:
        return error
    kind = type(error) if type(error).__module__ == "builtins" else OSError
    what = "there is no such file" if kind is FileNotFoundError else error.strerror or said or type(error).__name__
    told = kind(redacted(f"{uri}: {what}"))
    told.errno = error.errno
    return told


def credentials_error(uri: str, error: Exception) -> CredentialsError:
    """What to tell of an error that is the credentials' fault."""
    said = " ".join(str(error.__cause__ or error).split())
    return CredentialsError(
        redacted(f"{uri}: {said}: the credentials are missing, wrong or expired; renew them and run the command again")
    )
