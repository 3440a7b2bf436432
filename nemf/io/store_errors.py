"""Classification of errors of any file system's library: the reason, in one of a few words.

Each file system has exceptions of its own, and their libraries need not be installed: an error is known by the reply
it carries (HTTP status, error code), then by the name of its class.
"""

import socket
from collections.abc import Iterator
from typing import Any

TIMEOUT = "timeout"
UNAVAILABLE = "unavailable"
TRUNCATED = "truncated"
CREDENTIALS = "credentials"
PERMISSION_DENIED = "permission_denied"
NOT_FOUND = "not_found"
BAD_URI = "bad_uri"
UNREADABLE = "unreadable"

TRANSIENT = frozenset({TIMEOUT, UNAVAILABLE, TRUNCATED})
"""Reasons of transient errors: the next try may succeed."""

_OF_CODE = {
    **dict.fromkeys(
        (
            "400",  # the reply to HEAD has no body to distinguish an expired token from other mistakes
            "AuthenticationFailed",
            "ExpiredToken",
            "ExpiredTokenException",
            "InvalidAccessKeyId",
            "InvalidToken",
            "RequestTimeTooSkewed",
            "SignatureDoesNotMatch",
            "TokenRefreshRequired",
        ),
        CREDENTIALS,
    ),
    **dict.fromkeys(
        ("ConditionalRequestConflict", "InternalError", "OperationAborted", "SlowDown", "Throttling"), UNAVAILABLE
    ),
    "RequestTimeout": TIMEOUT,
}
_OF_STATUS = {401: CREDENTIALS, 403: PERMISSION_DENIED, 404: NOT_FOUND, 410: NOT_FOUND, 408: TIMEOUT, 429: UNAVAILABLE}
_OF_CLASS = {
    "ClientPayloadError": TRUNCATED,
    "IncompleteRead": TRUNCATED,
    "IncompleteReadError": TRUNCATED,
    "ResponseStreamingError": TRUNCATED,
    "ConnectTimeoutError": TIMEOUT,
    "ReadTimeoutError": TIMEOUT,
    "TimeoutError": TIMEOUT,
    "ClientConnectionError": UNAVAILABLE,
    "ConnectionError": UNAVAILABLE,
    "HTTPClientError": UNAVAILABLE,
    "ResponseParserError": UNAVAILABLE,
    socket.gaierror.__name__: UNAVAILABLE,
    "ClientAuthenticationError": CREDENTIALS,
    "CredentialRetrievalError": CREDENTIALS,
    "DefaultCredentialsError": CREDENTIALS,
    "NoCredentialsError": CREDENTIALS,
    "PartialCredentialsError": CREDENTIALS,
    "RefreshError": CREDENTIALS,
    "TokenRetrievalError": CREDENTIALS,
    "UnauthorizedSSOTokenError": CREDENTIALS,
    "ParamValidationError": BAD_URI,
    "FileNotFoundError": NOT_FOUND,
    "PermissionError": PERMISSION_DENIED,
    "ValueError": BAD_URI,
}


class CredentialsError(PermissionError):
    """A store rejects the credentials of this process: no other file of it can be read either."""


def reason(error: BaseException) -> str:
    """The reason of `error`: one of the constants above; UNREADABLE if it is not known."""
    chain = list(_causes(error))
    for each in chain:
        code, status = reply(each)
        if code in _OF_CODE:
            return _OF_CODE[code]
        if status in _OF_STATUS:
            return _OF_STATUS[status]
        if status is not None and status >= 500 and status != 501:  # 501: not implemented, now or later
            return UNAVAILABLE
    for each in chain:
        for kind in type(each).__mro__:
            if kind.__name__ in _OF_CLASS:
                return _OF_CLASS[kind.__name__]
    return UNREADABLE


def reply(error: BaseException) -> tuple[str | None, int | None]:
    """(error code, HTTP status) of the reply that an error carries; None for each it does not have."""
    response: Any = getattr(error, "response", None)
    if isinstance(response, dict):  # botocore
        return response.get("Error", {}).get("Code"), response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    values = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    return getattr(error, "error_code", None), next((value for value in values if type(value) is int), None)


def is_beyond_the_end(error: BaseException) -> bool:
    """Whether the requested range begins beyond the end of the file, as any GET from byte 0 of an empty one does."""
    return any(reply(each)[1] == 416 for each in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, its cause, the cause of that, and so on."""
    while error is not None:
        yield error
        error = error.__cause__
