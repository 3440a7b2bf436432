"""Removing secrets, such as those in URIs, options and servers' replies, from text for people."""

import os
import re
from collections.abc import Iterator
from typing import Any

import fsspec

HIDDEN = "***"
_SECRET_NAME = re.compile(
    r"(key|key[-_]?id|key-pair-id|secret|token|passw(or)?d|passphrase|pwd|credentials?|connection_string"
    r"|signature|sig|auth|authorization|policy|cookie|jwt|sas)$",
    re.IGNORECASE,
)
_USER = re.compile(r"(?<=://)[^/\s?#]*@")
_ASSIGNED = re.compile(r"(?<![\w.%/-])([\w.%-]+)=([^&;,\s\"'<>]+)")
_AWS_KEY_ID = re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{12,}\b")
_BEARER = re.compile(r"\b(Bearer|Basic) +[\w.~+/=-]{8,}", re.IGNORECASE)
_AWS_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_SHORTEST = 8
"""Minimum length of secrets that are replaced in text; shorter ones may be words."""


def redacted(text: str) -> str:
    """`text` with *** in place of secrets.

    Replaced are user:password@ in URIs, values assigned to a name such as sig, token or X-Amz-Signature, AWS key ids,
    and the secrets that this process itself uses: of its storage options and of the AWS variables.
    """
    for secret in sorted(_own_secrets(), key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    text = _USER.sub(f"{HIDDEN}@", text)
    text = _ASSIGNED.sub(lambda match: f"{match[1]}={HIDDEN}" if names_a_secret(match[1]) else match[0], text)
    return _BEARER.sub(rf"\1 {HIDDEN}", _AWS_KEY_ID.sub(HIDDEN, text))


def names_a_secret(name: str) -> bool:
    """Whether the value of an option or query parameter called `name` is a secret."""
    return bool(_SECRET_NAME.search(name))


def secrets_of(options: Any, name: str = "") -> Iterator[str]:
    """The values in nested `options` (as JSON nests) whose names mark them as secrets."""
    if isinstance(options, dict):
        for key, value in options.items():
            yield from secrets_of(value, name if names_a_secret(name) else str(key))
    elif isinstance(options, list | tuple):
        for value in options:
            yield from secrets_of(value, name)
    elif isinstance(options, str) and names_a_secret(name):
        yield options


def _own_secrets() -> set[str]:
    known = {*secrets_of(fsspec.config.conf), *(os.environ.get(name, "") for name in _AWS_VARIABLES)}
    return {secret for secret in known if len(secret) >= _SHORTEST}
