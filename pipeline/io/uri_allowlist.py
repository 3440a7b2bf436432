"""The allowlist of image URIs: those below a prefix given to the job, even if a manifest is made to evade it.

A prefix is a folder: s3://bucket/a allows s3://bucket/a/1.jpg and neither s3://bucket/ab/1.jpg nor s3://bucket-2/a.
URIs are compared as text, without opening them; of local paths with all links resolved.
"""

import os
import re
from collections.abc import Sequence
from urllib.parse import unquote

from fsspec.core import split_protocol
from fsspec.implementations.local import LocalFileSystem

from nemf.io.uri import unchained_protocol

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_allowed(uri: str, prefixes: Sequence[str]) -> bool:
    """Whether `uri` is below one of the prefixes, or is one."""
    location = _location(uri)
    return location is not None and any(_is_below(location, _location(prefix)) for prefix in prefixes)


def check_prefixes(prefixes: Sequence[str]) -> None:
    """Raises ValueError for a prefix that would allow nothing, or other URIs than its text suggests."""
    for prefix in prefixes:
        if not prefix or _location(prefix) is None:
            raise ValueError(
                f"--allow-prefix {prefix!r}: expected a folder, as a path or a URI, without '::' and, in a URI, "
                "without '..'"
            )


def _location(uri: str) -> tuple[str, str] | None:
    """(scheme, rest of the URI), comparable as text; None for a URI whose target only opening it would show."""
    is_chained = "::" in uri and unchained_protocol(uri) not in ("file", "local")
    if is_chained or _CONTROL.search(uri):  # URL parsers drop control characters
        return None
    scheme, rest = split_protocol(uri)
    if scheme in (None, "file", "local"):
        return "file", os.path.realpath(LocalFileSystem._strip_protocol(uri))
    plain = _decoded(rest)
    return None if {".", ".."} & set(re.split(r"[/\\]", plain)) else (scheme, rest)


def _is_below(location: tuple[str, str], prefix: tuple[str, str] | None) -> bool:
    if prefix is None or location[0] != prefix[0]:
        return False
    folder = prefix[1].rstrip("/")
    return not folder or location[1] == folder or location[1].startswith(f"{folder}/")


def _decoded(text: str) -> str:
    """`text` without percent-encoding, also where that was applied several times."""
    while (decoded := unquote(text)) != text:
        text = decoded
    return text
