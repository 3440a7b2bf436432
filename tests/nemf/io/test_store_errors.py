"""Errors of libraries that are not installed are classified by their attributes and class names."""

import socket

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, IncompleteReadError, NoCredentialsError

from nemf.io.store_errors import is_beyond_the_end, reason


class HttpError(Exception):
    """An HTTP error with gcsfs's attributes."""

    def __init__(self, code: int) -> None:
        self.code = code


class HttpResponseError(Exception):
    """An HTTP error with the attributes of Azure's library."""

    def __init__(self, status_code: int, error_code: str) -> None:
        self.status_code, self.error_code = status_code, error_code


class RefreshError(Exception):
    """An error with the name that google-auth uses."""


def _client_error(status: int, code: str) -> ClientError:
    reply = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(reply, "GetObject")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (_client_error(503, "SlowDown"), "unavailable"),
        (_client_error(500, "Whatever"), "unavailable"),
        (_client_error(501, "NotImplemented"), "unreadable"),
        (_client_error(409, "ConditionalRequestConflict"), "unavailable"),
        (_client_error(400, "ExpiredToken"), "credentials"),
        (_client_error(403, "InvalidAccessKeyId"), "credentials"),
        (_client_error(400, "400"), "credentials"),
        (_client_error(400, "InvalidRequest"), "unreadable"),
        (_client_error(403, "AccessDenied"), "permission_denied"),
        (_client_error(404, "NoSuchKey"), "not_found"),
        (NoCredentialsError(), "credentials"),
        (EndpointConnectionError(endpoint_url="http://a"), "unavailable"),
        (IncompleteReadError(actual_bytes=1, expected_bytes=2), "truncated"),
        (HttpError(429), "unavailable"),
        (HttpError(401), "credentials"),
        (HttpResponseError(403, "AuthenticationFailed"), "credentials"),
        (HttpResponseError(403, "AuthorizationPermissionMismatch"), "permission_denied"),
        (RefreshError(), "credentials"),
        (socket.gaierror(), "unavailable"),
        (BrokenPipeError(), "unavailable"),
        (TimeoutError(), "timeout"),
        (PermissionError(), "permission_denied"),
        (UnicodeError(), "bad_uri"),
        (OSError("disk full"), "unreadable"),
        (LookupError(), "unreadable"),
    ],
    ids=repr,
)
def test_an_error_has_a_reason(error: Exception, kind: str) -> None:
    assert reason(error) == kind


def test_what_an_error_was_raised_from_counts() -> None:
    error = FileNotFoundError("http://host/a")
    error.__cause__ = HttpError(503)

    assert reason(error) == "unavailable"
    assert not is_beyond_the_end(error)
    error.__cause__ = HttpError(416)
    assert is_beyond_the_end(error)
