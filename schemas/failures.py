"""Failures: why a pair has no prediction. The error columns of MATCHES hold one: stage, kind, message.

A stage is the step that failed, a kind the reason in one of a few words, the message one line for people.
"""

from typing import NamedTuple

import pyarrow as pa

ERROR_KINDS: dict[str, tuple[str, ...]] = {
    "manifest": ("bad_keypoints", "too_many_keypoints", "bad_box", "no_box", "too_many_points"),
    "fetch": (
        "not_found",
        "permission_denied",
        "bad_uri",
        "not_allowed",  # by --allow-prefix
        "too_large",
        "no_image",
        "unreadable",
        *("timeout", "unavailable", "truncated"),  # after several tries
    ),
    "decode": ("empty_file", "not_an_image", "truncated", "corrupt", "too_large", "unsupported_mode"),
    "match": ("not_finite", "bad_answer"),  # or the name of the exception that the matcher raised
    "worker": ("died", "timeout"),  # the pair killed the process that worked on it, more than once, or hung it
}
"""The kinds of failure at each stage, in the order of the stages."""

ERROR_STAGES = tuple(ERROR_KINDS)

FAILURE = pa.struct([("stage", pa.string()), ("kind", pa.string()), ("message", pa.string())])
"""The Arrow type of a Failure."""


class Failure(NamedTuple):
    """Why there is no prediction for a pair."""

    stage: str
    """One of ERROR_STAGES."""
    kind: str
    """One of the stage's ERROR_KINDS; at stage match also the name of an exception."""
    message: str


class FailureError(ValueError):
    """An exception that carries a Failure; its text is the message."""

    def __init__(self, stage: str, kind: str, message: str) -> None:
        super().__init__(stage, kind, message)
        self.failure = Failure(stage, kind, message)

    def __str__(self) -> str:
        return self.failure.message
