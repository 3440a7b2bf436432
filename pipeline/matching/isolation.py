"""Asking a matcher, which may be anybody's: every request ends with an answer or with the reason why it has none."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from nemf.matcher import ImagePair, Match, Matcher
from pipeline.matching.predictions import InvalidMatchError

_NOTHING = object()


@dataclass(kw_only=True, eq=False)
class MatchRequest:
    """One pair, and what became of it."""

    pair: ImagePair
    columns: dict[str, Any] = field(default_factory=dict)
    """What was made of the answers."""
    error: tuple[str, str] | None = None
    """Why there is no answer, as kind and message; `columns` do not count then."""
    milliseconds: float = 0.0


def match_isolated(
    matcher: Matcher,
    requests: Sequence[MatchRequest],
    columns: Callable[[MatchRequest, Match], dict[str, Any]],
    on_answer: Callable[[], None],
) -> None:
    """Complete the requests.

    columns: what an answer adds to its request's columns; what it raises is the request's error.
    on_answer: called with every answer that came.
    Where the matcher raises, the answers it gave stay and the rest is asked again in halves: a batch that memory does
    not hold is halved until it does, and a pair that cannot be matched ends alone. The same where it answered fewer or
    more pairs than it was asked, but then no answer stays.
    """
    start, n_answered = time.perf_counter(), 0
    try:
        for request, match in zip(requests, _one_each(matcher, requests), strict=True):
            on_answer()
            n_answered += 1
            try:
                request.columns |= columns(request, match)
                request.error = None
            except Exception as error:  # an answer may be anything
                request.error = _described(error)
        return
    except Exception as error:  # a matcher may raise anything
        n_answered = 0 if isinstance(error, InvalidMatchError) else n_answered
        reason = _described(error)
    finally:
        for request in requests:
            request.milliseconds += (time.perf_counter() - start) * 1000 / len(requests)
    if len(requests) == 1:
        requests[0].error = reason
        return
    left = requests[n_answered:]
    middle = (len(left) + 1) // 2
    for half in (left[:middle], left[middle:]):
        if half:
            match_isolated(matcher, half, columns, on_answer)


def _described(error: Exception) -> tuple[str, str]:
    """Kind and message."""
    kind = error.kind if isinstance(error, InvalidMatchError) else type(error).__name__
    return kind, " ".join(str(error).split())[:500]


def _one_each(matcher: Matcher, requests: Sequence[MatchRequest]) -> Iterator[Match]:
    answers = iter(matcher.match_batch([request.pair for request in requests]))
    for number in range(len(requests)):
        match: Any = next(answers, _NOTHING)
        if match is _NOTHING:
            raise InvalidMatchError("bad_answer", f"match_batch answered {number} of {len(requests)} pairs")
        yield match
    if next(answers, _NOTHING) is not _NOTHING:
        raise InvalidMatchError("bad_answer", f"match_batch answered more than the {len(requests)} pairs it was asked")
