"""Files anywhere fsspec reaches: what a URI leads to, and errors that name it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import fsspec


def open_uri(uri: str) -> tuple[Any, str]:
    """The fsspec file system of `uri` and the path in it. A plain path is local.

    Nothing it lists is remembered: other processes write too. Raises ValueError for a scheme there is nothing for.
    """
    try:
        fs, path = fsspec.core.url_to_fs(str(uri), use_listings_cache=False)
    except ImportError as error:
        raise ValueError(str(error)) from error
    return fs, path


@contextmanager
def os_errors(uri: str) -> Iterator[None]:
    """Every file system has exceptions of its own for a server that is not there or says no; here they are OSError."""
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        raise OSError(f"{uri}: {type(error).__name__}: {' '.join(str(error).split())}") from error
