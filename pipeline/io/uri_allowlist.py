"""Which image URIs may be opened: those below a prefix that the job was given, whatever a manifest's author tries.

A prefix is a folder: s3://bucket/a allows s3://bucket/a/1.jpg and neither s3://bucket/ab/1.jpg nor s3://bucket-2/a.
Nothing is opened, and no network is asked, to tell. Of local paths it is what links lead to that counts.
"""

import os
import re
from collections.abc import Sequence
from urllib.parse import unquote

from fsspec.core import split_protocol
from fsspec.implementations.local import LocalFileSystem

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_allowed(uri: str, prefixes: Sequence[str]) -> bool:
    """Whether `uri` is below one of the prefixes, or is one."""
    place = _place(uri)
    return place is not None and any(_is_below(place, _place(prefix)) for prefix in prefixes)


def check_prefixes(prefixes: Sequence[str]) -> None:
    """Raises ValueError for a prefix that could allow nothing, or not what it seems to."""
    for prefix in prefixes:
        if not prefix or _place(prefix) is None:
            raise ValueError(
                f"--allow-prefix {prefix!r}: expected a folder, as a path or a URI, without '::' and, in a URI, "
                "without '..'"
            )


def _place(uri: str) -> tuple[str, str] | None:
    """(scheme, what follows it), comparable as text; None for what is told only by opening it."""
    if "::" in uri or _CONTROL.search(uri):  # chained URLs; characters that parsers of URLs drop
        return None
    scheme, rest = split_protocol(uri)
    if scheme in (None, "file", "local"):
        return "file", os.path.realpath(LocalFileSystem._strip_protocol(uri))
    plain = _decoded(rest)
    return None if {".", ".."} & set(re.split(r"[/\\]", plain)) else (scheme, rest)


def _is_below(place: tuple[str, str], prefix: tuple[str, str] | None) -> bool:
    if prefix is None or place[0] != prefix[0]:
        return False
    folder = prefix[1].rstrip("/")
    return not folder or place[1] == folder or place[1].startswith(f"{folder}/")


def _decoded(text: str) -> str:
    """Percent-encoding undone, however often it was done."""
    while (decoded := unquote(text)) != text:
        text = decoded
    return text
